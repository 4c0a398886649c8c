// Package oci keeps OCI images for guests, without Docker: it pulls them
// from registries, unpacks each into one tree, and keeps the trees by digest.
package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// Store is a directory of images, which are used by any number of processes.
//
//	images/HEX/rootfs       the tree, complete
//	images/HEX/config.json  what is known of it; its time is that of the last use
//	images/HEX/lock         locked, shared, by who uses the tree
//	refs/HEX                what a name stood for when it was last looked up
//	tmp/                    what is not complete; names end in that of a lock
type Store struct {
	Dir string // root's alone; made if it does not exist
	// MaxBytes is beyond what the images used longest ago are removed, and
	// what one image may have at most; 0: no limit.
	MaxBytes int64
	Insecure []string // registries, HOST or HOST:PORT, that may be spoken to without TLS, as loopback ones may
	// Owner is who owns on disk what is root's in an image: not root, so that
	// a set-user-ID program of an image is nobody's on the host.
	Owner int
	// Unpacker are the arguments with which this very program calls
	// UnpackMain.
	Unpacker []string
}

// Image is an unpacked image. Its tree stays until Release.
type Image struct {
	Digest string // of its manifest, sha256:HEX
	Tree   string // directory with its root file system
	Config Config

	lock *os.File
}

// Release lets the image be removed.
func (i *Image) Release() { _ = i.lock.Close() }

// Pull gives the image of a reference as docker-pull(1) takes it. A name with a
// tag is looked up anew each time; what it stands for is downloaded only once.
// When the registry cannot be reached, what the name stood for last time does.
// Lines for whoever waits go to progress.
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
	known := s.lookUp(source.name())
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
	progress(fmt.Sprintf("%s: the registry cannot be reached, using the image of %s", reference, known.Time.Format(time.DateTime)))
	return image, nil
}

// get opens the image that a source has under a digest, which may be that of an
// index, or else downloads it.
func (s *Store) get(ctx context.Context, source *source, digest string, progress func(string)) (_ *Image, err error) {
	var image *Image
	if known := s.lookUp(source.at(digest)); known != nil {
		image = s.open(known.Image)
	}
	if image == nil {
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

// fetch downloads an image, unless it is here by another name.
func (s *Store) fetch(ctx context.Context, source *source, digest string, progress func(string)) (*Image, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	remote, err := source.image(ctx, digest)
	if err != nil {
		return nil, err
	}
	own, err := remote.Digest()
	if err != nil {
		return nil, err
	}
	return s.add(ctx, own, func(dir string) error {
		downloads, err := s.startDownloads(ctx, dir, remote, progress)
		if err != nil {
			return err
		}
		defer downloads.Wait()
		defer cancel() // those that nobody waits for any more
		begin := time.Now()
		if err := s.build(ctx, dir, own, remote, downloads.open); err != nil {
			return err
		}
		progress(fmt.Sprintf("ready after %.1f s", time.Since(begin).Seconds()))
		return nil
	})
}

// add has an image built in a directory if it is not there yet. Two that want
// the same take turns.
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
	// What a crash left: nobody else is at it, for we have the lock.
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
		return nil, fmt.Errorf("the image vanished from %s", final)
	}
	if err := s.evict(); err != nil {
		image.Release()
		return nil, err
	}
	return image, nil
}

// putInPlace gives a directory its final name once everything in it is on disk:
// after a power cut a name has to stand for a whole image.
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

// build makes the directory of an image.
func (s *Store) build(ctx context.Context, dir string, digest v1.Hash, image v1.Image, open opener) error {
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
	return errors.Join(os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600), os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600))
}

// record is the content of config.json.
type record struct {
	Digest string
	Size   int64 // bytes on disk
	Config Config
}

// open gives an image that is there, and nil for any other.
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

func openLocked(dir string, held *os.File) (record, error) {
	if err := unix.Flock(int(held.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return record{}, err
	}
	// Whoever had the lock before may have moved the image away.
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
	now := time.Now()
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

// entry tells what a name stood for.
type entry struct {
	Name   string
	Digest string // of what the registry answered, an index perhaps
	Image  string // directory below images
	Time   time.Time
}

func (s *Store) refFile(name string) string {
	return filepath.Join(s.Dir, "refs", hexSum(name))
}

func (s *Store) lookUp(name string) *entry {
	e, err := readEntry(s.refFile(name))
	if err != nil || e.Name != name || e.Image != filepath.Base(e.Image) {
		return nil
	}
	return e
}

func readEntry(file string) (*entry, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var e entry
	return &e, json.Unmarshal(data, &e)
}

// remember notes what a name stands for, if that is news.
func (s *Store) remember(name, digest string, image *Image) error {
	e := entry{Name: name, Digest: digest, Image: strings.TrimPrefix(image.Digest, "sha256:"), Time: time.Now()}
	if known := s.lookUp(name); known != nil && known.Digest == e.Digest && known.Image == e.Image {
		return nil
	}
	data, err := json.Marshal(e)
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

// lock waits for its turn at a file, flock(2), until ctx ends.
func lock(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
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
