package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/internal/buildinfo"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

const (
	// dpkgDir is where the package database is in the root file system: it
	// describes the image, so it must change with the image.
	dpkgDir    = "usr/lib/sysimage/dpkg"
	initrdName = ".mkappliance-initrd"
)

// inTree returns the path of a fixed path of the appliance, relative to a tree.
func inTree(path string) string { return strings.TrimPrefix(path, "/") }

// TreeSpec is the recipe of a tree: a layer of packages with overlays over it.
type TreeSpec struct {
	Layer    string   // path of a tar file, as Builder.Layer returns it
	Overlays []string // directories; a later one replaces files of an earlier
}

// HostSpec is the recipe of a host tree.
type HostSpec struct {
	TreeSpec
	Guest         TreeSpec // of the guest base, inside the host tree
	Programs      Programs
	RunnerTarball string            // path of the actions runner's release
	RunnerVersion string            // os-release(5) RUNNER_VERSION
	ImageID       string            // os-release(5) IMAGE_ID
	ImageVersion  string            // os-release(5) IMAGE_VERSION
	Files         map[string]string // further small files: path in the tree -> content
}

// Programs are the appliance's own static programs.
type Programs struct {
	Paths   []string       // of the programs on the build host
	Manuals []string       // paths of their manual pages, section 1
	Source  buildinfo.Info // of runner-agent
}

// HostTree is a composed host tree: the root file system without /var and
// without what only the boot loader reads.
type HostTree struct {
	Root          string // directory of the root file system
	Var           string // directory of the var file system
	Kernel        string // path of the kernel image
	Initrd        string // path of the initrd
	KernelRelease string // version of the kernel, as uname -r prints it
}

// OSRelease returns the path of the tree's os-release(5).
func (t *HostTree) OSRelease() string { return filepath.Join(t.Root, osRelease) }

const osRelease = "usr/lib/os-release"

// Composer makes trees from recipes. It must run as root, or as root of a user
// namespace.
type Composer struct {
	Executor run.Executor
	Epoch    int64     // SOURCE_DATE_EPOCH, seconds since 1970
	Log      io.Writer // gets the steps and the output of tools
}

// Host makes the host tree in the empty directory dir.
func (c *Composer) Host(ctx context.Context, s HostSpec, dir string) (*HostTree, error) {
	tree := &HostTree{
		Root:   filepath.Join(dir, "root"),
		Var:    filepath.Join(dir, "var"),
		Kernel: filepath.Join(dir, "vmlinuz"),
		Initrd: filepath.Join(dir, "initrd"),
	}
	for _, d := range []string{tree.Root, tree.Var} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, fmt.Errorf("cannot compose host tree: %w", err)
		}
	}

	runner := filepath.Join(tree.Root, inTree(layout.BakedActionsRunner))
	guest := filepath.Join(tree.Root, inTree(layout.GuestBase))
	steps := []step{
		{"unpack host packages", func() error { return unpackLayer(ctx, c.Executor, s.Layer, tree.Root) }},
		{"add overlays", func() error { return addFiles(tree.Root, s) }},
		{"unpack the actions runner", func() error { return unpackTarball(ctx, c.Executor, s.RunnerTarball, runner) }},
		{"name the actions runner's worker", func() error { return linkWorker(runner) }},
		{"create users", func() error { return c.runInTree(ctx, tree.Root, "systemd-sysusers") }},
		{"compose guest base tree", func() error { return c.composeGuest(ctx, s.Guest, guest) }},
		{"apply unit presets", func() error { return c.runInTree(ctx, tree.Root, "systemctl", "preset-all") }},
		{"make the initrd", func() error { return c.makeInitrd(ctx, tree) }},
		{"remove what belongs to one machine", func() error { return scrub(tree.Root) }},
		{"separate var from root", func() error { return splitVar(tree) }},
	}
	if err := c.follow(steps); err != nil {
		return nil, err
	}
	return tree, nil
}

// Guest makes the guest base tree alone, in the empty directory dir, as it is
// in the image.
func (c *Composer) Guest(ctx context.Context, s TreeSpec, dir string) error {
	return c.follow([]step{
		{"compose guest base tree", func() error { return c.composeGuest(ctx, s, dir) }},
	})
}

