// Package oci stores OCI images for guests, without Docker: it pulls them from
// registries, unpacks the layers of each to one tree, a directory with its root
// file system, and keeps the trees by digest. In this package an image is an
// OCI image, or one of Docker's older format.
package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// Store is a directory of images, which any number of processes use at once.
//
//	images/HEX/rootfs       the tree, complete
//	images/HEX/config.json  a record; its time is that of the last use
//	images/HEX/lock         locked, shared, by each user of the tree
//	refs/HEX                a ref: what a name stood for when it was last resolved
//	tmp/                    incomplete images, and a lock for each
type Store struct {
	Dir string // readable for root and Owner alone; made if it does not exist
	// MaxBytes bounds one image, and all of them: beyond it the least recently
	// used are removed. Each file counts 4 KiB besides its content. 0: no limit.
	MaxBytes int64
	// MaxFiles bounds the files and directories of one image. 0: DefaultMaxFiles.
	MaxFiles int64
	// Insecure lists registries, HOST or HOST:PORT, that may be contacted
	// without TLS, wherever they are.
	Insecure []string
	// GitHub is the host of GitHub's server. It and the names beneath it may be
	// contacted also at private addresses. Empty: none.
	GitHub string
	// Allow lists private addresses that may be contacted. Those of the internet
	// always may, and those of the host itself never.
	Allow []netip.Prefix
	// RetryWait is how long a registry that fails is left alone before it is asked
	// again, and three times as long before the last time. 0: a second.
	RetryWait time.Duration
	// Owner is the user who owns on disk the files of an image's root, and the
	// store. It is not root, so that set-user-ID programs of an image are
	// harmless on the host.
	Owner int
	// Helper and Unpacker are the arguments that make this program call
	// HelperMain and UnpackMain.
	Helper, Unpacker []string
}

// Image is an unpacked image, which is not removed before Release.
type Image struct {
	Digest string // of the manifest, sha256:HEX
	Tree   string // the directory of the root file system
	Config Config

	lock *os.File
}

// hex returns the name of the image's directory beneath images.
func (i *Image) hex() string { return strings.TrimPrefix(i.Digest, "sha256:") }

// Release lets the image be removed.
func (i *Image) Release() { _ = i.lock.Close() }

// add returns an image of the store, and has it built in a new directory first
// if it is not there yet. Callers with the same digest take turns.
func (s *Store) add(ctx context.Context, digest v1.Hash, build func(dir string) error) (*Image, error) {
	tmp := filepath.Join(s.Dir, "tmp", digest.Hex)
	final := filepath.Join(s.Dir, "images", digest.Hex)
	turn, err := lock(ctx, tmp+".lock")
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	if image := s.open(digest.Hex); image != nil {
		return image, nil
	}

	// Remains of a crash: no other process uses them, for we have the lock.
	if err := errors.Join(os.RemoveAll(tmp), os.RemoveAll(final), os.Mkdir(tmp, 0o755)); err != nil {
		return nil, err
	}
	if err := build(tmp); err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	if err := putInPlace(tmp, final); err != nil {
		return nil, err
	}

	image := s.open(digest.Hex)
	if image == nil {
		return nil, fmt.Errorf("the image is missing from %s", final)
	}
	// After the image is open, which keeps it from being evicted itself.
	if err := s.evict(); err != nil {
		image.Release()
		return nil, err
	}
	return image, nil
}

// putInPlace renames a directory to its final name once everything in it is on
// disk: after a power failure there must be a whole image under that name.
func putInPlace(tmp, final string) error {
	dir, err := os.Open(tmp)
	if err != nil {
		return err
	}
	defer dir.Close()

	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("cannot write image to disk: %w", err)
	}
	if err := os.Rename(tmp, final); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(final))
}

// maxConfig bounds the configuration of an image, in bytes; the library reads
// it into memory.
const maxConfig = 4 << 20

