package oci

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Pull returns the image of a reference as docker-pull(1) takes it. A name with
// a tag is resolved each time, but an image is downloaded only once. While the
// registry cannot be reached, the image that the name stood for last time is
// used, if the registry accepted the same credentials for it, or asked for none.
// Lines for a user who waits are passed to progress. The work is done by a process
// without privileges.
func (s *Store) Pull(ctx context.Context, reference string, c *Credentials, progress func(string)) (*Image, error) {
	image, err := s.ask(ctx, request{Reference: reference, Credentials: c}, nil, progress)
	if err != nil {
		return nil, fmt.Errorf("cannot pull %.200s: %w", reference, err)
	}
	return image, nil
}

func (s *Store) pull(ctx context.Context, reference string, c *Credentials, progress func(string)) (*Image, error) {
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	source, err := s.newSource(strings.TrimPrefix(reference, "docker://"), c)
	if err != nil {
		return nil, err
	}
	defer source.close()

	// An image that is in the store is only for those who may have it from the registry.
	known := s.lookUpRef(source.name())
	permitted := known.permits(source.credentials)
	if permitted && source.isDigest() {
		if image := s.open(known.Image); image != nil {
			return image, nil
		}
	}

	digest, err := source.resolve(ctx)
	switch {
	case err == nil:
		return s.get(ctx, source, digest, func(line string) { progress(reference + ": " + line) })
	case !permitted || !unreachable(err) || ctx.Err() != nil:
		return nil, err
	}

	image := s.open(known.Image)
	if image == nil {
		return nil, err
	}
	progress(fmt.Sprintf("%s: the registry cannot be reached, using the image of %s",
		reference, known.Time.Format(time.DateTime)))
	return image, nil
}

// get opens the image under a digest of a source, which may be that of an index,
// and downloads it if it is not in the store.
func (s *Store) get(ctx context.Context, source *source, digest string, progress func(string)) (*Image, error) {
	var image *Image
	if known := s.lookUpRef(source.at(digest)); known != nil {
		image = s.open(known.Image)
	}
	if image == nil {
		var err error
		if image, err = s.fetch(ctx, source, digest, progress); err != nil {
			return nil, err
		}
	}

	for _, name := range []string{source.name(), source.at(digest)} {
		if err := s.remember(name, digest, image, source.credentials); err != nil {
			image.Release()
			return nil, err
		}
	}
	return image, nil
}

// fetch downloads an image, unless it is in the store by another name. A layer is
// unpacked while those above it are downloaded.
func (s *Store) fetch(ctx context.Context, source *source, digest string, progress func(string)) (*Image, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The first task that fails ends the others: they all use the group's ctx.
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.SetLimit(parallelDownloads + 1) // and the unpacking

	remote, err := source.image(ctx, digest)
	if err != nil {
		return nil, err
	}
	own, err := remote.Digest()
	if err != nil {
		return nil, err
	}

	return s.add(ctx, own, func(dir string) error {
		layers, size, err := s.downloads(dir, remote)
		if err != nil {
			return err
		}
		progress(fmt.Sprintf("pulling %d layers, %.1f MiB", len(layers), float64(size)/(1<<20)))

		begin := time.Now()
		tasks.Go(func() error {
			open := func(i int) (io.ReadCloser, error) { return layers[i].open(ctx) }
			return s.build(ctx, dir, own, remote, open)
		})
		for i, l := range layers {
			tasks.Go(func() error {
				if err := l.run(); err != nil {
					return fmt.Errorf("cannot download layer %d: %w", i+1, err)
				}
				return nil
			})
		}
		if err := tasks.Wait(); err != nil {
			return err
		}
		progress(fmt.Sprintf("ready after %.1f s", time.Since(begin).Seconds()))
		return nil
	})
}