// step is one step of a recipe.
type step struct {
	what string // continues "cannot"
	do   func() error
}

// follow runs steps up to the first that fails.
func (c *Composer) follow(steps []step) error {
	for _, s := range steps {
		if c.Log != nil {
			fmt.Fprintln(c.Log, s.what)
		}
		if err := s.do(); err != nil {
			return fmt.Errorf("cannot %s: %w", s.what, err)
		}
	}
	return nil
}

// runInTree runs a program of a tree with that tree as its root directory.
func (c *Composer) runInTree(ctx context.Context, root string, args ...string) error {
	sandbox := Sandbox{Root: root, Writable: true, Epoch: c.Epoch, Log: c.Log}
	return c.Executor.Exec(ctx, sandbox.Command(args...))
}

// addFiles copies the overlays, the programs and the generated files to the tree.
func addFiles(root string, s HostSpec) error {
	for _, overlay := range s.Overlays {
		if err := mergeOverlay(root, overlay); err != nil {
			return err
		}
	}

	tree, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer tree.Close()

	for _, program := range s.Programs.Paths {
		name := filepath.Join(inTree(layout.Programs), filepath.Base(program))
		if err := copyInto(tree, name, program, 0o755); err != nil {
			return err
		}
	}

	// images.toml may exclude Debian's manual pages, and the directory with them.
	if err := tree.MkdirAll(inTree(layout.Manuals), 0o755); err != nil {
		return err
	}
	for _, page := range s.Programs.Manuals {
		name := filepath.Join(inTree(layout.Manuals), filepath.Base(page))
		if err := copyInto(tree, name, page, 0o644); err != nil {
			return err
		}
	}

	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		if err := tree.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := tree.WriteFile(name, []byte(s.Files[name]), 0o644); err != nil {
			return err
		}
	}
	return stampRelease(tree, s)
}

// stampRelease writes image and version to os-release(5), where the running
// system and systemd-sysupdate look for them.
func stampRelease(tree *os.Root, s HostSpec) error {
	release, err := tree.ReadFile(osRelease)
	if err != nil {
		return err
	}
	stamp := fmt.Sprintf("IMAGE_ID=%s\nIMAGE_VERSION=%s\nRUNNER_VERSION=%s\n", s.ImageID, s.ImageVersion, s.RunnerVersion)
	stamp += fmt.Sprintf("RUNNER_AGENT_VERSION=%s\nRUNNER_AGENT_COMMIT=%s\n",
		quoteValue(s.Programs.Source.Version), quoteValue(s.Programs.Source.Commit))
	return tree.WriteFile(osRelease, append(release, stamp...), 0o644)
}

// quoteValue quotes a value of os-release(5), which a shell may read. A version
// of Go may hold parentheses, "(devel)".
func quoteValue(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(value) + `"`
}

func (c *Composer) composeGuest(ctx context.Context, s TreeSpec, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unpackLayer(ctx, c.Executor, s.Layer, dir); err != nil {
		return err
	}
	for _, overlay := range s.Overlays {
		if err := mergeOverlay(dir, overlay); err != nil {
			return err
		}
	}
	for _, program := range [][]string{
		{"systemd-sysusers"},
		// The directories of steps are there before the guest's own boot makes it.
		// A tree without an overlay that asks for them has none.
		{"systemd-tmpfiles", "--create", "--prefix=/var/lib/runner", "--prefix=/home/runner"},
		{"systemctl", "preset-all"},
	} {
		if err := c.runInTree(ctx, dir, program...); err != nil {
			return err
		}
	}
	return scrub(dir)
}

// linkWorker names the worker of the actions runner a second time: the relay
// covers its own name. The worker finds its files beside it by either.
func linkWorker(runner string) error {
	bin := filepath.Join(runner, "bin")
	return os.Link(filepath.Join(bin, "Runner.Worker"), filepath.Join(bin, layout.RealWorker))
}

