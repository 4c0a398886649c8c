package rootfs

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"

	"github.com/mkappliance/mkappliance/internal/run"
)

// unpack extracts a layer below dir with owners, modes and extended attributes.
// Device nodes are left out: the kernel's devtmpfs makes them, and an
// unprivileged build may not.
func unpack(ctx context.Context, executor run.Executor, tar, dir string, options ...string) error {
	argv := append([]string{"tar", "--extract", "--file", tar, "--directory", dir, "--numeric-owner",
		"--xattrs", "--xattrs-include=*", "--exclude=./dev/*"}, options...)
	if err := executor.Exec(ctx, run.Cmd{Args: argv}); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(tar), err)
	}
	return nil
}

// unpackLayer unpacks a layer without the name and the resolver that
// mmdebstrap(1) copies from the build host for its own use.
func unpackLayer(ctx context.Context, executor run.Executor, tar, dir string) error {
	return unpack(ctx, executor, tar, dir, "--exclude=./etc/hostname", "--exclude=./etc/resolv.conf")
}

// unpackTarball extracts a .tar, .tar.gz or .tar.xz below dir as root's files.
func unpackTarball(ctx context.Context, executor run.Executor, tarball, dir string) error {
	f, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer f.Close()
	tar, err := decompress(tarball, f)
	if err != nil {
		return fmt.Errorf("%s: %w", tarball, err)
	}

	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err = executor.Exec(ctx, run.Cmd{Args: []string{"tar", "--extract", "--file", "-", "--directory", dir,
		"--no-same-owner", "--owner=root", "--group=root"}, Stdin: tar})
	if err != nil {
		return fmt.Errorf("%s: %w", tarball, err)
	}
	return nil
}

// decompress returns the tar stream in r. The name of the file decides how r is
// compressed.
func decompress(name string, r io.Reader) (io.Reader, error) {
	// xz reads single bytes, so without a buffer each costs a system call.
	buffered := bufio.NewReaderSize(r, 1<<20)
	switch {
	case strings.HasSuffix(name, ".tar.gz"), strings.HasSuffix(name, ".tgz"):
		return gzip.NewReader(buffered)
	case strings.HasSuffix(name, ".tar.xz"):
		return xz.NewReader(buffered)
	case strings.HasSuffix(name, ".tar"):
		return buffered, nil
	}
	return nil, errors.New("unknown kind of file; use a .tar, .tar.gz or .tar.xz")
}
