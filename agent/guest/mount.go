package guest

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
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

// OpenBeneath opens the directory name beneath root without following a
// symbolic link anywhere on the way, openat2(2). Directories that do not exist
// are made, as uid's and gid's, or not made if uid is negative.
func OpenBeneath(root *os.File, name string, uid, gid int) (*os.File, error) {
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("cannot open %q: it is not beneath %s", name, root.Name())
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	dir := "."
	fd, err := unix.Openat2(int(root.Fd()), dir, &how)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", root.Name(), err)
	}
	for part := range strings.SplitSeq(filepath.Clean(name), "/") {
		if part == "." {
			break
		}
		dir = filepath.Join(dir, part)
		if uid >= 0 && unix.Mkdirat(fd, part, 0o755) == nil {
			if err := unix.Fchownat(fd, part, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				_ = unix.Close(fd)
				return nil, fmt.Errorf("cannot make %s: %w", dir, err)
			}
		}
		_ = unix.Close(fd)
		if fd, err = unix.Openat2(int(root.Fd()), dir, &how); err != nil {
			return nil, fmt.Errorf("cannot open %s beneath %s: %w", dir, root.Name(), err)
		}
	}
	return os.NewFile(uintptr(fd), filepath.Join(root.Name(), dir)), nil
}
