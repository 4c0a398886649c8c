package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/run"
)

// openLayer opens a layer of an image, counted from the lowest, as a plain tar
// archive.
type openLayer func(i int) (io.ReadCloser, error)

// unpack applies the layers of an image to a new directory. The digest of each
// must be the one in the image's configuration, its "diff id".
func (s *Store) unpack(ctx context.Context, root string, layers []v1.Hash, open openLayer) error {
	if err := errors.Join(os.Mkdir(root, 0o755), os.Lchown(root, s.Owner, s.Owner)); err != nil {
		return err
	}

	left := s.MaxBytes
	for i, want := range layers {
		size, err := s.apply(ctx, root, i, want, open, left)
		if err != nil {
			return fmt.Errorf("cannot unpack layer %d: %w", i+1, err)
		}
		left -= size
	}
	return nil
}

// apply applies a layer to the tree and returns its size, which may be up to
// left bytes.
func (s *Store) apply(
	ctx context.Context, root string, i int, want v1.Hash, open openLayer, left int64,
) (int64, error) {
	plain, err := open(i)
	if err != nil {
		return 0, err
	}
	defer plain.Close()

	sum := sha256.New()
	content := &limitedReader{from: io.TeeReader(plain, sum)}
	if s.MaxBytes > 0 {
		content.max, content.tooLarge = left, s.tooLarge()
	}

	err = s.runUnpacker(ctx, root, content)
	if err == nil {
		// Bytes after the end of the archive count for its digest.
		_, err = io.Copy(io.Discard, content)
	}
	if content.err != nil {
		return 0, content.err // the unpacker only reports that its input ended
	}
	if err != nil {
		return 0, err
	}

	if got := hex.EncodeToString(sum.Sum(nil)); got != want.Hex {
		return 0, fmt.Errorf("its content is sha256:%s, and the image lists %s", got, want)
	}
	return content.n, nil
}

func (s *Store) tooLarge() error {
	return fmt.Errorf("the image is too large: all images together may take %.1f MiB; "+
		"raise RUNNER_IMAGE_CACHE in config.env", float64(s.MaxBytes)/(1<<20))
}

// limitedReader counts the bytes that it reads, and keeps the error that ended
// reading.
type limitedReader struct {
	from     io.Reader
	n        int64 // bytes read
	max      int64 // bytes that may be read, if tooLarge is set
	tooLarge error // the error for more
	err      error // nil, also at the end
}

// Read implements io.Reader.
func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if r.n += int64(n); r.tooLarge != nil && r.n > r.max {
		n, err = 0, r.tooLarge
	}
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// rootFD is the descriptor of the tree in the unpacking process.
const rootFD = 3

// runUnpacker unpacks a layer in a process of its own, in a user namespace whose
// root is unknown to the host, with the tree as root directory. So the layer
// reaches nothing but the tree, and its files belong to users unknown to the host.
func (s *Store) runUnpacker(ctx context.Context, root string, layer io.Reader) error {
	dir, err := os.Open(root)
	if err != nil {
		return err
	}
	defer dir.Close()

	var stderr bytes.Buffer
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: s.Owner, Size: idCount}}
	unpacker, err := run.Start(ctx, run.Cmd{
		// The process may not search the directories that lead to the program.
		Args:  append([]string{run.Self}, s.Unpacker...),
		Env:   []string{},
		Stdin: layer, Stderr: &stderr, ExtraFiles: []*os.File{dir},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
			UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
			Credential: &syscall.Credential{Uid: 0, Gid: 0},
		},
		KillWithParent: true,
		Kill:           true, // it has nothing to clean up
		WaitDelay:      -1,   // the caller must not read the layer while it is still passed on
	})
	if err != nil {
		return err
	}
	if err := unpacker.Wait(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return errors.New(text)
		}
		return err
	}
	return nil
}

// idCount is how many users, and groups, an image may have, as a guest.
const idCount = 65536

// UnpackMain is the main function of the unpacking process. It unpacks a layer,
// a plain tar archive, to the directory that is open as descriptor 3.
func UnpackMain(layer io.Reader) error {
	if err := unix.Fchdir(rootFD); err != nil {
		return fmt.Errorf("cannot enter the root file system: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cannot enter the root file system: %w", err)
	}
	// The last way out: the layer could open it as /proc/self/fd/3.
	if err := unix.Close(rootFD); err != nil {
		return fmt.Errorf("cannot enter the root file system: %w", err)
	}

	unix.Umask(0)
	return applyLayer("/", layer)
}

// applyLayer applies a layer to a tree: it replaces files of the same name, and
// its whiteouts remove files; layer.md of the OCI image specification.
func applyLayer(root string, layer io.Reader) error {
	if _, err := archive.Apply(context.Background(), root, layer, archive.WithFilter(wanted)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, layer)
	return err
}

// wanted leaves out device nodes, which an unprivileged process cannot make and
// a guest with its own /dev does not use, and extended attributes that act on
// the host.
func wanted(h *tar.Header) (bool, error) {
	if err := checkSparse(h); err != nil {
		return false, err
	}
	for key := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if ok && name != "security.capability" && !strings.HasPrefix(name, "user.") {
			delete(h.PAXRecords, key)
		}
	}

	if h.Uid < 0 || h.Uid >= idCount || h.Gid < 0 || h.Gid >= idCount {
		return false, fmt.Errorf("%.200q belongs to user %d and group %d, and guests have none beyond %d",
			h.Name, h.Uid, h.Gid, idCount-1)
	}
	return h.Typeflag != tar.TypeBlock && h.Typeflag != tar.TypeChar, nil
}

// checkSparse refuses sparse files: they can take more room on disk than in the
// archive, without bound. GNU tar has two ways to write them; "Sparse Formats" of
// its manual.
func checkSparse(h *tar.Header) error {
	sparse := h.Typeflag == tar.TypeGNUSparse
	for key := range h.PAXRecords {
		sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	if sparse {
		return fmt.Errorf("%.200q is a sparse file, which no layer and no archive may have", h.Name)
	}
	return nil
}

// diskUsage returns the bytes that a tree takes on disk, each file counted once.
func diskUsage(root string) (int64, error) {
	var total int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}
		if stat.Nlink == 1 || !seen[stat.Ino] {
			seen[stat.Ino] = true
			total += stat.Blocks * 512
		}
		return nil
	})
	return total, err
}
