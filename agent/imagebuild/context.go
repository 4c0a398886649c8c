package imagebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/workroot"
)

// limits bound the context of a build. A job can make one of any size at no cost:
// a sparse file of 8 TiB, for one.
type limits struct {
	bytes   int64
	entries int
	depth   int // directories in one another
}

// defaultLimits are beyond the repositories that have a Dockerfile.
func defaultLimits() limits { return limits{bytes: 4 << 30, entries: 1_000_000, depth: 200} }

// copier copies a directory that a job controls into one that it does not, and
// names the copy by its content: names, permissions and bytes. The job can
// exchange files at any moment, so that the copy alone is hashed and built from.
type copier struct {
	limits // what is left of them
	ctx    context.Context
	to     *os.Root
	owner  workroot.Root // whose user and group own the copy

	lines []string // one an entry: its name, and a hash of the rest
}

// copy copies all but devices, sockets and FIFOs, which only their names stand
// for. It follows no link and waits for no FIFO.
func (c *copier) copy(from *os.File) error {
	var failed error
	err := workroot.Walk(from, workroot.Visitor{Enter: func(e workroot.Entry) error {
		if err := c.copyEntry(e); err != nil {
			failed = fmt.Errorf("%.80q: %w", e.Path(), err)
			return workroot.ErrStop
		}
		return nil
	}})
	if failed != nil {
		return failed
	}
	return err
}

func (c *copier) copyEntry(e workroot.Entry) error {
	if err := c.check(e); err != nil {
		return err
	}

	name, content := e.Path(), ""
	var err error
	switch e.Stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = c.to.Mkdir(name, 0o700)
	case unix.S_IFLNK:
		content, err = c.copyLink(e)
	case unix.S_IFREG:
		content, err = c.copyFile(e)
	default:
		c.lines = append(c.lines, fmt.Sprintf("%q %o\n", name, e.Stat.Mode))
		return nil
	}
	if err != nil {
		return err
	}

	c.lines = append(c.lines, fmt.Sprintf("%q %o %q\n", name, e.Stat.Mode, content))
	return c.setOwner(e)
}

// check counts an entry against the limits.
func (c *copier) check(e workroot.Entry) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	c.entries--
	switch {
	case c.entries < 0:
		return errors.New("the directory of the Dockerfile has too many files")
	case e.Depth() > c.depth:
		return errors.New("the directory of the Dockerfile is nested too deeply")
	}
	return nil
}

// setOwner makes the copy of an entry the runner's, as all in the work root is,
// with the permissions of the original.
func (c *copier) setOwner(e workroot.Entry) error {
	name := e.Path()
	if err := c.to.Lchown(name, c.owner.UID, c.owner.GID); err != nil {
		return err
	}
	if e.Stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	return c.to.Chmod(name, fs.FileMode(e.Stat.Mode&0o777))
}

// copyLink copies a symbolic link and returns where it leads.
func (c *copier) copyLink(e workroot.Entry) (target string, err error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(e.Dir.Fd()), e.Name, buf)
	if err != nil {
		return "", err
	}
	target = string(buf[:n])
	return target, c.to.Symlink(target, e.Path())
}

// copyFile copies a regular file and returns a hash of it.
func (c *copier) copyFile(e workroot.Entry) (sum string, err error) {
	fd, err := unix.Openat(int(e.Dir.Fd()), e.Name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	from := os.NewFile(uintptr(fd), e.Name)
	defer from.Close()
	info, err := from.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", errors.New("it is no longer a regular file")
	case info.Size() > c.bytes: // before a sparse file is read for hours
		return "", errTooLarge
	}

	to, err := c.to.OpenFile(e.Path(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, hash), io.LimitReader(contextReader{c.ctx, from}, c.bytes+1))
	if err := errors.Join(err, to.Close()); err != nil {
		return "", err
	}
	if c.bytes -= n; c.bytes < 0 { // it grows
		return "", errTooLarge
	}
	return hex.EncodeToString(hash.Sum(nil)), c.to.Chtimes(e.Path(), info.ModTime(), info.ModTime())
}

// errTooLarge is that the context has more bytes than a build may have.
var errTooLarge = errors.New("the directory of the Dockerfile is too large")

// contextReader reads until a context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// key names the copy, in which the Dockerfile has a name.
func (c *copier) key(dockerfile string) string {
	slices.Sort(c.lines)
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", dockerfile)
	for _, line := range c.lines {
		_, _ = io.WriteString(sum, line)
	}
	return "dockerfile " + hex.EncodeToString(sum.Sum(nil))
}
