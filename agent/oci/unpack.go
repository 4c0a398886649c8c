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
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// opener opens a layer of an image, counted from the lowest, as a plain tar
// archive.
type opener func(i int) (io.ReadCloser, error)

// unpack lays the layers of an image over each other in a new directory. Each
// has to be what the image's configuration says, its "diff id".
func (s *Store) unpack(ctx context.Context, root string, layers []v1.Hash, open opener) error {
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

// apply lays a layer over the tree and gives its size.
func (s *Store) apply(ctx context.Context, root string, i int, want v1.Hash, open opener, left int64) (int64, error) {
	plain, err := open(i)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	sum := sha256.New()
	content := &meter{from: io.TeeReader(plain, sum)}
	if s.MaxBytes > 0 {
		content.max, content.tooLarge = left, s.tooLarge()
	}
	err = s.runUnpacker(ctx, root, content)
	if err == nil {
		// What follows the end of the archive belongs to it.
		_, err = io.Copy(io.Discard, content)
	}
	if content.err != nil {
		return 0, content.err // the unpacker only missed the rest
	}
	if err != nil {
		return 0, err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want.Hex {
		return 0, fmt.Errorf("its content is sha256:%s, and the image wants %s", got, want)
	}
	return content.n, nil
}

func (s *Store) tooLarge() error {
	return fmt.Errorf("the image is too large: all images together may have %.1f MB", float64(s.MaxBytes)/1e6)
}

// meter counts what is read, fails beyond max if tooLarge is set, and remembers
// why reading failed.
type meter struct {
	from     io.Reader
	n, max   int64
	tooLarge error
	err      error
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.from.Read(p)
	if m.n += int64(n); m.tooLarge != nil && m.n > m.max {
		n, err = 0, m.tooLarge
	}
	if err != nil && err != io.EOF {
		m.err = err
	}
	return n, err
}

// rootFD is the descriptor of the tree in the unpacking process.
const rootFD = 3

// runUnpacker has a process of its own unpack a layer: in a user namespace in
// which root is nobody on the host, with the tree as its root directory. So the
// layer can reach nothing but the tree, and what it brings belongs to nobody.
func (s *Store) runUnpacker(ctx context.Context, root string, layer io.Reader) error {
	dir, err := os.Open(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: s.Owner, Size: idCount}}
	var said bytes.Buffer
	// Its file is found by a link that needs no way to it: the process is
	// nobody who may go there.
	cmd := exec.CommandContext(ctx, "/proc/self/exe", s.Unpacker...)
	cmd.Stdin, cmd.Stderr, cmd.ExtraFiles = layer, &said, []*os.File{dir}
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{Uid: 0, Gid: 0},
	}
	// The kernel sends Pdeathsig when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if text := strings.TrimSpace(said.String()); text != "" {
			return errors.New(text)
		}
		return err
	}
	return nil
}

// idCount is how many users and groups an image may have, as a guest.
const idCount = 65536

// UnpackMain is the unpacking process: a layer, a plain tar archive, on layer,
// the tree as descriptor 3.
func UnpackMain(layer io.Reader) error {
	if err := unix.Fchdir(rootFD); err != nil {
		return fmt.Errorf("cannot enter tree: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cannot enter tree: %w", err)
	}
	// Nothing that is opened from here on is meant to be outside.
	if err := unix.Close(rootFD); err != nil {
		return fmt.Errorf("cannot enter tree: %w", err)
	}
	unix.Umask(0)
	return applyLayer("/", layer)
}

// applyLayer lays a layer over a tree: files of the same name are replaced,
// whiteouts remove what was there; layer.md of the OCI image specification.
func applyLayer(root string, layer io.Reader) error {
	if _, err := archive.Apply(context.Background(), root, layer, archive.WithFilter(wanted)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, layer)
	return err
}

// wanted leaves out what an unprivileged process cannot make and a guest has no
// use for, since it has a /dev of its own: device nodes, and attributes that
// belong to the host.
func wanted(h *tar.Header) (bool, error) {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			// It would take more room on disk than in the layer, without bound.
			return false, fmt.Errorf("%.200q is a sparse file, which no layer may have", h.Name)
		}
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if ok && name != "security.capability" && !strings.HasPrefix(name, "user.") {
			delete(h.PAXRecords, key)
		}
	}
	if h.Uid < 0 || h.Uid >= idCount || h.Gid < 0 || h.Gid >= idCount {
		return false, fmt.Errorf("%.200q belongs to user %d and group %d, and guests have none beyond %d", h.Name, h.Uid, h.Gid, idCount-1)
	}
	return h.Typeflag != tar.TypeBlock && h.Typeflag != tar.TypeChar, nil
}

// diskUsage gives the bytes that a tree takes, each file once.
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
