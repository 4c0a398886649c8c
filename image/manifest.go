package image

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// manifestSchema is the newest schema of manifests that this program knows.
const manifestSchema = 1

// Manifest is the content of the file beside an image that describes it.
type Manifest struct {
	Schema        int        `json:"schema"` // 0 in manifests of before there was one
	Name          string     `json:"name"`   // of the image in images.toml
	Version       string     `json:"version"`
	Architecture  string     `json:"architecture"` // as dpkg names it
	Suite         string     `json:"suite"`        // Debian release, as "trixie"
	RunnerVersion string     `json:"runner_version"`
	Image         string     `json:"image"`     // file name of the disk image
	Bytes         int64      `json:"bytes"`     // apparent size of the disk image
	SHA256        string     `json:"sha256"`    // of the disk image, in hex
	RootHash      string     `json:"root_hash"` // of the verity tree over the root file system, in hex
	Tools         string     `json:"tools"`     // digest of the tools tree that baked the image
	Artefacts     []Artefact `json:"artefacts"` // the partitions' contents in their order, then the UKI
}

// manifestName returns the path of the manifest of an image file.
func manifestName(image string) string { return strings.TrimSuffix(image, ".img") + ".json" }

// manifest describes a written disk.
func (p *plan) manifest(image, rootHash string, d *writtenDisk) *Manifest {
	return &Manifest{
		Schema:        manifestSchema,
		Name:          p.image.Name,
		Version:       p.image.Version,
		Architecture:  p.image.Architecture,
		Suite:         p.image.Suite,
		RunnerVersion: p.image.Runner.Version,
		Image:         filepath.Base(image),
		Bytes:         d.bytes,
		SHA256:        d.sha256,
		RootHash:      rootHash,
		Artefacts:     d.contents,
	}
}

func (m *Manifest) write(path string) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write manifest: %w", err)
	}
	return atomicfile.Write(path, append(data, '\n'), 0o644)
}

func readManifest(path string) (*Manifest, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("cannot read manifest %s: %w", path, err)
	}
	if m.Schema > manifestSchema {
		return nil, fmt.Errorf("cannot read manifest %s: its schema %d is newer than this program; use a newer mkappliance",
			path, m.Schema)
	}
	return &m, nil
}
