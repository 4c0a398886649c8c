package trial

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/verity"
)

// brokenSuffix makes a version newer by the order of release.Compare.
const brokenSuffix = ".1"

// makeBroken writes the update set of a version that boots and fails its health
// check to a directory, and signs it. All but its command line is that of a set, and
// one block more: two slots must not have the same root hash.
func makeBroken(dir string, set *publish.Set, key release.PrivateKey) (*publish.Set, error) {
	m := *set.Manifest
	m.Version += brokenSuffix
	if err := release.CheckVersion(m.Version); err != nil {
		return nil, fmt.Errorf("cannot make a broken version: %w; shorten the version under test", err)
	}
	m.Files = release.NewFiles(m.Image, m.Version)
	if err := extendRoot(dir, set, &m); err != nil {
		return nil, fmt.Errorf("cannot make a broken version: %w", err)
	}

	uki, err := os.ReadFile(filepath.Join(set.Dir, set.Manifest.Files.UKI.Name))
	if err != nil {
		return nil, fmt.Errorf("cannot make a broken version: %w", err)
	}
	uki, err = breakUKI(uki, set.Manifest.Verity.RootHash, m.Verity.RootHash, set.Manifest.Version, m.Version)
	if err != nil {
		return nil, fmt.Errorf("cannot make a broken version: %s: %w", set.Manifest.Files.UKI.Name, err)
	}
	sum := sha256.Sum256(uki)
	m.Files.UKI.Size, m.Files.UKI.SHA256 = int64(len(uki)), hex.EncodeToString(sum[:])
	manifest, err := m.Encode()
	if err != nil {
		return nil, err
	}

	path := filepath.Join(dir, release.ManifestName(m.Image, m.Version))
	if err := errors.Join(os.WriteFile(filepath.Join(dir, m.Files.UKI.Name), uki, 0o600),
		os.WriteFile(path, manifest, 0o600)); err != nil {
		return nil, fmt.Errorf("cannot make a broken version: %w", err)
	}
	broken, err := publish.OpenSet(path)
	if err != nil {
		return nil, err
	}
	_, err = broken.Sign(key, time.Now())
	return broken, err
}

// extendRoot writes the root file system of a set and one block to the directory,
// and the hash tree of both. It fills in what m lists of them.
func extendRoot(dir string, set *publish.Set, m *release.Manifest) error {
	in, err := os.Open(filepath.Join(set.Dir, set.Manifest.Files.Root.Name))
	if err != nil {
		return err
	}
	defer in.Close()
	root, err := os.Create(filepath.Join(dir, m.Files.Root.Name))
	if err != nil {
		return err
	}
	defer root.Close()
	tree, err := os.Create(filepath.Join(dir, m.Files.Verity.Name))
	if err != nil {
		return err
	}
	defer tree.Close()

	salt, err := hex.DecodeString(m.Verity.Salt)
	if err != nil {
		return err
	}
	last := make([]byte, release.BlockSize)
	copy(last, "mkappliance test-upgrade\n")
	size := set.Manifest.Files.Root.Size + release.BlockSize
	rootSum, treeSum := sha256.New(), sha256.New()
	data := io.TeeReader(io.MultiReader(in, bytes.NewReader(last)), io.MultiWriter(root, rootSum))
	built, err := verity.Build(io.MultiWriter(tree, treeSum), data, size, salt, uuid.New())
	if err != nil {
		return err
	}

	m.Files.Root.Size, m.Files.Root.SHA256 = size, hex.EncodeToString(rootSum.Sum(nil))
	m.Files.Verity.Size, m.Files.Verity.SHA256 = built.Size(), hex.EncodeToString(treeSum.Sum(nil))
	m.Verity = release.NewVerity(built.Root().String(), m.Verity.Salt, size)
	return errors.Join(root.Close(), tree.Close())
}
