package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// DefaultMaxFiles is how many files and directories an image may have unless the
// store says otherwise. The largest images of hosted runners have half as many.
const DefaultMaxFiles = 1 << 20

// inodeSize is what a file counts besides its blocks, in bytes. So a file without
// content is not free: file systems have room for so many.
const inodeSize = 4096

// The part of the file system that the images leave to the host, and to the
// removal of images: a share of its blocks and of its inodes, and no more bytes
// than maxReserve. An unpacking process, which cannot remove images, goes on
// until half of that.
const (
	reserveShare = 32
	maxReserve   = 4 << 30
)

var errFull = errors.New("the file system of the images is nearly full; " +
	"make room on it, or lower RUNNER_IMAGE_CACHE in config.env")

// hasRoom reports whether the file system of dir has more than a share of it left.
func hasRoom(dir string, share uint64) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false, fmt.Errorf("cannot measure file system of %s: %w", dir, err)
	}
	reserve := min(fs.Blocks/share, maxReserve*reserveShare/share/uint64(fs.Bsize))
	return fs.Bavail >= reserve && fs.Ffree >= fs.Files/share, nil // some have no inodes to count
}

// ensureRoom removes images that are not in use, the least recently used first,
// until the file system has room.
func (s *Store) ensureRoom() error {
	if ok, err := hasRoom(s.Dir, reserveShare); ok || err != nil {
		return err
	}
	list, _, err := s.list()
	if err != nil {
		return err
	}

	for _, image := range list {
		if _, err := s.remove(image.dir); err != nil {
			return err
		}
		if ok, err := hasRoom(s.Dir, reserveShare); ok || err != nil {
			return err
		}
	}
	return errFull
}

// roomReader reads what is about to be stored, as long as there is room for it.
type roomReader struct {
	io.Reader
	store *Store
	next  int64 // bytes until the next check
}

// roomInterval is how many bytes are stored between two checks.
const roomInterval = 64 << 10

// Read implements io.Reader.
func (r *roomReader) Read(p []byte) (int, error) {
	if r.next <= 0 {
		if err := r.store.ensureRoom(); err != nil {
			return 0, err
		}
		r.next = roomInterval
	}
	n, err := r.Reader.Read(p)
	r.next -= int64(n)
	return n, err
}

// errFiles is the unpacking process's error for more files than it may make.
var errFiles = errors.New("too many files")

// fileCounter counts the files and directories that a layer makes in a tree. It
// counts a file again that replaces another.
type fileCounter struct {
	root      string
	files     int64
	max       int64
	nextCheck int64 // number of files at which the room is looked at again
}

// filter is a filter for archive.Apply.
func (c *fileCounter) filter(h *tar.Header) (bool, error) {
	ok, err := wanted(h)
	if !ok || err != nil {
		return ok, err
	}

	c.files += 1 + c.missingParents(h.Name)
	if c.files > c.max {
		return false, errFiles
	}
	if c.files >= c.nextCheck {
		c.nextCheck = c.files + 32
		if ok, err := hasRoom(c.root, 2*reserveShare); !ok || err != nil {
			return false, errors.Join(err, errFull)
		}
	}
	return true, nil
}

// missingParents returns how many directories are made so that a file can be. An
// archive need not list them.
func (c *fileCounter) missingParents(name string) int64 {
	var n int64
	for dir := filepath.Dir(filepath.Join("/", name)); dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(c.root, dir)); err == nil {
			break
		}
		n++
	}
	return n
}