// build fills the directory of an image.
func (s *Store) build(ctx context.Context, dir string, digest v1.Hash, image v1.Image, open openLayer) error {
	manifest, err := image.Manifest()
	if err != nil {
		return fmt.Errorf("cannot read the image's manifest: %w", err)
	}
	if size := manifest.Config.Size; size < 0 || size > maxConfig {
		return fmt.Errorf("cannot read the image's configuration: it has %d bytes, more than %d", size, maxConfig)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return fmt.Errorf("cannot read the image's configuration: %w", err)
	}
	raw, err := image.RawConfigFile()
	if err != nil {
		return fmt.Errorf("cannot read the image's configuration: %w", err)
	}
	if err := checkPlatform(file); err != nil {
		return err
	}
	if m, c := len(manifest.Layers), len(file.RootFS.DiffIDs); m != c {
		return fmt.Errorf("its manifest lists %d layers, and its configuration %d", m, c)
	}

	root := filepath.Join(dir, "rootfs")
	if err := s.unpack(ctx, root, file.RootFS.DiffIDs, open); err != nil {
		return err
	}

	size, err := diskUsage(root)
	if err != nil {
		return err
	}
	data, err := json.Marshal(record{Digest: digest.String(), Size: size, Config: newConfig(file, startIntervalOf(raw))})
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600),
	)
}

// record is the content of config.json.
type record struct {
	Digest string // of the manifest
	Size   int64  // bytes on disk
	Config Config
}

// open opens an image of the store. It returns nil if there is none, or only a
// damaged one.
func (s *Store) open(hex string) *Image {
	dir := filepath.Join("images", hex)
	held, err := s.openFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil
	}
	r, err := s.openLocked(dir, held)
	if err != nil {
		_ = held.Close()
		return nil
	}
	return &Image{Digest: r.Digest, Tree: filepath.Join(s.Dir, dir, "rootfs"), Config: r.Config, lock: held}
}

// openFile opens a file of the store for reading. The store belongs to the helper,
// which is not trusted: no link leads out, and a pipe is not waited for.
func (s *Store) openFile(name string) (*os.File, error) {
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}

	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is not a file", f.Name()))
	}
	return f, nil
}

// maxRecord bounds a record and a ref, in bytes. Those of an image with a
// configuration of maxConfig bytes are smaller.
const maxRecord = 8 * maxConfig

// readFile reads a file of the store.
func (s *Store) readFile(name string) ([]byte, error) {
	f, err := s.openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRecord))
}

// openLocked takes the lock of an image and reads its record.
func (s *Store) openLocked(dir string, held *os.File) (record, error) {
	if err := unix.Flock(int(held.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return record{}, err
	}

	// The process that had the lock before may have moved the image away.
	mine, err := held.Stat()
	if err != nil {
		return record{}, err
	}
	there, err := os.Stat(held.Name())
	if err != nil {
		return record{}, err
	}
	if !os.SameFile(mine, there) {
		return record{}, fmt.Errorf("%s was replaced", held.Name())
	}

	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return record{}, err
	}
	defer root.Close()
	if info, err := root.Lstat(filepath.Join(dir, "rootfs")); err != nil || !info.IsDir() {
		return record{}, errors.Join(err, errors.New("the image has no root file system"))
	}
	r, err := s.readRecord(dir)
	if err != nil {
		return record{}, err
	}

	now := time.Now() // for evict
	return r, root.Chtimes(filepath.Join(dir, "config.json"), now, now)
}

// readRecord reads the record of an image, whose directory is relative to the
// store's.
func (s *Store) readRecord(dir string) (record, error) {
	var r record
	data, err := s.readFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// makeDirs makes the directories of the store, which belong to the helper.
func (s *Store) makeDirs() error {
	for _, dir := range []string{"", "images", "refs", "tmp"} {
		dir = filepath.Join(s.Dir, dir)
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Lchown(dir, s.Owner, s.Owner)); err != nil {
			return err
		}
	}
	return nil
}

// lock waits for an exclusive lock of a file, flock(2), or the end of ctx. The
// lock is released when the file is closed.
func lock(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}

	// Asked for again and again, since flock(2) itself does not end with ctx.
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
