package image

import (
	"context"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/rootfs"
)

// Check is the outcome of one check.
type Check struct {
	Name    string `json:"check"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"` // empty if OK
}

// Verify checks the baked image file at path, and the manifest beside it,
// without changing or mounting it. It reports the outcome of every check, and
// whether all are OK; the error is set if it could not check at all.
//
// The tools are those that baked the image. If the cache does not have them,
// they are the tools used last; only if the cache has none are they made, for
// which the archive must be reachable. The caller must be root, if only of a
// user namespace.
func Verify(ctx context.Context, e Environment, path string, report func(Check)) (clean bool, err error) {
	img, err := Open(path)
	if err != nil {
		return false, err
	}
	defer img.Close()
	b, release, err := newBuild(e)
	if err != nil {
		return false, err
	}
	defer release()
	tree, err := b.findTools(ctx, img.Manifest())
	if err != nil {
		return false, err
	}

	v := &verification{image: img, path: path,
		tools: tools{executor: b.Executor, tree: tree, work: b.work, epoch: b.Epoch, log: io.Discard}}
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

// findTools returns the tools tree to check an image with.
func (b *build) findTools(ctx context.Context, m *Manifest) (*rootfs.Tools, error) {
	found, err := stage(b, "tools", func(io.Writer) (*rootfs.Tools, string, error) {
		tree, err := rootfs.FindTools(b.store, m.Suite, m.Architecture, m.Tools)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, "not in the cache", nil
		case err != nil:
			return nil, "", err
		case tree.Digest != m.Tools:
			return tree, "from the cache, not those that baked the image", nil
		}
		return tree, "those that baked the image", nil
	})
	if found != nil || err != nil {
		return found, err
	}

	src, err := b.resolveSources(ctx, m.Suite, "")
	if err != nil {
		return nil, err
	}
	return b.makeTools(ctx, newToolsLayer(m.Architecture, m.Suite, *src, b.Epoch))
}

// verification is one run of the checks. Those in the order of checks prepare
// files in the work directory for those after them.
type verification struct {
	image *Image
	path  string // of the image
	tools tools
}

// file returns the path of a file in the work directory.
func (v *verification) file(name string) string { return filepath.Join(v.tools.work, name) }

// Files in the work directory.
const (
	tableFile = "table.img" // the image without the content of its partitions
	ukiFile   = "uki.efi"
)

// partitionFile returns the path of a copy of a partition.
func (v *verification) partitionFile(r layout.Role) string { return v.file("partition-" + string(r)) }

// inSandbox returns the path by which the tools see the copy of a partition.
func (v *verification) inSandbox(r layout.Role) string { return v.tools.inSandbox(v.partitionFile(r)) }

type namedCheck struct {
	name string
	do   func(context.Context) error
}

func (v *verification) checks() []namedCheck {
	tool := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error { return v.run(ctx, args...) }
	}
	return []namedCheck{
		{"manifest", v.checkManifest},
		{"partitions", v.copyPartitions},
		{"partition table", v.checkTable},
		{"ESP", tool("fsck.vfat", "-n", v.inSandbox(layout.ESP))},
		// With --extract, but to nowhere: decode every file.
		{"root file system", tool("fsck.erofs", "--extract", v.inSandbox(layout.Root))},
		{"verity", v.checkVerity},
		{"var file system", tool("e2fsck", "-f", "-n", v.inSandbox(layout.Var))},
		{"no identity in root", v.checkRootIdentity},
		{"no identity in var", v.checkVarIdentity},
		{"update set", v.checkUpdateSet},
	}
}

// run runs a tool for its exit status. Such tools report problems on standard
// output too, so its last line goes into the error.
func (v *verification) run(ctx context.Context, args ...string) error {
	_, err := v.output(ctx, args...)
	return err
}

func (v *verification) output(ctx context.Context, args ...string) (string, error) {
	out, err := run.Output(ctx, v.tools.executor, v.tools.sandbox().Command(args...))
	text := strings.TrimSpace(string(out))
	if exit := (*run.ExitError)(nil); errors.As(err, &exit) {
		lines := strings.Split(strings.TrimSpace(text+"\n"+exit.Stderr), "\n")
		return text, fmt.Errorf("%s failed with status %d: %s", args[0], exit.Status, lines[len(lines)-1])
	}
	return text, err
}

