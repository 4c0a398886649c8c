// Package workroot handles directories whose content a job controls, the
// runner's work directory above all. A job can put a symbolic link, a device or
// a directory of its own wherever it can write, and can exchange them at any
// moment. Everything here is therefore opened from a directory that is open
// already, and no link is followed.
package workroot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Root is a directory of the host whose content a job controls. The way to it
// is not the job's: links in Path itself are followed.
type Root struct {
	Path string // absolute

	// UID and GID are the host's user and group that own what is made in it.
	UID, GID int
}

// Name returns the name that a path of the host has beneath the root, "." for
// the root itself, and reports whether it has one. It looks at the text alone.
func (r Root) Name(path string) (name string, beneath bool) {
	name, err := filepath.Rel(r.Path, path)
	if err != nil || !filepath.IsLocal(name) {
		return "", false
	}
	return name, true
}

// Open opens the directory name beneath the root for its path only (O_PATH).
func (r Root) Open(name string) (*os.File, error) {
	return r.with(func(root *os.File) (*os.File, error) { return OpenBeneath(root, name) })
}

// Make is Open, but makes the directories that do not exist.
func (r Root) Make(name string) (*os.File, error) {
	return r.with(func(root *os.File) (*os.File, error) { return MakeBeneath(root, name, r.UID, r.GID) })
}

// OpenFileOrMake opens the regular file name beneath the root for its path only, or does
// as Make if there is none.
func (r Root) OpenFileOrMake(name string) (*os.File, error) {
	file, err := r.openPath(name)
	if errors.Is(err, errNotRegular) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return r.Make(name)
	}
	return file, err
}

// OpenFileOrDir is Open, but takes a regular file as well.
func (r Root) OpenFileOrDir(name string) (*os.File, error) {
	file, err := r.openPath(name)
	if errors.Is(err, errNotRegular) {
		return r.Open(name)
	}
	return file, err
}

var errNotRegular = errors.New("not a regular file")

// openPath opens a regular file for its path only.
func (r Root) openPath(name string) (*os.File, error) {
	dir, err := r.Open(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), filepath.Base(name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s beneath %s: %w", name, r.Path, err)
	}

	file := os.NewFile(uintptr(fd), filepath.Join(r.Path, name))
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("cannot open %s beneath %s: %w", name, r.Path, err)
	}
	return file, nil
}

// OpenRoot opens the directory name beneath the root, to read what is in it.
func (r Root) OpenRoot(name string) (*os.Root, error) {
	dir, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()

	// The link in /proc leads to the directory that is open, whatever now has its name.
	return os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())))
}

// OpenFile opens the regular file name beneath the root for reading. It opens
// neither a device nor a FIFO, on which a reader could wait for ever.
func (r Root) OpenFile(name string) (*os.File, error) {
	dir, err := r.Open(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()

	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := unix.Openat(int(dir.Fd()), filepath.Base(name), flags, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s beneath %s: %w", name, r.Path, err)
	}

	file := os.NewFile(uintptr(fd), filepath.Join(r.Path, name))
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("cannot open %s beneath %s: %w", name, r.Path, err)
	}
	return file, nil
}

func (r Root) with(open func(root *os.File) (*os.File, error)) (*os.File, error) {
	root, err := os.Open(r.Path)
	if err != nil {
		return nil, err
	}
	defer root.Close()

	return open(root)
}
