// Package publish is the publisher's side of a channel: it makes keys, signs
// update sets, and puts them into the directory that appliances read. Package
// release has the formats.
package publish

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/release"
)

// Set is an update set in a directory, as a build leaves it.
type Set struct {
	Dir      string
	Manifest *release.Manifest
	data     []byte // content of the manifest's file
}

// OpenSet reads the manifest of an update set at a path. The other files are
// beside it.
func OpenSet(path string) (*Set, error) {
	data, err := readFile(path, release.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	name := filepath.Base(path)
	m, err := release.DecodeManifest(name, data)
	if err != nil {
		return nil, err
	}
	if want := release.ManifestName(m.Image, m.Version); name != want {
		return nil, fmt.Errorf("%s: the name of the file must be %s", path, want)
	}
	return &Set{Dir: filepath.Dir(path), Manifest: m, data: data}, nil
}

// name returns the file name of the manifest.
func (s *Set) name() string { return release.ManifestName(s.Manifest.Image, s.Manifest.Version) }

// hash returns the SHA-256 of the manifest's file, in hex.
func (s *Set) hash() string {
	sum := sha256.Sum256(s.data)
	return hex.EncodeToString(sum[:])
}

// CheckFiles returns an error if a file of the set is not the one that the
// manifest describes. It reads all of them.
func (s *Set) CheckFiles() error {
	for _, r := range s.Manifest.Files.Roles() {
		if err := checkFile(filepath.Join(s.Dir, r.File.Name), r.File); err != nil {
			return err
		}
	}
	return nil
}

func checkFile(path string, want release.File) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot check update set: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot check update set: %w", err)
	}
	if info.Size() != want.Size {
		return fmt.Errorf("%s: %d bytes, but the manifest has %d; build the image again", path, info.Size(), want.Size)
	}

	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("cannot check update set: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want.SHA256 {
		return fmt.Errorf("%s: sha256 is %s, but the manifest has %s; build the image again", path, got, want.SHA256)
	}
	return nil
}

// Sign checks the files of the set and writes the signature over the manifest
// beside it. It returns the path of the signature, and replaces an older one.
func (s *Set) Sign(key release.PrivateKey, when time.Time) (string, error) {
	if err := s.CheckFiles(); err != nil {
		return "", err
	}
	signature, err := release.Sign(key, s.name(), s.data, when)
	if err != nil {
		return "", err
	}
	path := filepath.Join(s.Dir, s.name()+release.SignatureSuffix)
	return path, atomicfile.Write(path, signature, 0o644)
}

// signature returns the signature beside the manifest if one of the keys made it.
func (s *Set) signature(keys []release.PublicKey) ([]byte, error) {
	signature, err := readFile(filepath.Join(s.Dir, s.name()+release.SignatureSuffix), release.MaxSignature)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is not signed; sign it with 'mkappliance sign'", s.name())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read signature: %w", err)
	}
	return signature, release.Verify(keys, s.name(), s.data, signature)
}

// readFile reads a file that must not be larger than limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, path, limit)
}

// readAll reads all of r, which must not be more than limit bytes.
func readAll(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d KiB", name, limit>>10)
	}
	return data, err
}
