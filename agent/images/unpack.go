package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// parallelDownloads is how many layers are fetched at a time.
const parallelDownloads = 3

// unpack downloads the layers of an image and lays them over each other in
// dir/rootfs.
func (s *Store) unpack(ctx context.Context, dir string, image v1.Image, progress func(string)) error {
	layers, err := image.Layers()
	if err != nil {
		return fmt.Errorf("cannot read the image's layers: %w", err)
	}
	var size int64
	for _, l := range layers {
		n, err := l.Size()
		if err != nil {
			return err
		}
		size += n
	}
	progress(fmt.Sprintf("pulling %d layers, %.1f MB", len(layers), float64(size)/1e6))
	begin := time.Now()
	root := filepath.Join(dir, "rootfs")
	if err := errors.Join(os.Mkdir(root, 0o755), os.Chown(root, s.Owner, s.Owner)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, layer := range s.download(ctx, dir, layers) {
		if err := s.apply(ctx, root, layer); err != nil {
			return fmt.Errorf("cannot unpack layer %d: %w", i+1, err)
		}
	}
	progress(fmt.Sprintf("ready after %.1f s", time.Since(begin).Seconds()))
	return nil
}

// download is a layer on its way to a file.
type download struct {
	layer v1.Layer
	file  string
	done  chan error
}

func (s *Store) download(ctx context.Context, dir string, layers []v1.Layer) []*download {
	slots := make(chan struct{}, parallelDownloads)
	downloads := make([]*download, len(layers))
	for i, l := range layers {
		downloads[i] = &download{layer: l, file: filepath.Join(dir, fmt.Sprintf("layer-%d", i)), done: make(chan error, 1)}
	}
	go func() {
		for _, d := range downloads {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				d.done <- ctx.Err()
				continue
			}
			go func() {
				d.done <- d.fetch()
				<-slots
			}()
		}
	}()
	return downloads
}

// fetch stores the layer as the registry has it. The library compares its
// digest.
func (d *download) fetch() error {
	from, err := d.layer.Compressed()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(d.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// apply lays a layer over the tree, once it is there, and deletes its file.
func (s *Store) apply(ctx context.Context, root string, d *download) error {
	if err := <-d.done; err != nil {
		return err
	}
	file, err := os.Open(d.file)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := decompress(file)
	if err != nil {
		return err
	}
	defer plain.Close()
	want, err := d.layer.DiffID()
	if err != nil {
		return err
	}
	sum := sha256.New()
	if err := s.runUnpacker(ctx, root, io.TeeReader(plain, sum)); err != nil {
		return err
	}
	// What follows the end of the archive belongs to it.
	if _, err := io.Copy(sum, plain); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want.Hex {
		return fmt.Errorf("its content is %s, and the image wants %s", got, want.Hex)
	}
	return os.Remove(d.file)
}

// decompress tells by the first bytes how a layer is compressed: gzip, zstd or
// not at all.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 1<<16)
	magic, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buffered)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(buffered)
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}

// rootFD is the descriptor of the tree in the unpacking process.
const rootFD = 3

// runUnpacker has a process of its own unpack a layer: in a user namespace in
// which it is root, and on the host nobody, with the tree as its root
// directory. Whatever a layer makes it do, it has nothing else to do it to.
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
	if err := cmd.Run(); err != nil {
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
	return applyLayer("/", layer)
}

// applyLayer lays a layer over a tree: files of the same name are replaced,
// whiteouts remove what was there; layer.md of the OCI image specification.
func applyLayer(root string, layer io.Reader) error {
	unix.Umask(0)
	_, err := archive.Apply(context.Background(), root, layer, archive.WithFilter(wanted))
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, layer)
	return err
}

// wanted leaves out what an unprivileged process cannot make and a guest has no
// use for, since it has a /dev of its own: device nodes, and attributes that
// belong to the host.
func wanted(h *tar.Header) (bool, error) {
	for key := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if ok && name != "security.capability" && !strings.HasPrefix(name, "user.") {
			delete(h.PAXRecords, key)
		}
	}
	// The library whites out by name as well, before it looks at the type.
	return h.Typeflag != tar.TypeBlock && h.Typeflag != tar.TypeChar, nil
}
