// Package workroot handles directories whose content a job controls.
package workroot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

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
