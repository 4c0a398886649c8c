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
	"regexp"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Import keeps an image that was built here under a key, by which Lookup finds
// it. The file is an OCI archive: a tar archive of an image layout,
// image-layout.md of the OCI image specification. It may come from anybody.
func (s *Store) Import(ctx context.Context, key, file string) (*Image, error) {
	image, err := s.importArchive(ctx, key, file)
	if err != nil {
		return nil, fmt.Errorf("cannot import image: %w", err)
	}
	return image, nil
}

// Lookup gives an image that was imported under a key.
func (s *Store) Lookup(key string) (*Image, bool) {
	known := s.lookUp(importName(key))
	if known == nil {
		return nil, false
	}
	image := s.open(known.Image)
	return image, image != nil
}

// importName cannot be the name of a pulled image: it has a space.
func importName(key string) string { return "imported " + key }

func (s *Store) importArchive(ctx context.Context, key, file string) (*Image, error) {
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Join(s.Dir, "tmp"), "import-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := extractLayout(file, dir); err != nil {
		return nil, err
	}
	local, err := readLayout(dir)
	if err != nil {
		return nil, err
	}
	digest, err := local.Digest()
	if err != nil {
		return nil, err
	}
	layers, err := local.Layers()
	if err != nil {
		return nil, err
	}
	image, err := s.add(ctx, digest, func(dir string) error {
		return s.build(ctx, dir, digest, local, func(i int) (io.ReadCloser, error) {
			compressed, err := layers[i].Compressed()
			if err != nil {
				return nil, err
			}
			return decompress(compressed)
		})
	})
	if err != nil {
		return nil, err
	}
	if err := s.remember(importName(key), digest.String(), image); err != nil {
		image.Release()
		return nil, err
	}
	return image, nil
}

var blobName = regexp.MustCompile(`^blobs/sha256/([0-9a-f]{64})$`)

// extractLayout takes the files of an image layout out of an archive, and no
// others. A blob has to be what its name says.
func extractLayout(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o700); err != nil {
		return err
	}
	for archive := tar.NewReader(f); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read archive: %w", err)
		}
		name := path.Clean(h.Name)
		blob := blobName.FindStringSubmatch(name)
		if h.Typeflag != tar.TypeReg || blob == nil && name != "index.json" {
			continue
		}
		got, err := extract(archive, filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("cannot read %s of archive: %w", name, err)
		}
		if blob != nil && got != blob[1] {
			return fmt.Errorf("cannot read %s of archive: its content is sha256:%s", name, got)
		}
	}
}

// extract writes a file and gives its digest.
func extract(from io.Reader, name string) (string, error) {
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(to, sum), from)
	return hex.EncodeToString(sum.Sum(nil)), errors.Join(err, to.Close())
}

// readLayout gives the image of a layout. What of it the library reads into
// memory is looked at before.
func readLayout(dir string) (v1.Image, error) {
	if err := checkSmall(filepath.Join(dir, "index.json")); err != nil {
		return nil, fmt.Errorf("it is no OCI archive: %w", err)
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

// checkSmall refuses a file that is missing or large.
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
