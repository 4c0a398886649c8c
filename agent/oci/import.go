package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Import stores an image that was built here under a key, by which Lookup finds
// it. The file is an OCI archive: a tar archive of an image layout,
// image-layout.md of the OCI image specification. It need not be trusted.
func (s *Store) Import(ctx context.Context, key, file string) (*Image, error) {
	archive, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot import image: %w", err)
	}
	defer archive.Close()

	image, err := s.ask(ctx, request{Key: key}, archive, func(string) {})
	if err != nil {
		return nil, fmt.Errorf("cannot import image: %w", err)
	}
	return image, nil
}

// Lookup returns an image that was imported under a key, if there is one.
func (s *Store) Lookup(key string) (*Image, bool) {
	known := s.lookUpRef(importName(key))
	if known == nil {
		return nil, false
	}
	image := s.open(known.Image)
	return image, image != nil
}

// importName cannot be the name of a pulled image: it has a space.
func importName(key string) string { return "imported " + key }

func (s *Store) importArchive(ctx context.Context, key string, archive io.Reader) (*Image, error) {
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Join(s.Dir, "tmp"), "import-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)

	if err := s.extractLayout(archive, dir); err != nil {
		return nil, err
	}
	local, err := newLocalImage(dir)
	if err != nil {
		return nil, err
	}
	image, err := s.add(ctx, local.digest, func(dir string) error {
		return s.build(ctx, dir, local.digest, local.image, local.openLayer)
	})
	if err != nil {
		return nil, err
	}

	if err := s.remember(importName(key), local.digest.String(), image, nil); err != nil {
		image.Release()
		return nil, err
	}
	return image, nil
}

// localImage is an image whose parts are files.
type localImage struct {
	image  v1.Image
	digest v1.Hash
	layers []v1.Layer // the lowest first
}

// newLocalImage returns the image of a layout.
func newLocalImage(dir string) (*localImage, error) {
	image, err := readLayout(dir)
	if err != nil {
		return nil, err
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	layers, err := layersOf(image)
	if err != nil {
		return nil, err
	}
	return &localImage{image: image, digest: digest, layers: layers}, nil
}

// openLayer is an openLayer of the image.
func (l *localImage) openLayer(i int) (io.ReadCloser, error) {
	compressed, err := l.layers[i].Compressed()
	if err != nil {
		return nil, err
	}
	return decompress(compressed)
}

// extractLayout extracts the files of an image layout from an archive, and no
// others. The digest of a blob must be the one in its name. All files together
// may take as much room as all images.
func (s *Store) extractLayout(from io.Reader, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o700); err != nil {
		return err
	}

	left := s.MaxBytes
	for archive := tar.NewReader(from); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read archive: %w", err)
		}
		if err := checkSparse(h); err != nil {
			return err
		}

		// Names are checked, not cleaned up: only these two forms are written to.
		name := path.Clean(h.Name)
		want, isBlob := blobDigest(name)
		if h.Typeflag != tar.TypeReg || !isBlob && name != "index.json" {
			continue
		}
		if left -= h.Size; s.MaxBytes > 0 && left < 0 {
			return s.tooLarge()
		}
		got, err := extract(&roomReader{Reader: archive, store: s}, filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("cannot read %s of archive: %w", name, err)
		}
		if isBlob && got != want {
			return fmt.Errorf("cannot read %s of archive: its content is sha256:%s", name, got)
		}
	}
}

// blobDigest returns the digest in the name of a blob, in hexadecimal, and
// whether it is one.
func blobDigest(name string) (string, bool) {
	digest, ok := strings.CutPrefix(name, "blobs/sha256/")
	if !ok {
		return "", false
	}
	_, err := v1.NewHash("sha256:" + digest)
	return digest, err == nil
}

// extract writes a new file and returns its SHA-256 in hexadecimal.
func extract(from io.Reader, name string) (string, error) {
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(to, sum), from)
	return hex.EncodeToString(sum.Sum(nil)), errors.Join(err, to.Close())
}

// readLayout returns the image of a layout. The library reads the index, the
// manifest and the configuration into memory, so their sizes are checked first.
func readLayout(dir string) (v1.Image, error) {
	if err := checkSmall(filepath.Join(dir, "index.json")); err != nil {
		return nil, fmt.Errorf("it is not an OCI archive: %w", err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}

	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, m := range manifest.Manifests {
		if err := checkSmall(blobFile(dir, m.Digest)); err != nil {
			return nil, err
		}
	}

	image, err := imageOf(index)
	if err != nil {
		return nil, err
	}
	own, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	return image, checkSmall(blobFile(dir, own.Config.Digest))
}

func blobFile(dir string, digest v1.Hash) string {
	return filepath.Join(dir, "blobs/sha256", digest.Hex)
}

// checkSmall refuses a file that is missing or has more than maxConfig bytes.
func checkSmall(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("it has no %s", filepath.Base(name))
	}
	if info.Size() > maxConfig {
		return fmt.Errorf("its %s has %d bytes, more than %d", filepath.Base(name), info.Size(), maxConfig)
	}
	return nil
}
