package image

import (
	"context"
	"debug/pe"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/spec"
	"github.com/mkappliance/mkappliance/rootfs"
)

// VerifyOptions says which image to check.
type VerifyOptions struct {
	Image    string // path of the .img file; its manifest lies beside it
	CacheDir string // where the tools tree is, or is put
	Epoch    int64  // SOURCE_DATE_EPOCH of builds, by which that tree is found
	Executor run.Executor
	Progress *progress.Reporter
}

// Check is the outcome of one check.
type Check struct {
	Name    string `json:"check"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"` // empty if OK
}

// Verify checks a baked image file without changing or mounting it, with the
// tools that made it. It gives every check's outcome to report, and an error if
// it could not check at all. The caller must be root, if only of a user
// namespace.
func Verify(ctx context.Context, o VerifyOptions, report func(Check)) (clean bool, err error) {
	m, err := readManifest(o.Image)
	if err != nil {
		return false, err
	}
	b := &build{Options: Options{Spec: &spec.Image{Architecture: m.Architecture, Suite: m.Suite},
		Epoch: o.Epoch, Executor: o.Executor, Progress: o.Progress},
		cache: &rootfs.Cache{Dir: o.CacheDir, Executor: o.Executor}}
	base, err := b.archive(ctx)
	if err != nil {
		return false, err
	}
	tools, err := b.tools(ctx, base)
	if err != nil {
		return false, err
	}
	work, release, err := b.cache.WorkDir()
	if err != nil {
		return false, err
	}
	defer release()
	v := &verification{manifest: m, image: o.Image,
		tools: toolbox{run: o.Executor, tree: tools, work: work, epoch: o.Epoch, log: io.Discard}}
	clean = true
	for _, check := range v.checks() {
		err := check.do(ctx)
		if ctx.Err() != nil {
			return false, fmt.Errorf("cannot finish verification: %w", context.Cause(ctx))
		}
		c := Check{Name: check.name, OK: err == nil}
		if err != nil {
			c.Problem, clean = err.Error(), false
		}
		report(c)
	}
	return clean, nil
}

func readManifest(image string) (*manifest, error) {
	data, err := os.ReadFile(manifestName(image))
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("cannot read manifest %s: %w", manifestName(image), err)
	}
	return &m, nil
}

// verification is one run of the checks. Those in the order of checks prepare
// files in the work directory for those after them.
type verification struct {
	manifest *manifest
	image    string
	tools    toolbox
}

// Files of the work directory.
const (
	cutTable  = "table.img" // the image without the content of its partitions
	cutESP    = "esp.vfat"
	cutVerity = "root.verity"
	cutRoot   = "root.erofs"
	cutVar    = "var.ext4"
	cutUKI    = "uki.efi"
)

type namedCheck struct {
	name string
	do   func(context.Context) error
}

func (v *verification) checks() []namedCheck {
	tool := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error { return v.run(ctx, args...) }
	}
	path := v.tools.path
	return []namedCheck{
		{"manifest", v.checkManifest},
		{"partitions", v.cut},
		{"partition table", v.checkTable},
		{"ESP", tool("fsck.vfat", "-n", path(cutESP))},
		// With --extract, but to nowhere: decode every file.
		{"root file system", tool("fsck.erofs", "--extract", path(cutRoot))},
		{"verity", v.checkVerity},
		{"var file system", tool("e2fsck", "-f", "-n", path(cutVar))},
		{"no identity in root", v.checkRootIdentity},
		{"no identity in var", v.checkVarIdentity},
	}
}

// run runs a tool whose exit status alone tells. Such tools say what is wrong
// on standard output too, so its last line goes into the error.
func (v *verification) run(ctx context.Context, args ...string) error {
	_, err := v.output(ctx, args...)
	return err
}

func (v *verification) output(ctx context.Context, args ...string) (string, error) {
	out, err := run.Output(ctx, v.tools.run, v.tools.box().Command(args...))
	text := strings.TrimSpace(string(out))
	if exit := (*run.ExitError)(nil); errors.As(err, &exit) {
		lines := strings.Split(strings.TrimSpace(text+"\n"+exit.Stderr), "\n")
		return text, fmt.Errorf("%s failed with status %d: %s", args[0], exit.Status, lines[len(lines)-1])
	}
	return text, err
}

func (v *verification) checkManifest(context.Context) error {
	if name := filepath.Base(v.image); v.manifest.Image != name {
		return fmt.Errorf("it is about %q, not %q", v.manifest.Image, name)
	}
	_, err := rootfs.FileHash(v.image, v.manifest.SHA256)
	return err
}

// cut copies the partitions, and the tables around them, to files of their own.
func (v *verification) cut(context.Context) error {
	disk, err := diskfs.Open(v.image, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		return err
	}
	defer disk.Close()
	table, err := disk.GetPartitionTable()
	if err != nil {
		return err
	}
	parts, ok := table.(*gpt.Table)
	if !ok {
		return errors.New("the partition table is not a GPT")
	}
	image, err := os.Open(v.image)
	if err != nil {
		return err
	}
	defer image.Close()
	rootID, verityID, err := verityPartitionIDs(v.manifest.RootHash)
	if err != nil {
		return err
	}
	want := []struct {
		kind              gpt.Type
		label, uuid, file string
	}{
		{typeESP, "esp", "", cutESP},
		{typeVerity, "runner_" + v.manifest.Version + "_verity", verityID, cutVerity},
		{typeRoot, "runner_" + v.manifest.Version, rootID, cutRoot},
		{typeVar, "runner-var", "", cutVar},
	}
	for i, w := range want {
		if i >= len(parts.Partitions) {
			return fmt.Errorf("partition %d (%s) is missing", i+1, w.label)
		}
		p := parts.Partitions[i]
		if !strings.EqualFold(string(p.Type), string(w.kind)) || p.Name != w.label || w.uuid != "" && !strings.EqualFold(p.GUID, w.uuid) {
			return fmt.Errorf("partition %d is %q with type %s and UUID %s, want %q with %s %s", i+1, p.Name, p.Type, p.GUID, w.label, w.kind, w.uuid)
		}
		if err := v.copyOut(image, w.file, int64(p.Start)*sectorSize, int64(p.End-p.Start+1)*sectorSize); err != nil {
			return err
		}
	}
	return v.cutTable(image)
}

