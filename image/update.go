package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/release"
)

// updateManifest describes the update set of a written disk.
func (p *plan) updateManifest(fs *fileSystems, artefacts []Artefact) (*release.Manifest, error) {
	u := p.image.Update
	m := &release.Manifest{
		Schema:        release.Schema,
		Image:         p.image.Name,
		Version:       p.image.Version,
		Architecture:  p.image.Architecture,
		Channel:       u.Channel,
		Severity:      u.Severity,
		MinVersion:    u.MinVersion,
		RollbackFloor: u.RollbackFloor,
		MinAgent:      u.MinAgent,
		Delta:         u.Delta,
		Files:         release.NewFiles(p.image.Name, p.image.Version),
	}

	files := map[string]*release.File{
		string(layout.Root): &m.Files.Root, string(layout.Verity): &m.Files.Verity, roleUKI: &m.Files.UKI}
	for _, a := range artefacts {
		if f := files[a.Role]; f != nil {
			f.Size, f.SHA256 = a.Bytes, a.SHA256
		}
	}
	m.Verity = release.NewVerity(fs.root.rootHash, release.VeritySalt, m.Files.Root.Size)

	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("cannot describe update set: %w", err)
	}
	return m, nil
}

// writeUpdateSet moves the files of an update set to a directory and writes the
// manifest, last. It returns the path of the manifest.
func writeUpdateSet(dir string, m *release.Manifest, fs *fileSystems) (string, error) {
	for _, f := range []struct{ from, name string }{
		{fs.paths[layout.Root], m.Files.Root.Name},
		{fs.paths[layout.Verity], m.Files.Verity.Name},
		{fs.uki, m.Files.UKI.Name},
	} {
		if err := moveFile(f.from, filepath.Join(dir, f.name)); err != nil {
			return "", fmt.Errorf("cannot write update set: %w", err)
		}
	}

	data, err := m.Encode()
	if err != nil {
		return "", fmt.Errorf("cannot write update set: %w", err)
	}
	path := filepath.Join(dir, release.ManifestName(m.Image, m.Version))
	return path, atomicfile.Write(path, data, 0o644)
}

// moveFile moves a file to a path that may be on another file system, with mode
// 0644.
func moveFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()

	if err := errors.Join(in.Chmod(0o644), in.Sync()); err != nil {
		return err
	}
	if err := os.Rename(from, to); err == nil || !errors.Is(err, syscall.EXDEV) {
		return err
	}

	out, err := atomicfile.Create(to, 0o644)
	if err != nil {
		return err
	}
	defer out.Abandon()
	if _, err := io.Copy(out.File, in); err != nil {
		return err
	}
	return out.Commit()
}
