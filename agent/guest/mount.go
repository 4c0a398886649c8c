package guest

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

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

// cloneMountOn is cloneMount onto a directory that is open, without a map.
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
// dir is about to be deleted, and a workspace mounted there must not be.
func unmountBelow(dir string) error {
	for range 3 {
		points, err := mountsBelow(dir)
		if err != nil {
			return err
		}
		if len(points) == 0 {
			return nil
		}
		for _, point := range slices.Backward(points) {
			// One that fails shows up again in the next round.
			_ = unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	return fmt.Errorf("cannot unmount what is beneath %s", dir)
}

// mountsBelow lists the mount points at or beneath dir, in the order they were
// mounted, proc_pid_mountinfo(5).
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	defer f.Close()
	var points []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 5 {
			continue
		}
		if point := unescape(fields[4]); point == dir || strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	return points, nil
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
