package dist

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// Files that each copy has.
const (
	listener = "bin/Runner.Listener"
	worker   = "bin/Runner.Worker"
)

// limits bound what an archive may unpack to. Release 2.336.0 has 11000 files and
// 700 MB.
type limits struct {
	bytes int64
	files int
}

var defaultLimits = limits{bytes: 4 << 30, files: 200_000}

// unpack unpacks an archive of the actions runner, a compressed tar file, into an
// empty directory. It makes files, directories and links, all of the calling user
// and writable by nobody else, none beyond the directory.
func unpack(from io.Reader, dir string) error { return defaultLimits.unpack(from, dir) }

func (l limits) unpack(from io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Chmod(".", 0o755); err != nil {
		return err
	}
	plain, err := gzip.NewReader(from)
	if err != nil {
		return err
	}
	defer plain.Close()

	left := l
	for archive := tar.NewReader(plain); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if left.files--; left.files < 0 {
			return fmt.Errorf("it has more than %d files", l.files)
		}
		if left.bytes -= h.Size; h.Size < 0 || left.bytes < 0 {
			return fmt.Errorf("it unpacks to more than %d MiB", l.bytes>>20)
		}
		if err := unpackEntry(root, h, archive); err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
}

func unpackEntry(root *os.Root, h *tar.Header, content io.Reader) error {
	name := path.Clean(h.Name)
	if !filepath.IsLocal(name) {
		return errors.New("the path leads out of the archive")
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}

	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeReg:
		return unpackFile(root, name, h.FileInfo().Mode(), content)
	case tar.TypeSymlink:
		if path.IsAbs(h.Linkname) || !filepath.IsLocal(path.Join(path.Dir(name), h.Linkname)) {
			return errors.New("the link leads out of the archive")
		}
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(strings.TrimPrefix(h.Linkname, "./"), name)
	}
	return fmt.Errorf("an entry of type %q is neither a file nor a directory nor a link", h.Typeflag)
}

// unpackFile makes a new file: a name that is there already is an error.
func unpackFile(root *os.Root, name string, mode fs.FileMode, content io.Reader) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}

	perm := fs.FileMode(0o644)
	if mode&0o111 != 0 {
		perm = 0o755
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	return f.Close()
}

// checkCopy asserts that a tree is an actions runner, and adds the second name of the
// worker that the image's has.
func checkCopy(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range []string{listener, worker} {
		info, err := root.Lstat(name)
		if err == nil && (!info.Mode().IsRegular() || info.Mode()&0o111 == 0) {
			err = fmt.Errorf("%s is not a program", name)
		}
		if err != nil {
			return fmt.Errorf("not an actions runner: %w", err)
		}
	}
	if info, err := root.Lstat("externals"); err != nil || !info.IsDir() {
		return errors.New("not an actions runner: there is no directory externals")
	}
	return root.Link(worker, path.Join(path.Dir(worker), layout.RealWorker))
}