func (v *verification) checkManifest(context.Context) error {
	m := v.image.Manifest()
	if name := filepath.Base(v.path); m.Image != name {
		return fmt.Errorf("it is about %q, not %q", m.Image, name)
	}
	return rootfs.CheckFileHash(v.path, m.SHA256)
}

// copyPartitions copies the partitions, and the tables around them, to files of
// their own.
func (v *verification) copyPartitions(context.Context) error {
	for _, b := range layout.Baked() {
		content, err := v.image.Partition(b.Role)
		if err != nil {
			return err
		}
		err = v.write(v.partitionFile(b.Role), content.Size(), func(out *os.File) error {
			return copySparse(out, 0, content)
		})
		if err != nil {
			return err
		}
	}
	return v.write(v.file(tableFile), v.image.Size(), func(out *os.File) error { return v.image.copyTable(out) })
}

// write makes a sparse file and fills it.
func (v *verification) write(path string, size int64, fill func(*os.File) error) error {
	if err := createSized(path, size); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(fill(out), out.Close())
}

// checkTable reads the output of sgdisk(8), which exits with 0 for problems too.
// If one of the two copies is broken it finds no problem, but prints "corrupt".
func (v *verification) checkTable(ctx context.Context) error {
	out, err := v.output(ctx, "sgdisk", "--verify", v.tools.inSandbox(v.file(tableFile)))
	if err != nil {
		return err
	}
	if !strings.Contains(out, "No problems found") || strings.Contains(out, "corrupt") {
		return fmt.Errorf("sgdisk says: %s", strings.Join(strings.Fields(strings.Trim(out, "*\n")), " "))
	}
	return nil
}

// checkVerity verifies the root file system against the root hash that the
// kernel gets.
func (v *verification) checkVerity(ctx context.Context) error {
	m := v.image.Manifest()
	uki := v.file(ukiFile)
	err := v.run(ctx, "mcopy", "-i", v.inSandbox(layout.ESP), "::"+ukiPath(m.Version), v.tools.inSandbox(uki))
	if err != nil {
		return err
	}
	cmdline, err := ukiCommandLine(uki)
	if err != nil {
		return err
	}

	const key = "roothash="
	i := slices.IndexFunc(cmdline, func(s string) bool { return strings.HasPrefix(s, key) })
	if i < 0 {
		return errors.New("the UKI's command line has no " + key)
	}
	rootHash := strings.TrimPrefix(cmdline[i], key)
	if rootHash != m.RootHash {
		return fmt.Errorf("the UKI's root hash is %s, the manifest's %s", rootHash, m.RootHash)
	}
	return v.run(ctx, "veritysetup", "verify", v.inSandbox(layout.Root), v.inSandbox(layout.Verity), rootHash)
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

// checkRootIdentity looks for what must differ between two appliances, in the
// root file system and in the guest base.
func (v *verification) checkRootIdentity(ctx context.Context) error {
	root := v.inSandbox(layout.Root)
	hostKey := regexp.MustCompile(`ssh_host_\S+`)
	emptyFile := regexp.MustCompile(`(?m)^Size: 0 .*regular file$`)
	for _, tree := range []string{"", layout.GuestBase} {
		ssh, err := v.output(ctx, "dump.erofs", "--ls", "--path="+tree+"/etc/ssh", root)
		if err != nil {
			return err
		}
		if key := hostKey.FindString(ssh); key != "" {
			return fmt.Errorf("it holds the ssh host key %s/etc/ssh/%s", tree, key)
		}

		id, err := v.output(ctx, "dump.erofs", "--path="+tree+"/etc/machine-id", root)
		if err != nil {
			return err
		}
		if !emptyFile.MatchString(id) {
			return fmt.Errorf("%s/etc/machine-id is not an empty file", tree)
		}
	}
	return nil
}

// checkVarIdentity looks for what a registration or a boot leaves behind.
// debugfs(8) exits with 0 for a missing file and reports it on standard error.
func (v *verification) checkVarIdentity(ctx context.Context) error {
	for _, path := range []string{layout.KeptConfigFile, layout.Registered,
		layout.ActionsRunner + "/.credentials", layout.ActionsRunner + "/.runner",
		"/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed"} {
		inVar := strings.TrimPrefix(path, "/var")
		out, err := v.output(ctx, "debugfs", "-R", "stat "+inVar, v.inSandbox(layout.Var))
		if err != nil {
			return err
		}
		if strings.Contains(out, "Inode:") {
			return fmt.Errorf("it holds %s", path)
		}
	}
	return nil
}
