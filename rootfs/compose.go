// Package rootfs makes the trees an image consists of: layers of Debian
// packages, overlays over them, and the guest base tree inside the host tree.
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkappliance/mkappliance/internal/run"
)

// Places inside the host tree.
const (
	guestBaseDir = "usr/lib/runner/base"
	runnerDir    = "usr/lib/runner/actions-runner"
	programsDir  = "usr/local/bin"
	dpkgDir      = "usr/lib/sysimage/dpkg"
	initrdName   = ".mkappliance-initrd"
)

// Host says what a host tree is composed of.
type Host struct {
	Layer, GuestLayer       string   // tar files of the two package layers
	Overlays, GuestOverlays []string // directories laid over them
	Programs                []string // the appliance's own static programs
	Runner                  string   // the actions runner's archive
	RunnerVersion           string
	ImageID, ImageVersion   string            // os-release(5) IMAGE_ID and IMAGE_VERSION
	Files                   map[string]string // further small files, path -> content
	Epoch                   int64             // SOURCE_DATE_EPOCH
	Log                     io.Writer
}

// HostTree is a composed host tree: the root file system without /var and
// without what only the boot loader reads.
type HostTree struct {
	Root   string // what becomes the root file system
	Var    string // what becomes the var file system
	Kernel string // the kernel image
	Initrd string
	// KernelRelease is the version as uname -r gives it.
	KernelRelease string
}

// ComposeHost makes the host tree in the empty directory dir. It must run as
// root, or as root of a user namespace.
func ComposeHost(ctx context.Context, executor run.Executor, h Host, dir string) (*HostTree, error) {
	tree := &HostTree{Root: filepath.Join(dir, "root"), Var: filepath.Join(dir, "var"),
		Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd")}
	for _, d := range []string{tree.Root, tree.Var} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, fmt.Errorf("cannot compose host tree: %w", err)
		}
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"unpack host packages", func() error { return unpackLayer(ctx, executor, h.Layer, tree.Root) }},
		{"add overlays", func() error { return h.addFiles(tree.Root) }},
		{"unpack the actions runner", func() error {
			return UnpackComponent(ctx, executor, h.Runner, filepath.Join(tree.Root, runnerDir))
		}},
		{"compose guest base tree", func() error { return h.composeGuest(ctx, executor, filepath.Join(tree.Root, guestBaseDir)) }},
		{"create users", func() error { return h.inside(ctx, executor, tree.Root, "systemd-sysusers") }},
		{"apply unit presets", func() error { return h.inside(ctx, executor, tree.Root, "systemctl", "preset-all") }},
		{"make the initrd", func() error { return h.makeInitrd(ctx, executor, tree) }},
		{"remove what belongs to one machine", func() error { return scrub(tree.Root) }},
		{"part var from root", func() error { return splitVar(tree) }},
	}
	for _, step := range steps {
		if h.Log != nil {
			fmt.Fprintln(h.Log, step.what)
		}
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("cannot %s: %w", step.what, err)
		}
	}
	return tree, nil
}

// inside runs args with root as its root directory.
func (h Host) inside(ctx context.Context, executor run.Executor, root string, args ...string) error {
	box := Sandbox{Root: root, Writable: true, Epoch: h.Epoch, Log: h.Log}
	return executor.Exec(ctx, box.Command(args...))
}

// unpackLayer unpacks a layer without the name and the resolver that
// mmdebstrap(1) copies from the build host for its own use.
func unpackLayer(ctx context.Context, executor run.Executor, tar, dir string) error {
	return Unpack(ctx, executor, tar, dir, "--exclude=./etc/hostname", "--exclude=./etc/resolv.conf")
}

