package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// workKind is the directory of work directories.
const workKind = "work"

// WorkDir makes a directory in the store for the work of one run, and removes
// those of runs that were killed. Calling release removes it again.
func (s *Store) WorkDir() (dir string, release func(), err error) {
	parent := filepath.Join(s.Dir, workKind)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", nil, fmt.Errorf("cannot make work directory: %w", err)
	}

	// Between its making and its locking, another run would take the new
	// directory for a stale one.
	guard, err := lockDir(parent, unix.LOCK_EX)
	if err != nil {
		return "", nil, fmt.Errorf("cannot make work directory: %w", err)
	}
	defer guard.Close()
	if err := removeStale(parent); err != nil {
		return "", nil, err
	}

	dir, err = os.MkdirTemp(parent, "")
	if err != nil {
		return "", nil, fmt.Errorf("cannot make work directory: %w", err)
	}

	// The kernel releases the lock when this process ends, however it ends.
	lock, err := lockDir(dir, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, fmt.Errorf("cannot make work directory: %w", err)
	}
	return dir, func() {
		_ = os.RemoveAll(dir)
		_ = lock.Close()
	}, nil
}

// removeStale removes the work directories that no run holds.
func removeStale(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("cannot read work directories: %w", err)
	}
	for _, e := range entries {
		lock, err := lockDir(filepath.Join(parent, e.Name()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
			continue // in use, or removed by its owner meanwhile
		}
		if err == nil {
			err = errors.Join(os.RemoveAll(filepath.Join(parent, e.Name())), lock.Close())
		}
		if err != nil {
			return fmt.Errorf("cannot remove the work directory of an interrupted run: %w", err)
		}
	}
	return nil
}

// lockDir takes the lock of a directory, flock(2). Closing the file releases it.
func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
