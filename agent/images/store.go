// Package images keeps OCI images for guests, without Docker: it pulls them
// from registries, unpacks each into one tree, and keeps the trees by digest.
package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"mkappliance/atomicfile"
)

// Store is a directory of images, which are used by any number of processes.
//
//	images/HEX/rootfs       the tree, complete
//	images/HEX/config.json  what is known of it; its time is that of the last use
//	images/HEX/lock         locked, shared, by who uses the tree
//	refs/HEX                what a name stood for when it was last looked up
//	tmp/                    what is not complete; names end in that of a lock
type Store struct {
	Dir      string   // root's alone; made if it does not exist
	MaxBytes int64    // beyond which the images used longest ago are removed; 0: never
	Insecure []string // registries, HOST or HOST:PORT, spoken to without TLS
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
		return nil, fmt.Errorf("cannot pull %.200s: %w", reference, err)
	}
	return image, nil
}

func (s *Store) pull(ctx context.Context, reference string, c *Credentials, progress func(string)) (*Image, error) {
	source, err := s.source(ctx, reference, c)
	if err != nil {
		return nil, err
	}
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	known := s.lookUp(source.name())
	digest, err := source.resolve()
	switch {
	case err != nil && (known == nil || !unreachable(err) || ctx.Err() != nil):
		return nil, err
	case err != nil:
		if image := s.open(known.Image); image != nil {
			progress(fmt.Sprintf("%s: the registry cannot be reached, using the image of %s", reference, known.Time.Format(time.DateTime)))
			return image, nil
		}
		return nil, err
	case known != nil && known.Digest == digest:
		if image := s.open(known.Image); image != nil {
			return image, nil
		}
	}
	return s.fetch(ctx, source, reference, digest, progress)
}

// fetch downloads an image, unless another name had it downloaded.
func (s *Store) fetch(ctx context.Context, source *source, reference, digest string, progress func(string)) (*Image, error) {
	remote, err := source.image()
	if err != nil {
		return nil, err
	}
	own, err := remote.Digest()
	if err != nil {
		return nil, err
	}
	image, err := s.add(ctx, own.Hex, remote, func(line string) { progress(reference + ": " + line) })
	if err != nil {
		return nil, err
	}
	if err := s.remember(source.name(), entry{Name: source.name(), Digest: digest, Image: own.Hex, Time: time.Now()}); err != nil {
		image.Release()
		return nil, err
	}
	return image, nil
}

// add unpacks an image if it is not there yet. Two that want the same take
// turns.
func (s *Store) add(ctx context.Context, hex string, remote v1.Image, progress func(string)) (*Image, error) {
	turn, err := lock(ctx, filepath.Join(s.Dir, "tmp", hex+".lock"))
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	if image := s.open(hex); image != nil {
		return image, nil
	}
	tmp := filepath.Join(s.Dir, "tmp", hex)
	final := filepath.Join(s.Dir, "images", hex)
	// What a crash left: nobody else is at it, for we have the lock.
	if err := errors.Join(os.RemoveAll(tmp), os.RemoveAll(final), os.Mkdir(tmp, 0o755)); err != nil {
		return nil, err
	}
	if err := s.build(ctx, tmp, "sha256:"+hex, remote, progress); err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, final); err != nil {
		return nil, err
	}
	image := s.open(hex)
	if image == nil {
		return nil, fmt.Errorf("the image vanished from %s", final)
	}
	if err := s.evict(); err != nil {
		image.Release()
		return nil, err
	}
	return image, nil
}

// build makes the directory of an image.
func (s *Store) build(ctx context.Context, dir, digest string, remote v1.Image, progress func(string)) error {
	file, err := remote.ConfigFile()
	if err != nil {
		return fmt.Errorf("cannot read the image's configuration: %w", err)
	}
	if err := s.unpack(ctx, dir, remote, progress); err != nil {
		return err
	}
	size, err := diskUsage(filepath.Join(dir, "rootfs"))
	if err != nil {
		return err
	}
	data, err := json.Marshal(record{Digest: digest, Size: size, Config: newConfig(file)})
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
	r, err := readRecord(dir)
	if err == nil {
		err = unix.Flock(int(held.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	}
	if err == nil {
		now := time.Now()
		err = os.Chtimes(filepath.Join(dir, "config.json"), now, now)
	}
	if err != nil {
		_ = held.Close()
		return nil
	}
	return &Image{Digest: r.Digest, Tree: filepath.Join(dir, "rootfs"), Config: r.Config, lock: held}
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
	data, err := os.ReadFile(s.refFile(name))
	if err != nil {
		return nil
	}
	var e entry
	if json.Unmarshal(data, &e) != nil || e.Name != name || e.Image != filepath.Base(e.Image) {
		return nil
	}
	return &e
}

func (s *Store) remember(name string, e entry) error {
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

// trimScheme takes docker:// from a reference, as actions write it.
func trimScheme(reference string) string { return strings.TrimPrefix(reference, "docker://") }