// copyOut copies a part of the image to a file of the work directory.
func (v *verification) copyOut(image io.ReaderAt, name string, offset, size int64) error {
	return v.write(name, size, func(out *os.File) error {
		return copySparse(out, 0, io.NewSectionReader(image, offset, size))
	})
}

// cutTable copies the first and the last MiB, with a hole between them.
func (v *verification) cutTable(image *os.File) error {
	info, err := image.Stat()
	if err != nil {
		return err
	}
	return v.write(cutTable, info.Size(), func(out *os.File) error {
		end := info.Size() - mebibyte
		return errors.Join(copySparse(out, 0, io.NewSectionReader(image, 0, mebibyte)),
			copySparse(out, end, io.NewSectionReader(image, end, mebibyte)))
	})
}

func (v *verification) write(name string, size int64, fill func(*os.File) error) error {
	path := v.tools.file(name)
	if err := createSized(path, size); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(fill(out), out.Close())
}

// checkTable looks at what sgdisk(8) says: it exits zero for problems too, and
// a table of which one of the two copies is broken it calls no problem, but
// corrupt.
func (v *verification) checkTable(ctx context.Context) error {
	out, err := v.output(ctx, "sgdisk", "--verify", v.tools.path(cutTable))
	if err != nil {
		return err
	}
	if !strings.Contains(out, "No problems found") || strings.Contains(out, "corrupt") {
		return fmt.Errorf("sgdisk says: %s", strings.Join(strings.Fields(strings.Trim(out, "*\n")), " "))
	}
	return nil
}

// checkVerity verifies the root file system against the root hash that the
// kernel will be given.
func (v *verification) checkVerity(ctx context.Context) error {
	uki := "::EFI/Linux/" + ukiName(v.manifest.Version)
	if err := v.run(ctx, "mcopy", "-i", v.tools.path(cutESP), uki, v.tools.path(cutUKI)); err != nil {
		return err
	}
	cmdline, err := ukiCommandLine(v.tools.file(cutUKI))
	if err != nil {
		return err
	}
	i := slices.IndexFunc(cmdline, func(s string) bool { return strings.HasPrefix(s, "roothash=") })
	if i < 0 {
		return errors.New("the UKI's command line has no roothash=")
	}
	hash := strings.TrimPrefix(cmdline[i], "roothash=")
	if hash != v.manifest.RootHash {
		return fmt.Errorf("the UKI's root hash is %s, the manifest's %s", hash, v.manifest.RootHash)
	}
	return v.run(ctx, "veritysetup", "verify", v.tools.path(cutRoot), v.tools.path(cutVerity), hash)
}

// ukiCommandLine reads the words of the section .cmdline (UAPI.5).
func ukiCommandLine(path string) ([]string, error) {
	uki, err := pe.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the UKI: %w", err)
	}
	defer uki.Close()
	section := uki.Section(".cmdline")
	if section == nil {
		return nil, errors.New("the UKI has no command line")
	}
	data, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("cannot read the UKI: %w", err)
	}
	return strings.Fields(strings.TrimRight(string(data), "\x00")), nil
}

// checkRootIdentity looks for what must differ between two machines, in the
// root tree and in the guests' base tree.
func (v *verification) checkRootIdentity(ctx context.Context) error {
	for _, tree := range []string{"", "/usr/lib/runner/base"} {
		ssh, err := v.output(ctx, "dump.erofs", "--ls", "--path="+tree+"/etc/ssh", v.tools.path(cutRoot))
		if err != nil {
			return err
		}
		if key := regexp.MustCompile(`ssh_host_\S+`).FindString(ssh); key != "" {
			return fmt.Errorf("it holds the ssh host key %s/etc/ssh/%s", tree, key)
		}
		id, err := v.output(ctx, "dump.erofs", "--path="+tree+"/etc/machine-id", v.tools.path(cutRoot))
		if err != nil {
			return err
		}
		if !regexp.MustCompile(`(?m)^Size: 0 .*regular file$`).MatchString(id) {
			return fmt.Errorf("%s/etc/machine-id is not an empty file", tree)
		}
	}
	return nil
}

// checkVarIdentity looks for what a registration leaves behind. debugfs(8)
// exits zero for a missing file and says so on standard error.
func (v *verification) checkVarIdentity(ctx context.Context) error {
	for _, name := range []string{"/lib/runner/etc/config.env", "/lib/runner/installed", "/lib/runner/actions-runner/.credentials",
		"/lib/runner/actions-runner/.runner", "/lib/dbus/machine-id", "/lib/systemd/random-seed"} {
		out, err := v.output(ctx, "debugfs", "-R", "stat "+name, v.tools.path(cutVar))
		if err != nil {
			return err
		}
		if strings.Contains(out, "Inode:") {
			return fmt.Errorf("it holds /var%s", name)
		}
	}
	return nil
}
