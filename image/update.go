package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/rootfs"
)

// updateManifest describes the update set of a written disk.
func (p *plan) updateManifest(files *fileSystems, artefacts []Artefact) (*release.Manifest, error) {
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

	byRole := map[string]*release.File{
		string(layout.Root): &m.Files.Root, string(layout.Verity): &m.Files.Verity, roleUKI: &m.Files.UKI}
	for _, a := range artefacts {
		if f := byRole[a.Role]; f != nil {
			f.Size, f.SHA256 = a.Bytes, a.SHA256
		}
	}
	m.Verity = release.NewVerity(files.root.rootHash, release.VeritySalt, m.Files.Root.Size)

	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("cannot describe update set: %w", err)
	}
	return m, nil
}

// writeUpdateSet moves the files of an update set to a directory and writes the
// manifest, last. It returns the path of the manifest.
func writeUpdateSet(dir string, m *release.Manifest, files *fileSystems) (string, error) {
	for _, f := range []struct{ from, name string }{
		{files.paths[layout.Root], m.Files.Root.Name},
		{files.paths[layout.Verity], m.Files.Verity.Name},
		{files.uki, m.Files.UKI.Name},
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

// checkUpdateSet compares the update set beside the image with the image. There
// may be none: images are also passed on alone.
func (v *verification) checkUpdateSet(context.Context) error {
	baked := v.image.Manifest()
	dir, name := filepath.Dir(v.path), release.ManifestName(baked.Name, baked.Version)
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := release.DecodeManifest(name, data)
	if err != nil {
		return err
	}

	if m.Image != baked.Name || m.Version != baked.Version || m.Architecture != baked.Architecture {
		return fmt.Errorf("it is of %s %s for %s", m.Image, m.Version, m.Architecture)
	}
	if m.Verity.RootHash != baked.RootHash {
		return fmt.Errorf("its root hash is %s, that of the image %s", m.Verity.RootHash, baked.RootHash)
	}
	if m.Verity.Salt != release.VeritySalt {
		return errors.New("the salt of its hash tree is not that of all images")
	}
	for _, r := range m.Files.Roles() {
		if !slices.ContainsFunc(baked.Artefacts, func(a Artefact) bool {
			return a.Role == r.Name && a.SHA256 == r.File.SHA256 && a.Bytes == r.File.Size
		}) {
			return fmt.Errorf("%s is not the %s of the image", r.File.Name, r.Name)
		}
		if err := rootfs.CheckFileHash(filepath.Join(dir, r.File.Name), r.File.SHA256); err != nil {
			return err
		}
	}
	return nil
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
