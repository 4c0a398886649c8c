// Package store keeps what took long to make: files and trees, each under a
// key that is a digest of everything it was made from. An entry never changes.
// All of the store can be removed and will be made again.
//
//	DIR/KIND/KEY      an entry: a file or a directory
//	DIR/KIND/.new-*   an entry in the making
//	DIR/work/*        work directories of runs
//	DIR/lock          held shared by runs that use entries, exclusively by Prune
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// ErrInUse is returned by Prune if a run uses the store.
var ErrInUse = errors.New("the store is in use")

// Store is a directory of entries. Any number of processes may use it at once.
type Store struct {
	Dir string // made when it is first needed
}

// newPattern names the directory in which an entry is made.
const newPattern = ".new-"

func (s *Store) path(kind, key string) string { return filepath.Join(s.Dir, kind, key) }

// Get returns the path of an entry and marks it as used now. If there is no
// such entry, the error is fs.ErrNotExist.
func (s *Store) Get(kind, key string) (string, error) {
	path := s.path(kind, key)
	if _, err := os.Lstat(path); err != nil {
		return "", fmt.Errorf("cannot read store: %w", err)
	}

	// The time of use is for Prune alone, and a store may be read-only.
	now := time.Now()
	_ = os.Chtimes(path, now, now)
	return path, nil
}

// Put makes an entry and returns its path. The function creates a file or a
// directory at the path it is given; it may use the directory around it for
// other files. If another process has put the same entry meanwhile, Put drops
// its own and returns that one.
func (s *Store) Put(kind, key string, create func(path string) error) (string, error) {
	path := s.path(kind, key)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("cannot write store: %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(path), newPattern)
	if err != nil {
		return "", fmt.Errorf("cannot write store: %w", err)
	}
	defer os.RemoveAll(temp)

	made := filepath.Join(temp, key)
	if err := create(made); err != nil {
		return "", err
	}
	if err := syncEntry(made); err != nil {
		return "", fmt.Errorf("cannot write store: %w", err)
	}

	// A file replaces its twin, a directory cannot: both are the same entry.
	if err := os.Rename(made, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("cannot write store: %w", err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(path)); err != nil {
		return "", fmt.Errorf("cannot write store: %w", err)
	}
	return s.Get(kind, key)
}

// syncEntry makes an entry durable before it gets its name. Syncing a tree file
// by file would take longer than syncing the file system.
func syncEntry(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()

	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return unix.Syncfs(int(f.Fd()))
	}
	return f.Sync()
}

// Newest returns the entry of a kind that was used last, and marks it as used
// now. If the kind has no entry, the error is fs.ErrNotExist.
func (s *Store) Newest(kind string) (string, error) {
	entries, err := readEntries(filepath.Join(s.Dir, kind))
	if err != nil {
		return "", fmt.Errorf("cannot read store: %w", err)
	}

	newest := entry{}
	for _, e := range entries {
		if newest.name == "" || e.used.After(newest.used) {
			newest = e
		}
	}
	if newest.name == "" {
		return "", fmt.Errorf("cannot find %s in store: %w", kind, fs.ErrNotExist)
	}
	return s.Get(kind, newest.name)
}

// entry is the name of an entry and the time of its last use.
type entry struct {
	name string
	used time.Time
}

// readEntries returns the finished entries of a directory; a missing one has none.
func readEntries(dir string) ([]entry, error) {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}

	var entries []entry
	for _, e := range list {
		if strings.HasPrefix(e.Name(), newPattern) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{e.Name(), info.ModTime()})
	}
	return entries, nil
}

// Use keeps Prune away from the store until release is called.
func (s *Store) Use() (release func(), err error) {
	lock, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return nil, fmt.Errorf("cannot lock store: %w", err)
	}
	return func() { _ = lock.Close() }, nil
}

// lock takes the lock of the store, flock(2). The kernel releases it when the
// file is closed, or the process ends.
func (s *Store) lock(how int) (*os.File, error) {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.Dir, "lock"), os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Prune removes the entries that were last used before a time, and what
// interrupted runs left unfinished. It returns ErrInUse, and removes nothing,
// while a run uses the store.
func (s *Store) Prune(before time.Time) error {
	lock, err := s.lock(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrInUse
	}
	if err != nil {
		return fmt.Errorf("cannot lock store: %w", err)
	}
	defer lock.Close()

	kinds, err := os.ReadDir(s.Dir)
	if err != nil {
		return fmt.Errorf("cannot read store: %w", err)
	}
	for _, kind := range kinds {
		// Work directories have locks of their own.
		if !kind.IsDir() || kind.Name() == workKind {
			continue
		}
		if err := pruneKind(filepath.Join(s.Dir, kind.Name()), before); err != nil {
			return fmt.Errorf("cannot prune store: %w", err)
		}
	}
	return nil
}

func pruneKind(dir string, before time.Time) error {
	entries, err := readEntries(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.used.Before(before) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.name)); err != nil {
			return err
		}
	}

	// With the lock held, nobody is making any of these.
	unfinished, err := filepath.Glob(filepath.Join(dir, newPattern+"*"))
	if err != nil {
		return err
	}
	for _, path := range unfinished {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