// addFiles lays the overlays, the programs and the generated files over the tree.
func (h Host) addFiles(root string) error {
	for _, overlay := range h.Overlays {
		if err := MergeOverlay(root, overlay); err != nil {
			return err
		}
	}
	tree, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer tree.Close()
	for _, program := range h.Programs {
		if err := copyInto(tree, filepath.Join(programsDir, filepath.Base(program)), program, 0o755); err != nil {
			return err
		}
	}
	for name, content := range h.Files {
		if err := tree.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := tree.WriteFile(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return h.stampRelease(tree)
}

// stampRelease names image and version in os-release(5), which is how the
// running system, and systemd-sysupdate, know what they are.
func (h Host) stampRelease(tree *os.Root) error {
	const name = "usr/lib/os-release"
	release, err := tree.ReadFile(name)
	if err != nil {
		return err
	}
	stamp := fmt.Sprintf("IMAGE_ID=%s\nIMAGE_VERSION=%s\nRUNNER_VERSION=%s\n", h.ImageID, h.ImageVersion, h.RunnerVersion)
	return tree.WriteFile(name, append(release, stamp...), 0o644)
}

// composeGuest makes the guest base tree in dir, which is inside the host tree.
func (h Host) composeGuest(ctx context.Context, executor run.Executor, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unpackLayer(ctx, executor, h.GuestLayer, dir); err != nil {
		return err
	}
	for _, overlay := range h.GuestOverlays {
		if err := MergeOverlay(dir, overlay); err != nil {
			return err
		}
	}
	if err := h.inside(ctx, executor, dir, "systemctl", "preset-all"); err != nil {
		return err
	}
	return scrub(dir)
}

// ComposeGuest makes the guest base tree alone, in the empty directory dir, as
// it will stand in the image.
func ComposeGuest(ctx context.Context, executor run.Executor, h Host, dir string) error {
	if err := h.composeGuest(ctx, executor, dir); err != nil {
		return fmt.Errorf("cannot compose guest base tree: %w", err)
	}
	return nil
}

// makeInitrd runs the tree's own dracut(8) and takes kernel and initrd out of
// the tree: they go into the UKI.
func (h Host) makeInitrd(ctx context.Context, executor run.Executor, tree *HostTree) error {
	release, err := kernelRelease(tree.Root)
	if err != nil {
		return err
	}
	tree.KernelRelease = release
	err = h.inside(ctx, executor, tree.Root, "dracut", "--force", "--kver", release, "/"+initrdName)
	if err != nil {
		return err
	}
	err = errors.Join(
		os.Rename(filepath.Join(tree.Root, initrdName), tree.Initrd),
		os.Rename(filepath.Join(tree.Root, "boot", "vmlinuz-"+release), tree.Kernel),
		emptyDir(filepath.Join(tree.Root, "boot")))
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
		return "", fmt.Errorf("found %d kernels in the host tree, want exactly one: list one linux-image package in images.toml", len(kernels))
	}
	return strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-"), nil
}

// scrub removes what the package scripts made for the machine they ran on:
// identity, the build host's name and resolver, logs and caches.
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
	for _, name := range append(hostKeys, "etc/apt/apt.conf.d/99mmdebstrap", "var/lib/dbus/machine-id",
		"var/lib/systemd/random-seed", "var/log/bootstrap.log", "var/log/alternatives.log", "var/log/dpkg.log",
		"var/log/apt", "var/cache/ldconfig/aux-cache", "var/cache/apt", "var/cache/debconf",
		"var/lib/apt/lists", "etc/.pwd.lock", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-") {
		if err := tree.RemoveAll(name); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp", "run", "var/tmp", "dev"} {
		if err := emptyDir(filepath.Join(root, dir)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/cache/debconf"} {
		if err := tree.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{
		// Empty means: to be set at boot; missing would be an error on a
		// read-only root, machine-id(5).
		"etc/machine-id",
		// What systemd-update-done.service(8) would do at every boot, since
		// /etc forgets, has been done by the package scripts.
		"etc/.updated", "var/.updated",
	} {
		if err := tree.WriteFile(name, nil, 0o444); err != nil {
			return err
		}
	}
	return nil
}

// splitVar moves /var out of the tree, and what must change with the image
// rather than stay on the disk, dpkg's data base, back in.
func splitVar(tree *HostTree) error {
	from := filepath.Join(tree.Root, "var")
	dpkg := filepath.Join(tree.Root, dpkgDir)
	if err := os.MkdirAll(filepath.Dir(dpkg), 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(filepath.Join(from, "lib/dpkg"), dpkg), os.Remove(tree.Var)); err != nil {
		return err
	}
	if err := os.Rename(from, tree.Var); err != nil {
		return err
	}
	for link, target := range map[string]string{
		filepath.Join(tree.Var, "lib/dpkg"): "../../" + dpkgDir,
	} {
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	// Homes are data too.
	for _, home := range []struct{ name, in string }{{"home", "home"}, {"root", "roothome"}} {
		dir := filepath.Join(tree.Root, home.name)
		if err := errors.Join(os.Rename(dir, filepath.Join(tree.Var, home.in)), os.Symlink("var/"+home.in, dir)); err != nil {
			return err
		}
	}
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
