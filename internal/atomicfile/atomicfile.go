// Package atomicfile replaces files so that a power cut leaves either the old
// or the new content, never a mixture: write, fsync, rename, fsync the
// directory.
package atomicfile

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// File is a file being written under a temporary name beside its final one.
type File struct {
	*os.File
	path string
	done bool
}

// Create starts a file that will appear at path when Commit is called.
func Create(path string, perm fs.FileMode) (*File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return nil, fmt.Errorf("cannot create %s: %w", path, err)
	}
	if err := f.Chmod(perm); err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return nil, fmt.Errorf("cannot set mode of %s: %w", path, err)
	}
	return &File{File: f, path: path}, nil
}

// Commit makes the content durable and puts it in place under the final name.
func (f *File) Commit() error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot write %s: %w", f.path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("cannot write %s: %w", f.path, err)
	}
	if err := os.Rename(f.Name(), f.path); err != nil {
		return fmt.Errorf("cannot put %s in place: %w", f.path, err)
	}
	f.done = true
	return SyncDir(filepath.Dir(f.path))
}

// Abandon removes the temporary file. After Commit it does nothing, so it can
// be deferred.
func (f *File) Abandon() {
	if f.done {
		return
	}
	_ = f.Close()
	_ = os.Remove(f.Name())
}

// Write puts data at path, atomically and durably.
func Write(path string, data []byte, perm fs.FileMode) error {
	f, err := Create(path, perm)
	if err != nil {
		return err
	}
	defer f.Abandon()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return f.Commit()
}

// Copy puts all that r holds at path, atomically and durably.
func Copy(path string, r io.Reader, perm fs.FileMode) error {
	f, err := Create(path, perm)
	if err != nil {
		return err
	}
	defer f.Abandon()
	if _, err := io.Copy(f, r); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return f.Commit()
}

// SyncDir makes the names in a directory durable, fsync(2).
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot sync directory %s: %w", dir, err)
	}
	return nil
}
