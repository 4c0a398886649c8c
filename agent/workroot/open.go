package workroot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenBeneath opens the directory name beneath an open directory, for its path
// only (O_PATH), without following a symbolic link anywhere on the way;
// openat2(2).
func OpenBeneath(root *os.File, name string) (*os.File, error) {
	return walk(root, name, func(int, string) error { return nil })
}

// MakeBeneath is OpenBeneath, but makes the directories that do not exist, owned
// by a user and a group of the host.
func MakeBeneath(root *os.File, name string, uid, gid int) (*os.File, error) {
	return walk(root, name, func(parent int, part string) error {
		if unix.Mkdirat(parent, part, 0o755) != nil {
			return nil // what is wrong shows when part is opened
		}
		return unix.Fchownat(parent, part, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// walk opens one directory of name after the other. Before it enters a part, it
// calls enter with the descriptor of the directory that the part lies in.
func walk(root *os.File, name string, enter func(parent int, part string) error) (*os.File, error) {
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

		err := enter(fd, part)
		_ = unix.Close(fd)
		if err != nil {
			return nil, fmt.Errorf("cannot make %s: %w", dir, err)
		}

		// From the root again: a directory that was moved out of it meanwhile is not entered.
		if fd, err = unix.Openat2(int(root.Fd()), dir, &how); err != nil {
			return nil, fmt.Errorf("cannot open %s beneath %s: %w", dir, root.Name(), err)
		}
	}
	return os.NewFile(uintptr(fd), filepath.Join(root.Name(), dir)), nil
}
