// Package atomicfile replaces files so that a power cut leaves either the old
// or the new content, never a mixture: write, fsync, rename, fsync the
// directory.
//
// The new file is another inode. It belongs to the user and group of the
// calling process (or to the group of a setgid directory), whoever owned the
// old one. Its mode is exactly the one given: the umask does not apply, and that
// of the old file is not kept, nor are its ACL and extended attributes. A
// symbolic link at the final path is replaced, not followed; those in the
// directories that lead there are followed. Hard links keep the old content.
//
// A process that is killed may leave a temporary file, ".NAME.RANDOM.tmp",
// beside the final one.
package atomicfile

import (
	"fmt"
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

// Create starts a file that will appear at path when Commit is called. Call
// Abandon in any case.
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
// If only the last step fails, syncing the directory, the new file is in place.
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
