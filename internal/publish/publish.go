package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mkappliance/mkappliance/internal/release"
)

// Publisher puts update sets into a channel's directory.
type Publisher struct {
	Target Target
	// Key signs the index.
	Key release.PrivateKey
	// Accepted are further keys whose signatures over manifests, and over the index
	// as it was, are accepted.
	Accepted []release.PublicKey
	// Base is the URL at which appliances find the files of the update sets; empty
	// if it is that of the index.
	Base string
	// New starts an index if the target has none.
	New bool
	// Report is called before each file with its name, and returns what is called
	// after it.
	Report func(name string) (done func(error))
}

// Publish checks update sets, writes their files to the target, and then lists
// them in the index. Nothing is written if a set is not signed, its files are not
// those of its manifest, or the index has the version with other content.
func (p *Publisher) Publish(ctx context.Context, sets []*Set, now time.Time) (*release.Index, error) {
	keys := append([]release.PublicKey{Public(p.Key)}, p.Accepted...)
	index, err := p.index(ctx, keys)
	if err != nil {
		return nil, err
	}
	index.Time = now.UTC().Truncate(time.Second)

	var signatures [][]byte
	for _, s := range sets {
		signature, err := s.signature(keys)
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, signature)
		if err := s.CheckFiles(); err != nil {
			return nil, err
		}
		if err := p.add(index, s); err != nil {
			return nil, err
		}
	}

	for i, s := range sets {
		if err := p.putSet(ctx, s, signatures[i]); err != nil {
			return nil, err
		}
	}
	return index, p.putIndex(ctx, index)
}

// index returns the index of the target, or a new one.
func (p *Publisher) index(ctx context.Context, keys []release.PublicKey) (*release.Index, error) {
	data, err := p.Target.Get(ctx, release.IndexName, release.MaxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		if !p.New {
			return nil, fmt.Errorf("%w; if this is a new channel, add --new", err)
		}
		return &release.Index{Schema: release.Schema, Releases: []release.Entry{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read index: %w", err)
	}

	signature, err := p.Target.Get(ctx, release.IndexName+release.SignatureSuffix, release.MaxSignature)
	if err != nil {
		return nil, fmt.Errorf("cannot read signature of index: %w", err)
	}
	if err := release.Verify(keys, release.IndexName, data, signature); err != nil {
		return nil, err
	}
	return release.DecodeIndex(data)
}

// add lists a set in the index.
func (p *Publisher) add(index *release.Index, s *Set) error {
	entry := release.NewEntry(s.Manifest, s.hash())
	entry.Base = p.Base
	if old := index.Find(entry.Image, entry.Version); old != nil && old.SHA256 != entry.SHA256 {
		return fmt.Errorf("%s %s is already published, as %s with other content; raise the version",
			entry.Image, entry.Version, old.Version)
	}
	index.Add(entry)
	return index.Check()
}

// putSet writes the files of a set, the manifest and its signature last.
func (p *Publisher) putSet(ctx context.Context, s *Set, signature []byte) error {
	for _, r := range s.Manifest.Files.Roles() {
		f, err := os.Open(filepath.Join(s.Dir, r.File.Name))
		if err != nil {
			return fmt.Errorf("cannot publish: %w", err)
		}
		err = p.put(ctx, r.File.Name, f, r.File.Size)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	if err := p.putBytes(ctx, s.name(), s.data); err != nil {
		return err
	}
	return p.putBytes(ctx, s.name()+release.SignatureSuffix, signature)
}

// putIndex signs and writes the index. For a moment index and signature do not
// fit: appliances try again.
func (p *Publisher) putIndex(ctx context.Context, index *release.Index) error {
	data, err := index.Encode()
	if err != nil {
		return err
	}
	signature, err := release.Sign(p.Key, release.IndexName, data, index.Time)
	if err != nil {
		return err
	}
	if err := p.putBytes(ctx, release.IndexName+release.SignatureSuffix, signature); err != nil {
		return err
	}
	return p.putBytes(ctx, release.IndexName, data)
}

func (p *Publisher) putBytes(ctx context.Context, name string, data []byte) error {
	return p.put(ctx, name, bytes.NewReader(data), int64(len(data)))
}

func (p *Publisher) put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	done := p.Report(name)
	err := p.Target.Put(ctx, name, content, size)
	if err != nil {
		err = fmt.Errorf("cannot publish %s: %w", name, err)
	}
	done(err)
	return err
}
