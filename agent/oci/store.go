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
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
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
	Dir string // readable for root alone; made if it does not exist
	// MaxBytes bounds one image, and all of them: beyond it the least recently
	// used are removed. 0: no limit.
	MaxBytes int64
	// Insecure lists registries, HOST or HOST:PORT, that may be contacted
	// without TLS. Those on loopback always may.
	Insecure []string
	// Owner is the user who owns on disk the files of an image's root. It is
	// not root, so that set-user-ID programs of an image are harmless on the
	// host.
	Owner int
	// Unpacker are the arguments that make this program call UnpackMain.
	Unpacker []string
}

// Image is an unpacked image, which is not removed before Release.
type Image struct {
	Digest string // of the manifest, sha256:HEX
	Tree   string // the directory of the root file system
	Config Config

	lock *os.File
}

// Release lets the image be removed.
func (i *Image) Release() { _ = i.lock.Close() }

// Pull returns the image of a reference as docker-pull(1) takes it. A name with
// a tag is resolved each time, but an image is downloaded only once. While the
// registry cannot be reached, the image that the name stood for last time is
// used. Lines for a user who waits are passed to progress.
func (s *Store) Pull(ctx context.Context, reference string, c *Credentials, progress func(string)) (*Image, error) {
	image, err := s.pull(ctx, reference, c, progress)
	if err != nil {
		return nil, fmt.Errorf("cannot pull %.200s: %w", reference, explain(err))
	}
	return image, nil
}

func (s *Store) pull(ctx context.Context, reference string, c *Credentials, progress func(string)) (*Image, error) {
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	source, err := s.newSource(strings.TrimPrefix(reference, "docker://"), c)
	if err != nil {
		return nil, err
	}
	defer source.close()

	known := s.lookUpRef(source.name())
	digest, err := source.resolve(ctx)
	switch {
	case err == nil:
		return s.get(ctx, source, digest, func(line string) { progress(reference + ": " + line) })
	case known == nil || !unreachable(err) || ctx.Err() != nil:
		return nil, err
	}

	image := s.open(known.Image)
	if image == nil {
		return nil, err
	}
	progress(fmt.Sprintf("%s: the registry cannot be reached, using the image of %s",
		reference, known.Time.Format(time.DateTime)))
	return image, nil
}

// get opens the image under a digest of a source, which may be that of an index,
// and downloads it if it is not in the store.
func (s *Store) get(ctx context.Context, source *source, digest string, progress func(string)) (*Image, error) {
	var image *Image
	if known := s.lookUpRef(source.at(digest)); known != nil {
		image = s.open(known.Image)
	}
	if image == nil {
		var err error
		if image, err = s.fetch(ctx, source, digest, progress); err != nil {
			return nil, err
		}
	}

	for _, name := range []string{source.name(), source.at(digest)} {
		if err := s.remember(name, digest, image); err != nil {
			image.Release()
			return nil, err
		}
	}
	return image, nil
}

// fetch downloads an image, unless it is in the store by another name. A layer is
// unpacked while those above it are downloaded.
func (s *Store) fetch(ctx context.Context, source *source, digest string, progress func(string)) (*Image, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The first task that fails ends the others: they all use the group's ctx.
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.SetLimit(parallelDownloads + 1) // and the unpacking

	remote, err := source.image(ctx, digest)
	if err != nil {
		return nil, err
	}
	own, err := remote.Digest()
	if err != nil {
		return nil, err
	}

	return s.add(ctx, own, func(dir string) error {
		layers, size, err := s.downloads(dir, remote)
		if err != nil {
			return err
		}
		progress(fmt.Sprintf("pulling %d layers, %.1f MiB", len(layers), float64(size)/(1<<20)))

		begin := time.Now()
		tasks.Go(func() error {
			open := func(i int) (io.ReadCloser, error) { return layers[i].open(ctx) }
			return s.build(ctx, dir, own, remote, open)
		})
		for i, l := range layers {
			tasks.Go(func() error {
				if err := l.run(); err != nil {
					return fmt.Errorf("cannot download layer %d: %w", i+1, err)
				}
				return nil
			})
		}
		if err := tasks.Wait(); err != nil {
			return err
		}
		progress(fmt.Sprintf("ready after %.1f s", time.Since(begin).Seconds()))
		return nil
	})
}

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
	data, err := json.Marshal(record{Digest: digest.String(), Size: size, Config: newConfig(file)})
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
	dir := filepath.Join(s.Dir, "images", hex)
	held, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return nil
	}
	r, err := openLocked(dir, held)
	if err != nil {
		_ = held.Close()
		return nil
	}
	return &Image{Digest: r.Digest, Tree: filepath.Join(dir, "rootfs"), Config: r.Config, lock: held}
}

// openLocked takes the lock of an image and reads its record.
func openLocked(dir string, held *os.File) (record, error) {
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

	if _, err := os.Stat(filepath.Join(dir, "rootfs")); err != nil {
		return record{}, err
	}
	r, err := readRecord(dir)
	if err != nil {
		return record{}, err
	}

	now := time.Now() // for evict
	return r, os.Chtimes(filepath.Join(dir, "config.json"), now, now)
}

func readRecord(dir string) (record, error) {
	var r record
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// ref is what a name stood for when it was last resolved.
type ref struct {
	Name   string
	Digest string    // of the index or the manifest that the registry named
	Image  string    // directory beneath images
	Time   time.Time // when it was resolved first
}

func (s *Store) refFile(name string) string {
	return filepath.Join(s.Dir, "refs", hexSum(name))
}

// lookUpRef returns what a name stood for, or nil if that is unknown.
func (s *Store) lookUpRef(name string) *ref {
	r, err := readRef(s.refFile(name))
	if err != nil || r.Name != name || r.Image != filepath.Base(r.Image) {
		return nil
	}
	return r
}

func readRef(file string) (*ref, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r ref
	return &r, json.Unmarshal(data, &r)
}

// remember writes down what a name stands for, unless that is known.
func (s *Store) remember(name, digest string, image *Image) error {
	r := ref{Name: name, Digest: digest, Image: strings.TrimPrefix(image.Digest, "sha256:"), Time: time.Now()}
	if known := s.lookUpRef(name); known != nil && known.Digest == r.Digest && known.Image == r.Image {
		return nil
	}

	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(s.refFile(name), data, 0o600)
}

func (s *Store) makeDirs() error {
	for _, dir := range []string{"", "images", "refs", "tmp"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, dir), 0o700); err != nil {
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
