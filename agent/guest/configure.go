package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// Bind is a directory or file of the host to show in a guest.
type Bind struct {
	Source   *os.File // opened by the caller, so that it cannot be exchanged
	Target   string   // absolute path in the guest
	ReadOnly bool
	// Owner, if not 0, is the host user whose files belong to User in the
	// guest; with 0 the tree is shown as it is on disk, to be read only.
	Owner int
	User  int
	// Fill has an empty Source filled with what the guest's tree has at Target.
	Fill bool
	// Hide names directories beneath Source, made if they do not exist, in
	// whose place the guest sees an empty one.
	Hide []string
	// Lower, if there are any, are shown with Source as one directory, the first
	// above the others. The guest writes to Source alone, which has to be empty and
	// root's; its directory upper has what was written. All that Lower shows belongs
	// to User in the guest.
	Lower []Layer
}

// Configure makes the guest the one that a container asks for: it shows
// directories of the host in it and has its agent carry out c. The mounts of
// binds come before those of c, in order.
//
// The host's part of a mount reaches the guest by propagation, across the
// border of a user namespace: there the kernel locks its flags, and what covers
// a part of it, against the guest's root; mount_namespaces(7).
func (g *Guest) Configure(ctx context.Context, binds []Bind, c guestapi.Config) error {
	var mounts []guestapi.Mount
	for i, b := range binds {
		name := strconv.Itoa(i)
		if err := g.share(name, b); err != nil {
			return fmt.Errorf("cannot show %s in guest: %w", b.Target, err)
		}
		mounts = append(mounts, guestapi.Mount{Source: filepath.Join(guestShare, name), Target: b.Target, Fill: b.Fill})
	}

	c.Mounts = append(mounts, c.Mounts...)
	if err := g.call(ctx, guestapi.Request{Configure: &c}); err != nil {
		return fmt.Errorf("cannot configure guest: %w", err)
	}

	// Each is mounted where it belongs by now; the way there is closed.
	for i := range binds {
		shared := filepath.Join(g.dir, "share", strconv.Itoa(i))
		if err := unix.Unmount(shared, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("cannot configure guest: %w", err)
		}
	}
	return nil
}

// makeShare makes the directory whose mounts reach the guest.
func (g *Guest) makeShare() error {
	share := filepath.Join(g.dir, "share")
	if err := unix.Mount(share, share, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount %s: %w", share, err)
	}
	if err := unix.Mount("", share, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("cannot share %s: %w", share, err)
	}
	return nil
}

// share mounts a directory, with what covers parts of it, and lets it appear
// in the guest as one.
func (g *Guest) share(name string, b Bind) error {
	info, err := b.Source.Stat()
	if err != nil {
		return err
	}
	private, shared := filepath.Join(g.dir, "bind", name), filepath.Join(g.dir, "share", name)
	for _, point := range []string{private, shared} {
		if err := makeMountPoint(point, info.IsDir()); err != nil {
			return err
		}
	}

	// Covers of parts of the directory are mounted before it appears in the
	// guest: as one mount tree, whose covers the guest cannot lift.
	if err := g.mountBind(private, b); err != nil {
		return err
	}
	for _, hidden := range b.Hide {
		if err := g.hide(private, hidden, b); err != nil {
			return fmt.Errorf("cannot hide %s: %w", hidden, err)
		}
	}

	tree, err := unix.OpenTree(unix.AT_FDCWD, private, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return unix.MoveMount(tree, "", unix.AT_FDCWD, shared, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// makeMountPoint makes a new directory, or a file to mount another file on.
func makeMountPoint(name string, isDir bool) error {
	if isDir {
		return os.Mkdir(name, 0o755)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func (g *Guest) mountBind(target string, b Bind) error {
	if len(b.Lower) > 0 {
		return g.mountLayers(target, b)
	}
	attributes := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if b.ReadOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}

	base := rangeBase(g.idRange)
	m := treeMap(base, 0)
	if b.Owner != 0 {
		m = workMap(base, b.Owner, b.User)
	}
	ids, err := g.manager.userNamespace(m)
	if err != nil {
		return err
	}
	defer ids.Close()
	return cloneMount(b.Source, target, attributes, ids)
}

// hide covers a directory of a bind. The way to it is a job's to change, so no
// link is followed.
func (g *Guest) hide(private, name string, b Bind) error {
	// The directory is made beneath the source, whose ids are the host's.
	made, err := workroot.MakeBeneath(b.Source, name, b.Owner, b.Owner)
	if err != nil {
		return err
	}
	_ = made.Close()

	root, err := os.Open(private)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := pinParents(root, name); err != nil {
		return err
	}
	target, err := workroot.OpenBeneath(root, name)
	if err != nil {
		return err
	}
	defer target.Close()
	empty, err := os.Open(filepath.Join(g.dir, "empty"))
	if err != nil {
		return err
	}
	defer empty.Close()
	return cloneMountOn(empty, target,
		unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// pinParents mounts each directory between root and name over itself. The guest
// can then move none of them away, and put one of its own where the host will
// look for name: mounts that come from the host are locked.
func pinParents(root *os.File, name string) error {
	for i, c := range name {
		if c != '/' {
			continue
		}
		parent, err := workroot.OpenBeneath(root, name[:i])
		if err != nil {
			return err
		}
		err = cloneMountOn(parent, parent, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
		if err := errors.Join(err, parent.Close()); err != nil {
			return err
		}
	}
	return nil
}
