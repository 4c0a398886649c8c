package workroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// RestoreOwnership makes the root's user and group the owners of everything
// beneath it that belongs to a user or group with the number first or a higher
// one. Those are the users of guests; the runner has to be able to remove what
// they left. Entries that vanish meanwhile are passed over.
func (r Root) RestoreOwnership(first int) error {
	root, err := os.Open(r.Path)
	if err != nil {
		return fmt.Errorf("cannot restore ownership: %w", err)
	}
	defer root.Close()

	if err := (chowner{first: first, uid: r.UID, gid: r.GID}).chownTree(root); err != nil {
		return fmt.Errorf("cannot restore ownership in %s: %w", r.Path, err)
	}
	return nil
}

// chowner hands what users from first on own to one user and group.
type chowner struct{ first, uid, gid int }

// chownTree hands over the content of a directory. It opens every directory from
// the one above and follows no link, since the job chose all the names.
func (c chowner) chownTree(dir *os.File) error {
	// dir may be open for its path only; reading needs a descriptor of its own.
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", dir.Name(), err)
	}
	readable := os.NewFile(uintptr(fd), dir.Name())
	defer readable.Close()

	entries, err := readable.ReadDir(-1)
	if err != nil {
		return err
	}

	// An entry that cannot be handed over does not keep the others.
	var failed error
	for _, e := range entries {
		if err := c.chownEntry(readable, e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", e.Name(), err))
		}
	}
	return failed
}

func (c chowner) chownEntry(dir *os.File, name string) error {
	var stat unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if int(stat.Uid) >= c.first || int(stat.Gid) >= c.first {
		if err := unix.Fchownat(int(dir.Fd()), name, c.uid, c.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}

	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	sub := os.NewFile(uintptr(fd), name)
	defer sub.Close()

	return c.chownTree(sub)
}
