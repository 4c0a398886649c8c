package image

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/rootfs"
)

// Artefact is one of the files that an image consists of.
type Artefact struct {
	Role   string `json:"role"`   // of the partition that holds it, or "uki" for the file on the ESP
	Path   string `json:"-"`      // where it was while the image was built
	Bytes  int64  `json:"bytes"`  // apparent size; the partition may be larger
	SHA256 string `json:"sha256"` // in hex
}

// roleUKI is the role of the unified kernel image, which is not a partition.
const roleUKI = "uki"

// fileSystems are the files that the partitions of an image hold.
type fileSystems struct {
	paths map[layout.Role]string
	uki   string
	root  *verity
}

// verity is the dm-verity hash tree of a root file system.
type verity struct {
	path     string
	rootHash string // in hex
	// UUIDs of the two partitions, by which the initrd finds them.
	rootID, verityID string
}

// makeFileSystems makes one file after the other, because the kernel command
// line in the UKI carries the root hash: root file system, hash tree, UKI, ESP.
func (b *build) makeFileSystems(ctx context.Context, p *plan, t *trees) (*fileSystems, error) {
	disk := p.image.Disk
	tools := func(log io.Writer) tools {
		return tools{executor: b.Executor, tree: t.tools, arch: p.arch, work: b.work, epoch: b.Epoch, log: log}
	}

	root, err := stage(b, "root file system", func(log io.Writer) (string, string, error) {
		path := b.file("root.erofs")
		err := tools(log).makeErofs(ctx, t.host.Root, path, disk.Compression, p.id("root fs"))
		return path, sizeNote(path), err
	})
	if err != nil {
		return nil, err
	}

	tree, err := stage(b, "verity", func(log io.Writer) (*verity, string, error) {
		path := b.file("root.verity")
		rootHash, err := tools(log).makeVerity(ctx, root, path, p.id("verity"))
		if err != nil {
			return nil, "", err
		}
		rootID, verityID, err := verityPartitionIDs(rootHash)
		return &verity{path, rootHash, rootID, verityID}, "root hash " + rootHash[:16] + "...", err
	})
	if err != nil {
		return nil, err
	}

	uki, err := stage(b, "UKI", func(log io.Writer) (string, string, error) {
		path := b.file("uki.efi")
		return path, "", tools(log).makeUKI(ctx, t.host, kernelCommandLine(tree.rootHash, disk.KernelArguments), path)
	})
	if err != nil {
		return nil, err
	}

	esp, err := stage(b, "ESP", func(log io.Writer) (string, string, error) {
		path := b.file("esp.vfat")
		return path, "", tools(log).makeESP(ctx, uki, p.image.Version, path, p.volumeID("esp fs"), disk.ESP)
	})
	if err != nil {
		return nil, err
	}

	varFS, err := stage(b, "var file system", func(log io.Writer) (string, string, error) {
		path := b.file("var.ext4")
		return path, "", tools(log).makeExt4(ctx, t.host.Var, path, layout.VarLabel, p.id("var fs"), disk.Var)
	})
	if err != nil {
		return nil, err
	}

	return &fileSystems{
		paths: map[layout.Role]string{layout.ESP: esp, layout.Verity: tree.path, layout.Root: root, layout.Var: varFS},
		uki:   uki,
		root:  tree,
	}, nil
}

// kernelCommandLine returns the words of the UKI's command line: which root to
// trust, and that a version which cannot boot must reset rather than wait, so
// that the boot loader's counter can do its work.
func kernelCommandLine(rootHash string, more []string) []string {
	return append([]string{"root=/dev/mapper/root", "roothash=" + rootHash, "rootfstype=erofs", "ro",
		"systemd.verity_root_options=panic-on-corruption", "gpt", "panic=10", "rd.shell=0", "rd.emergency=reboot"}, more...)
}

// partitions returns the partitions of the image file in their order.
func (p *plan) partitions(fs *fileSystems) []partition {
	uuids := map[layout.Role]string{
		layout.ESP:    p.id("esp"),
		layout.Verity: fs.root.verityID,
		layout.Root:   fs.root.rootID,
		layout.Var:    p.id("var"),
	}

	var partitions []partition
	for _, b := range layout.Baked() {
		partitions = append(partitions, partition{
			role:    b.Role,
			typeID:  b.TypeID(p.arch),
			label:   b.Label(p.image.Version),
			uuid:    uuids[b.Role],
			size:    sizeOf(p.image.Disk, b.Role),
			content: fs.paths[b.Role],
		})
	}
	return partitions
}

// publish writes the disk image under its final name, and the update set and the
// manifest beside it. The file systems are read once: they are hashed while they
// are copied.
func (b *build) publish(outDir string, p *plan, t *rootfs.Tools, fs *fileSystems) (*Result, error) {
	path := Name(outDir, p.image)
	return stage(b, "disk image", func(io.Writer) (*Result, string, error) {
		out, err := atomicfile.Create(path, 0o644)
		if err != nil {
			return nil, "", err
		}
		defer out.Abandon()

		disk, err := writeDisk(out.File, p.id("disk"), p.partitions(fs))
		if err != nil {
			return nil, "", err
		}
		uki, err := newArtefact(roleUKI, fs.uki)
		if err != nil {
			return nil, "", err
		}
		m := p.manifest(path, fs.root.rootHash, disk)
		m.Artefacts = append(m.Artefacts, *uki)
		m.Tools = t.Digest
		update, err := p.updateManifest(fs, m.Artefacts)
		if err != nil {
			return nil, "", err
		}

		updatePath, err := writeUpdateSet(outDir, update, fs)
		if err != nil {
			return nil, "", err
		}
		if err := out.Commit(); err != nil {
			return nil, "", err
		}
		if err := m.write(manifestName(path)); err != nil {
			return nil, "", err
		}
		return &Result{Image: path, Manifest: manifestName(path), UpdateManifest: updatePath,
			Upgradable: len(p.image.Update.Keys) > 0, Version: m.Version, RootHash: m.RootHash, SHA256: m.SHA256,
			Bytes: m.Bytes}, path, nil
	})
}

// newArtefact hashes a file.
func newArtefact(role, path string) (*Artefact, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", role, err)
	}
	sum, err := rootfs.FileHash(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", role, err)
	}
	return &Artefact{Role: role, Path: path, Bytes: info.Size(), SHA256: sum}, nil
}

func sizeNote(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d MiB", info.Size()/mebibyte)
}
