package workroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Remove removes the root with everything in it, however deep that is, but nothing
// of a file system that is mounted in it, which is an error. It is not an error if
// there is no root.
func (r Root) Remove() error {
	if !filepath.IsAbs(r.Path) { // "" would be the working directory
		return fmt.Errorf("cannot remove %q: it is not an absolute path", r.Path)
	}
	parent, err := os.Open(filepath.Dir(r.Path))
	if err != nil {
		return ignoreMissing(err)
	}
	defer parent.Close()

	if err := remove(parent, filepath.Base(r.Path)); err != nil {
		return fmt.Errorf("cannot remove %s: %w", r.Path, err)
	}
	return nil
}

// remove removes an entry of an open directory with everything in it.
func remove(dir *os.File, name string) error {
	err := ignoreMissing(unix.Unlinkat(int(dir.Fd()), name, 0))
	if !errors.Is(err, unix.EISDIR) {
		return err
	}

	tree, err := openDir(dir, name)
	if err != nil {
		return ignoreMissing(err)
	}
	defer tree.Close()
	if err := removeContent(tree); err != nil {
		return err
	}
	return ignoreMissing(unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR))
}

// removeContent removes everything in an open directory.
func removeContent(dir *os.File) error {
	dev, _, err := identify(dir)
	if err != nil {
		return err
	}
	return Walk(dir, Visitor{
		Enter: func(e Entry) error {
			switch {
			case e.Stat.Mode&unix.S_IFMT != unix.S_IFDIR:
				return unix.Unlinkat(int(e.Dir.Fd()), e.Name, 0)
			case e.Stat.Dev != dev:
				return errors.New("a file system is mounted there")
			}
			return nil
		},
		Leave: func(e Entry) error { return unix.Unlinkat(int(e.Dir.Fd()), e.Name, unix.AT_REMOVEDIR) },
	})
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