// makeInitrd runs the tree's own dracut(8) and moves kernel and initrd out of
// the tree: they go into the UKI.
func (c *Composer) makeInitrd(ctx context.Context, tree *HostTree) error {
	release, err := kernelRelease(tree.Root)
	if err != nil {
		return err
	}
	tree.KernelRelease = release
	err = c.runInTree(ctx, tree.Root, "dracut", "--force", "--kver", release, "/"+initrdName)
	if err != nil {
		return err
	}

	boot := filepath.Join(tree.Root, "boot")
	err = errors.Join(
		os.Rename(filepath.Join(tree.Root, initrdName), tree.Initrd),
		os.Rename(filepath.Join(boot, "vmlinuz-"+release), tree.Kernel),
		emptyDir(boot))

	// Debian's kernel packages keep links to kernel and initrd at the top.
	for _, link := range []string{"vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"} {
		err = errors.Join(err, ignoreMissing(os.Remove(filepath.Join(tree.Root, link))))
	}
	return err
}

// kernelRelease finds the one kernel of the tree.
func kernelRelease(root string) (string, error) {
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return "", err
	}
	if len(kernels) != 1 {
		return "", fmt.Errorf("found %d kernels in the host tree, want exactly one:"+
			" list one linux-image package in images.toml", len(kernels))
	}
	return strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-"), nil
}

// madeForOneMachine returns what the package scripts left behind for the machine
// they ran on, beside ssh host keys: identity, logs and caches.
func madeForOneMachine() []string {
	return []string{
		"var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
		"etc/apt/apt.conf.d/99mmdebstrap", "var/lib/apt/lists",
		"var/log/bootstrap.log", "var/log/alternatives.log", "var/log/dpkg.log", "var/log/apt",
		"var/cache/ldconfig/aux-cache", "var/cache/apt", "var/cache/debconf",
		"etc/.pwd.lock", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-",
	}
}

// scrub removes everything from a tree that must not be the same on two
// machines, or is of no use on another.
func scrub(root string) error {
	tree, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer tree.Close()

	hostKeys, err := fs.Glob(tree.FS(), "etc/ssh/ssh_host_*")
	if err != nil {
		return err
	}
	for _, name := range append(hostKeys, madeForOneMachine()...) {
		if err := tree.RemoveAll(name); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp", "run", "var/tmp", "dev"} {
		if err := emptyDir(filepath.Join(root, dir)); err != nil {
			return err
		}
	}

	// apt and debconf fail without these.
	for _, dir := range []string{"var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/cache/debconf"} {
		if err := tree.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}

	for _, name := range []string{
		// An empty file asks for an id at boot; a missing one is an error on a
		// read-only root, machine-id(5).
		"etc/machine-id",
		// The package scripts have done what systemd-update-done.service(8)
		// would do again at every boot, because /etc forgets.
		"etc/.updated", "var/.updated",
	} {
		if err := tree.WriteFile(name, nil, 0o444); err != nil {
			return err
		}
	}
	return nil
}

// splitVar moves /var out of the tree, but for the package database, and the
// homes, which are data too, into /var.
func splitVar(tree *HostTree) error {
	from, dpkg := filepath.Join(tree.Root, "var"), filepath.Join(tree.Root, dpkgDir)
	if err := os.MkdirAll(filepath.Dir(dpkg), 0o755); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(from, "lib/dpkg"), dpkg); err != nil {
		return err
	}
	if err := os.Symlink("../../"+dpkgDir, filepath.Join(from, "lib/dpkg")); err != nil {
		return err
	}

	if err := os.Remove(tree.Var); err != nil {
		return err
	}
	if err := os.Rename(from, tree.Var); err != nil {
		return err
	}

	for _, home := range []struct{ name, in string }{{"home", "home"}, {"root", "roothome"}} {
		dir := filepath.Join(tree.Root, home.name)
		if err := os.Rename(dir, filepath.Join(tree.Var, home.in)); err != nil {
			return err
		}
		if err := os.Symlink("var/"+home.in, dir); err != nil {
			return err
		}
	}

	// Mount points, because the root is read-only.
	for _, mount := range []string{"var", "efi"} {
		if err := os.MkdirAll(filepath.Join(tree.Root, mount), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
