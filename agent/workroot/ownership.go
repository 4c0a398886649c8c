package workroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// RestoreOwnership makes the runner the owner of what the users of a guest other than
// its root left beneath a work directory. It opens every directory from the one
// above and follows no link, since the job chose all the names.
func RestoreOwnership(dir *os.File, first, uid, gid int) error {
	// dir is open for its path only; reading needs a descriptor of its own.
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot give %s back: %w", dir.Name(), err)
	}
	open := os.NewFile(uintptr(fd), dir.Name())
	defer open.Close()
	entries, err := open.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("cannot give %s back: %w", dir.Name(), err)
	}
	var failed error
	for _, e := range entries {
		if err := restoreEntry(open, e, first, uid, gid); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

func restoreEntry(dir *os.File, e fs.DirEntry, first, uid, gid int) error {
	var stat unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), e.Name(), &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if int(stat.Uid) >= first || int(stat.Gid) >= first {
		if err := unix.Fchownat(int(dir.Fd()), e.Name(), uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := unix.Openat(int(dir.Fd()), e.Name(), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	sub := os.NewFile(uintptr(fd), e.Name())
	defer sub.Close()
	return RestoreOwnership(sub, first, uid, gid)
}
