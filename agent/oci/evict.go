package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// kept is an image that is there.
type kept struct {
	dir  string
	used time.Time
	size int64
}

// evict removes images that nobody uses, those used longest ago first, until
// the others fit.
func (s *Store) evict() error {
	if s.MaxBytes == 0 {
		return nil
	}
	list, total, err := s.list()
	if err != nil {
		return fmt.Errorf("cannot clear the images: %w", err)
	}
	for _, k := range list {
		if total <= s.MaxBytes {
			return nil
		}
		removed, err := s.remove(k.dir)
		if err != nil {
			return fmt.Errorf("cannot clear the images: %w", err)
		}
		if removed {
			total -= k.size
		}
	}
	return nil
}

// list gives what is there, that used longest ago first.
func (s *Store) list() (list []kept, total int64, err error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, "images"))
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		k := kept{dir: filepath.Join(s.Dir, "images", e.Name())}
		if r, err := readRecord(k.dir); err == nil {
			k.size = r.Size
		}
		if info, err := os.Stat(filepath.Join(k.dir, "config.json")); err == nil {
			k.used = info.ModTime()
		}
		list = append(list, k)
		total += k.size
	}
	slices.SortFunc(list, func(a, b kept) int { return a.used.Compare(b.used) })
	return list, total, nil
}

// remove deletes an image unless it is used. It is moved aside first, so that
// nobody finds half of it.
func (s *Store) remove(dir string) (bool, error) {
	held, err := os.Open(filepath.Join(dir, "lock"))
	if err == nil {
		defer held.Close()
		if errors.Is(unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK) {
			return false, nil
		}
	}
	aside := filepath.Join(s.Dir, "tmp", "removed-"+filepath.Base(dir))
	if err := errors.Join(os.RemoveAll(aside), os.Rename(dir, aside)); err != nil {
		return false, err
	}
	return true, os.RemoveAll(aside)
}

// Sweep removes what a crash left, and names whose image is gone. Nobody else
// may use the store.
func (s *Store) Sweep() error {
	if err := os.RemoveAll(filepath.Join(s.Dir, "tmp")); err != nil {
		return fmt.Errorf("cannot sweep images: %w", err)
	}
	refs, err := os.ReadDir(filepath.Join(s.Dir, "refs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot sweep images: %w", err)
	}
	for _, r := range refs {
		file := filepath.Join(s.Dir, "refs", r.Name())
		if e, err := readEntry(file); err == nil && s.has(e.Image) {
			continue
		}
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("cannot sweep images: %w", err)
		}
	}
	return nil
}

func (s *Store) has(hex string) bool {
	_, err := os.Stat(filepath.Join(s.Dir, "images", filepath.Base(hex), "config.json"))
	return err == nil
}
