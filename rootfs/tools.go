package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mkappliance/mkappliance/internal/store"
)

// Tools is a tree of the programs that shape the bytes of an image. It is a
// thing of its own in the store, so that it can be found again without asking
// the archive what a new one would consist of.
type Tools struct {
	Root   string // the directory of the tree
	Digest string // by which FindTools finds it again
}

// toolsKind returns the kind, in the store, of tools trees of a suite and a
// Debian architecture.
func toolsKind(suite, architecture string) string { return "tools-" + suite + "-" + architecture }

// Tools returns the tree of a layer, and whether it was in the store already.
// The files belong to the caller: nothing in the tree depends on their owners.
func (b *Builder) Tools(ctx context.Context, l *Layer, log io.Writer) (tools *Tools, cached bool, err error) {
	kind, digest := toolsKind(l.Suite, l.Architecture), l.Key()
	root, err := b.Store.Get(kind, digest)
	if err == nil {
		return &Tools{Root: root, Digest: digest}, true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}

	tar, cached, err := b.Layer(ctx, l, log)
	if err != nil {
		return nil, false, err
	}
	root, err = b.Store.Put(kind, digest, func(dir string) error {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		return unpack(ctx, b.Executor, tar, dir, "--no-same-owner")
	})
	if err != nil {
		return nil, false, fmt.Errorf("cannot make tools tree: %w", err)
	}
	return &Tools{Root: root, Digest: digest}, cached, nil
}

// FindTools returns the tools tree with a digest. If the store does not have
// it, or the digest is empty, FindTools returns the one that was used last
// among those of the suite and the architecture. If there is none either, the
// error is fs.ErrNotExist.
func FindTools(s *store.Store, suite, architecture, digest string) (*Tools, error) {
	kind := toolsKind(suite, architecture)
	if digest != "" && filepath.IsLocal(digest) {
		root, err := s.Get(kind, digest)
		if err == nil {
			return &Tools{Root: root, Digest: digest}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}

	root, err := s.Newest(kind)
	if err != nil {
		return nil, err
	}
	return &Tools{Root: root, Digest: filepath.Base(root)}, nil
}
