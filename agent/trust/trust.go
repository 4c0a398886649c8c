// Package trust adds the certificate authorities of RUNNER_CA_CERTS to those
// that the programs of the appliance trust.
package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// Store is where the authorities of a system are.
type Store struct {
	// Bundle is the file of all authorities in PEM, as update-ca-certificates(8)
	// writes it.
	Bundle string
	// Own is the file of those alone that Set was called with.
	Own string
}

// begin separates the authorities of the image, which come first in the bundle,
// from the others. Readers of PEM pass over text between certificates.
const begin = "# Of RUNNER_CA_CERTS:\n"

// Set makes pem, certificates in PEM, the authorities that the store has besides
// those of the image. Those of an earlier call are removed; with no pem only that
// is done.
func (s Store) Set(pem []byte) error {
	bundle, err := os.ReadFile(s.Bundle)
	if err != nil {
		return fmt.Errorf("cannot read authorities: %w; the image needs the package ca-certificates", err)
	}
	image, _, _ := bytes.Cut(bundle, []byte(begin))

	if len(pem) == 0 {
		if err := os.Remove(s.Own); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove authorities: %w", err)
		}
		return write(s.Bundle, bundle, image)
	}

	if err := os.MkdirAll(filepath.Dir(s.Own), 0o755); err != nil {
		return fmt.Errorf("cannot write authorities: %w", err)
	}
	if err := atomicfile.Write(s.Own, pem, 0o644); err != nil {
		return err
	}
	all := bytes.Join([][]byte{image, []byte(begin), pem}, nil)
	return write(s.Bundle, bundle, all)
}

// write replaces the content of a file, unless it is right already.
func write(path string, old, content []byte) error {
	if bytes.Equal(old, content) {
		return nil
	}
	return atomicfile.Write(path, content, 0o644)
}
