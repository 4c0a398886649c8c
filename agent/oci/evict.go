package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cachedImage is an image in the store.
type cachedImage struct {
	dir  string
	used time.Time // zero if that is unknown
	size int64     // bytes on disk
}

// evict removes images that are not in use, the least recently used first,
// until the others fit.
func (s *Store) evict() error {
	if s.MaxBytes == 0 {
		return nil
	}
	list, total, err := s.list()
	if err != nil {
		return fmt.Errorf("cannot evict images: %w", err)
	}

	for _, image := range list {
		if total <= s.MaxBytes {
			return nil
		}
		removed, err := s.remove(image.dir)
		if err != nil {
			return fmt.Errorf("cannot evict images: %w", err)
		}
		if removed {
			total -= image.size
		}
	}
	return nil
}

// list returns the images, the least recently used first, and the bytes that
// they take together. An image that is damaged counts as empty and never used.
func (s *Store) list() (list []cachedImage, total int64, err error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, "images"))
	if err != nil {
		return nil, 0, err
	}

	for _, e := range entries {
		image := cachedImage{dir: filepath.Join(s.Dir, "images", e.Name())}
		if r, err := s.readRecord(filepath.Join("images", e.Name())); err == nil {
			image.size = r.Size
		}
		if info, err := os.Stat(filepath.Join(image.dir, "config.json")); err == nil {
			image.used = info.ModTime()
		}
		list = append(list, image)
		total += image.size
	}
	slices.SortFunc(list, func(a, b cachedImage) int { return a.used.Compare(b.used) })
	return list, total, nil
}

// remove removes an image unless it is in use, and reports whether it did. The
// image is moved aside first, so that no process finds half of it.
func (s *Store) remove(dir string) (bool, error) {
	held, err := os.Open(filepath.Join(dir, "lock"))
	if err == nil {
		defer held.Close()
		if errors.Is(unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK) {
			return false, nil
		}
	}

	aside := filepath.Join(s.Dir, "tmp", "removed-"+filepath.Base(dir))
	if err := os.RemoveAll(aside); err != nil {
		return false, err
	}
	if err := os.Rename(dir, aside); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // another process removes it
		}
		return false, err
	}
	return true, os.RemoveAll(aside)
}

// Sweep removes what a crash left, images that do not belong to the helper, and
// references to images that are gone. No other process may use the store meanwhile.
func (s *Store) Sweep() error {
	root, err := os.OpenRoot(s.Dir) // no link in the store leads out
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot sweep images: %w", err)
	}
	defer root.Close()

	err = root.RemoveAll("tmp")
	err = errors.Join(err, sweep(root, "images", func(name string) bool {
		info, err := root.Lstat(name)
		return err == nil && s.owns(info)
	}))
	err = errors.Join(err, sweep(root, "refs", func(name string) bool {
		r, err := s.readRef(name)
		return err == nil && s.has(r.Image)
	}))
	if err != nil {
		return fmt.Errorf("cannot sweep images: %w", err)
	}
	return nil
}

// sweep removes what is in a directory and is not to be kept.
func sweep(root *os.Root, dir string, keep func(name string) bool) error {
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if keep(name) {
			continue
		}
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

// owns reports whether a file is the helper's. An earlier version of this program
// was root itself, and left images that the helper can neither use nor replace.
func (s *Store) owns(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == s.Owner
}

func (s *Store) has(hex string) bool {
	_, err := s.readRecord(filepath.Join("images", filepath.Base(hex)))
	return err == nil
}
