package workroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/run"
)

// Remove removes the root with everything in it. It is not an error if there is
// none.
func (r Root) Remove() error {
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
	return Walk(dir, Visitor{
		Enter: func(e Entry) error {
			if e.Stat.Mode&unix.S_IFMT == unix.S_IFDIR {
				return nil
			}
			return unix.Unlinkat(int(e.Dir.Fd()), e.Name, 0)
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

// RemoveTree removes a directory that a job wrote to, and does nothing if there
// is none. rm(1) takes a bounded number of descriptors, however deep it is;
// os.RemoveAll takes one a level. A file system mounted in it stays.
func RemoveTree(dir string) error {
	rm := run.Cmd{Args: []string{"rm", "--recursive", "--force", "--one-file-system", "--", dir}}
	return run.Local{}.Exec(context.Background(), rm)
}
