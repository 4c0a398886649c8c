package guest

import (
	"fmt"
	"os"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// cloneMount attaches a clone of the tree at source to the directory target,
// with attributes (MOUNT_ATTR_*) and, if idmap is not nil, with the map of that
// user namespace; mount_setattr(2).
func cloneMount(source *os.File, target string, attributes uint64, idmap *os.File) error {
	tree, err := detachedClone(source, attributes, idmap)
	if err != nil {
		return err
	}
	defer unix.Close(tree)

	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot mount %s: %w", source.Name(), err)
	}
	return nil
}

// cloneMountOn does what cloneMount does onto an open directory, without a map.
func cloneMountOn(source, target *os.File, attributes uint64) error {
	tree, err := detachedClone(source, attributes, nil)
	if err != nil {
		return err
	}
	defer unix.Close(tree)

	flags := unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if err := unix.MoveMount(tree, "", int(target.Fd()), "", flags); err != nil {
		return fmt.Errorf("cannot mount %s: %w", source.Name(), err)
	}
	return nil
}

// detachedClone returns a descriptor of a clone that is mounted nowhere yet.
func detachedClone(source *os.File, attributes uint64, idmap *os.File) (int, error) {
	tree, err := unix.OpenTree(int(source.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, fmt.Errorf("cannot clone mount of %s: %w", source.Name(), err)
	}

	attr := unix.MountAttr{Attr_set: attributes, Propagation: unix.MS_PRIVATE}
	if idmap != nil {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(idmap.Fd())
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(tree)
		return -1, fmt.Errorf("cannot map ids of %s: %w", source.Name(), err)
	}
	return tree, nil
}

// unmountBelow detaches every mount at or beneath dir, and makes sure of it:
// dir is about to be removed, and a workspace mounted there must not be.
func unmountBelow(dir string) error {
	for range 3 {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return fmt.Errorf("cannot list mounts: %w", err)
		}
		if len(mounts) == 0 {
			return nil
		}

		// They are listed in the order they were mounted.
		for _, m := range slices.Backward(mounts) {
			// One that fails shows up again in the next round.
			_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	return fmt.Errorf("cannot unmount what is beneath %s", dir)
}
