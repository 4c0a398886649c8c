package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// ref is what a name stood for when it was last resolved.
type ref struct {
	Name   string
	Digest string    // of the index or the manifest that the registry named
	Image  string    // directory beneath images
	Time   time.Time // when it was resolved first
}

// refFile returns the file of a name, which can have slashes itself.
func (s *Store) refFile(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(s.Dir, "refs", hex.EncodeToString(sum[:]))
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
