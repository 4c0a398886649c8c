package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WorkDir makes a directory in the cache for the work of one run, and removes
// those of runs that were killed. release removes it again.
func (c *Cache) WorkDir() (dir string, release func(), err error) {
	parent := filepath.Join(c.Dir, "work")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", nil, fmt.Errorf("cannot make work directory: %w", err)
	}
	if err := removeStale(parent); err != nil {
		return "", nil, err
	}
	dir, err = os.MkdirTemp(parent, "")
	if err != nil {
		return "", nil, fmt.Errorf("cannot make work directory: %w", err)
	}
	// Held for as long as this run lives; the kernel gives it up with it.
	lock, err := lockDir(dir)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, fmt.Errorf("cannot make work directory: %w", err)
	}
	return dir, func() {
		_ = os.RemoveAll(dir)
		_ = lock.Close()
	}, nil
}

// removeStale deletes the work directories that no run holds.
func removeStale(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("cannot read work directories: %w", err)
	}
	for _, e := range entries {
		lock, err := lockDir(filepath.Join(parent, e.Name()))
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
			continue // in use, or removed by its owner meanwhile
		}
		if err == nil {
			err = errors.Join(os.RemoveAll(filepath.Join(parent, e.Name())), lock.Close())
		}
		if err != nil {
			return fmt.Errorf("cannot remove what an interrupted run left: %w", err)
		}
	}
	return nil
}

// lockDir takes the lock of a directory, flock(2), if nobody has it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
