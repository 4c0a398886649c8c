// Package image turns composed trees into the bytes of a disk: file systems,
// verity hash trees, UKI, ESP and partition table.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/spec"
	"github.com/mkappliance/mkappliance/rootfs"
)

// Options says what to build and where.
type Options struct {
	Spec     *spec.Image
	Programs []string // the appliance's own static programs to put in
	OutDir   string
	CacheDir string
	Epoch    int64 // SOURCE_DATE_EPOCH, seconds since 1970
	Executor run.Executor
	Progress *progress.Reporter
}

// Result tells of a finished build.
type Result struct {
	Image    string `json:"image"`    // path of the disk image
	Manifest string `json:"manifest"` // path of the manifest beside it
	Version  string `json:"version"`
	RootHash string `json:"root_hash"` // of the verity tree over the root file system
	SHA256   string `json:"sha256"`    // of the disk image
	Bytes    int64  `json:"bytes"`     // apparent size of the disk image
}

// Name gives the path of the image file a build writes.
func Name(outDir string, s *spec.Image) string {
	return filepath.Join(outDir, s.Name+"_"+s.Version+".img")
}

// build is one build under way.
type build struct {
	Options
	cache *rootfs.Cache
	work  string // removed at the end
}

// Build bakes the image. Nothing appears under the final name unless all of it
// succeeded. The caller must be root, if only of a user namespace.
func Build(ctx context.Context, o Options) (*Result, error) {
	if err := os.MkdirAll(o.OutDir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make directory: %w", err)
	}
	b := &build{Options: o, cache: &rootfs.Cache{Dir: o.CacheDir, Executor: o.Executor}}
	work, release, err := b.cache.WorkDir()
	if err != nil {
		return nil, err
	}
	defer release()
	b.work = work
	archive, err := b.fetchRunner(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := b.layers(ctx)
	if err != nil {
		return nil, err
	}
	tree, err := b.compose(ctx, layers, archive)
	if err != nil {
		return nil, err
	}
	return b.disk(ctx, layers.tools, tree)
}

// GuestBase writes the guest base tree alone to OutDir, which must not exist.
func GuestBase(ctx context.Context, o Options) error {
	b := &build{Options: o, cache: &rootfs.Cache{Dir: o.CacheDir, Executor: o.Executor}}
	layers, err := b.layers(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.OutDir), 0o755); err != nil {
		return fmt.Errorf("cannot make directory: %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(o.OutDir), ".guest-base-")
	if err != nil {
		return fmt.Errorf("cannot make directory: %w", err)
	}
	defer os.RemoveAll(temp)
	err = b.stage("guest base tree", func(log io.Writer) (string, error) {
		return o.OutDir, rootfs.ComposeGuest(ctx, b.Executor, b.host(layers, "", log), temp)
	})
	if err != nil {
		return err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return fmt.Errorf("cannot finish guest base tree: %w", err)
	}
	return os.Rename(temp, o.OutDir)
}

// stage runs do as one reported stage; do returns a note for the report.
func (b *build) stage(name string, do func(log io.Writer) (string, error)) error {
	s := b.Progress.Stage(name)
	note, err := do(s.Writer())
	if err != nil {
		s.Fail(err)
		return err
	}
	s.Done(note)
	return nil
}

func (b *build) fetchRunner(ctx context.Context) (string, error) {
	var archive string
	c := b.Spec.Runner
	err := b.stage("actions runner", func(io.Writer) (note string, err error) {
		archive, err = b.cache.Fetch(ctx, rootfs.Component{
			Name: "actions runner", Version: c.Version, URL: c.URL, Path: c.Path, SHA256: c.SHA256})
		return c.Version, err
	})
	return archive, err
}

// layerPaths are the package layers of a build: tar files, and the directory
// of the tools.
type layerPaths struct{ host, guest, tools string }

func (b *build) layers(ctx context.Context) (*layerPaths, error) {
	base, err := b.archive(ctx)
	if err != nil {
		return nil, err
	}
	var paths layerPaths
	if paths.tools, err = b.tools(ctx, base); err != nil {
		return nil, err
	}
	if paths.host, err = b.layer(ctx, base, "host", "essential", b.Spec.Host, b.cache.Get); err != nil {
		return nil, err
	}
	paths.guest, err = b.layer(ctx, base, "guest", "apt", b.Spec.Guest, b.cache.Get)
	return &paths, err
}

// archive gives what all layers have in common: the archive they come from and
// the state it is in.
func (b *build) archive(ctx context.Context) (rootfs.Layer, error) {
	base := rootfs.Layer{Architecture: b.Spec.Architecture, Suite: b.Spec.Suite, Epoch: b.Epoch}
	err := b.stage("archive", func(io.Writer) (note string, err error) {
		if base.Sources, err = rootfs.FindSources(ctx, b.Executor, b.Spec.Suite, b.Spec.Mirror); err != nil {
			return "", err
		}
		base.Archive, err = rootfs.ArchiveState(ctx, b.Executor, base.Sources)
		return b.Spec.Suite, err
	})
	return base, err
}

// tools gives the directory of the tools tree.
func (b *build) tools(ctx context.Context, base rootfs.Layer) (string, error) {
	return b.layer(ctx, base, "tools", "apt", spec.Tree{Packages: toolPackages()}, b.cache.ToolsTree)
}

// layer gets one layer from the cache, by Get or ToolsTree.
func (b *build) layer(ctx context.Context, layer rootfs.Layer, name, variant string, tree spec.Tree,
	get func(context.Context, *rootfs.Layer, io.Writer) (string, error)) (path string, err error) {
	layer.Name, layer.Variant, layer.Packages, layer.ExcludePaths = name, variant, tree.Packages, tree.ExcludePaths
	cached := b.cache.Has(&layer)
	err = b.stage(name+" packages", func(log io.Writer) (note string, err error) {
		path, err = get(ctx, &layer, log)
		if cached {
			note = "cached"
		}
		return note, err
	})
	return path, err
}

func (b *build) host(layers *layerPaths, archive string, log io.Writer) rootfs.Host {
	return rootfs.Host{Layer: layers.host, GuestLayer: layers.guest,
		Overlays: b.Spec.Host.Overlays, GuestOverlays: b.Spec.Guest.Overlays,
		Programs: b.Programs, Runner: archive, RunnerVersion: b.Spec.Runner.Version,
		ImageID: b.Spec.Name, ImageVersion: b.Spec.Version,
		Files: repartFiles(b.Spec.Disk), Epoch: b.Epoch, Log: log}
}

func (b *build) compose(ctx context.Context, layers *layerPaths, archive string) (*rootfs.HostTree, error) {
	var tree *rootfs.HostTree
	err := b.stage("host tree", func(log io.Writer) (note string, err error) {
		tree, err = rootfs.ComposeHost(ctx, b.Executor, b.host(layers, archive, log), b.work)
		if err == nil {
			note = "kernel " + tree.KernelRelease
		}
		return note, err
	})
	return tree, err
}

// disk makes the file systems and joins them to the image file.
func (b *build) disk(ctx context.Context, tools string, tree *rootfs.HostTree) (*Result, error) {
	s, d := b.Spec, b.Spec.Disk
	ids := func(role string) string { return id(s.Name, s.Version, role) }
	box := func(log io.Writer) toolbox {
		return toolbox{run: b.Executor, tree: tools, work: b.work, epoch: b.Epoch, log: log}
	}
	osRelease, err := os.ReadFile(filepath.Join(tree.Root, "usr/lib/os-release"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the tree's os-release: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.work, "os-release"), osRelease, 0o644); err != nil {
		return nil, fmt.Errorf("cannot copy the tree's os-release: %w", err)
	}
	var rootHash, rootID, verityID string
	stages := []struct {
		name string
		do   func(log io.Writer) (string, error)
	}{
		{"root file system", func(log io.Writer) (string, error) {
			err := box(log).makeErofs(ctx, "root", "root.erofs", d.Compression, ids("root fs"))
			return sizeNote(filepath.Join(b.work, "root.erofs")), err
		}},
		{"verity", func(log io.Writer) (note string, err error) {
			salt := sha256.Sum256([]byte(ids("salt")))
			rootHash, err = box(log).makeVerity(ctx, "root.erofs", "root.verity", ids("verity"), hex.EncodeToString(salt[:]))
			if err != nil {
				return "", err
			}
			rootID, verityID, err = verityPartitionIDs(rootHash)
			return "root hash " + rootHash[:16] + "...", err
		}},
		{"UKI", func(log io.Writer) (string, error) {
			return "", box(log).makeUKI(ctx, "vmlinuz", "initrd", "os-release", tree.KernelRelease, "uki.efi",
				kernelCommandLine(rootHash, d.KernelArguments))
		}},
		{"ESP", func(log io.Writer) (string, error) {
			return "", box(log).makeESP(ctx, "esp.vfat", "uki.efi", s.Version, strings.ReplaceAll(ids("esp fs"), "-", "")[:8], d.ESP)
		}},
		{"var file system", func(log io.Writer) (string, error) {
			return "", box(log).makeExt4(ctx, "var", "var.ext4", "runner-var", ids("var fs"), d.Var)
		}},
		{"disk", func(io.Writer) (string, error) {
			img := filepath.Join(b.work, "disk.img")
			err := writeDisk(img, ids("disk"), []partition{
				{typeESP, "esp", ids("esp"), d.ESP, filepath.Join(b.work, "esp.vfat")},
				{typeVerity, "runner_" + s.Version + "_verity", verityID, d.Verity, filepath.Join(b.work, "root.verity")},
				{typeRoot, "runner_" + s.Version, rootID, d.Root, filepath.Join(b.work, "root.erofs")},
				{typeVar, "runner-var", ids("var"), d.Var, filepath.Join(b.work, "var.ext4")},
			})
			return sizeNote(img), err
		}},
	}
	for _, stage := range stages {
		if err := b.stage(stage.name, stage.do); err != nil {
			return nil, err
		}
	}
	return b.publish(rootHash)
}

// kernelCommandLine is what the UKI carries: which root to trust, and that a
// version which cannot boot must reset rather than wait, so that the boot
// loader's counter can do its work.
func kernelCommandLine(rootHash string, more []string) []string {
	return append([]string{"root=/dev/mapper/root", "roothash=" + rootHash, "rootfstype=erofs", "ro",
		"systemd.verity_root_options=panic-on-corruption", "gpt", "panic=10", "rd.shell=0", "rd.emergency=reboot"}, more...)
}

// publish gives the image its name, and writes the manifest beside it.
func (b *build) publish(rootHash string) (*Result, error) {
	r := &Result{Image: Name(b.OutDir, b.Spec), Version: b.Spec.Version, RootHash: rootHash}
	r.Manifest = manifestName(r.Image)
	err := b.stage("image file", func(io.Writer) (note string, err error) {
		f, err := os.Open(filepath.Join(b.work, "disk.img"))
		if err != nil {
			return "", err
		}
		defer f.Close()
		sum := sha256.New()
		if r.Bytes, err = io.Copy(sum, f); err != nil {
			return "", err
		}
		r.SHA256 = hex.EncodeToString(sum.Sum(nil))
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", err
		}
		if err := publishSparse(r.Image, f, r.Bytes); err != nil {
			return "", err
		}
		return r.Image, b.writeManifest(r)
	})
	return r, err
}

// publishSparse copies f to path, keeping holes; cache and output may be on
// different file systems, so it cannot be renamed there.
func publishSparse(path string, f *os.File, size int64) error {
	out, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer out.Abandon()
	if err := out.Truncate(size); err != nil {
		return fmt.Errorf("cannot write image: %w", err)
	}
	if err := copySparse(out, 0, f); err != nil {
		return fmt.Errorf("cannot write image: %w", err)
	}
	return out.Commit()
}

// manifest is the file beside an image that says what the image is.
type manifest struct {
	Result
	Image         string `json:"image"`              // file name alone
	Manifest      string `json:"manifest,omitempty"` // left out
	Name          string `json:"name"`
	Architecture  string `json:"architecture"`
	Suite         string `json:"suite"`
	RunnerVersion string `json:"runner_version"`
}

func manifestName(image string) string { return strings.TrimSuffix(image, ".img") + ".json" }

func (b *build) writeManifest(r *Result) error {
	data, err := json.MarshalIndent(manifest{Result: *r, Image: filepath.Base(r.Image), Name: b.Spec.Name,
		Architecture: b.Spec.Architecture, Suite: b.Spec.Suite, RunnerVersion: b.Spec.Runner.Version}, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write manifest: %w", err)
	}
	return atomicfile.Write(r.Manifest, append(data, '\n'), 0o644)
}

func sizeNote(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d MiB", info.Size()/mebibyte)
}
