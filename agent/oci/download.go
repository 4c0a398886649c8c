package oci

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// parallelDownloads is how many layers are fetched at a time.
const parallelDownloads = 3

// downloads are the layers of an image on their way to files.
type downloads struct {
	sync.WaitGroup
	files []string
	done  []chan error
}

// startDownloads starts to fetch the layers of an image, the lowest first. They
// end with the context that the image was made with.
func (s *Store) startDownloads(ctx context.Context, dir string, image v1.Image, progress func(string)) (*downloads, error) {
	layers, err := image.Layers()
	if err != nil {
		return nil, fmt.Errorf("cannot read the image's layers: %w", err)
	}
	var size int64
	for _, l := range layers {
		n, err := l.Size()
		if err != nil {
			return nil, err
		}
		if n < 0 {
			return nil, fmt.Errorf("the image's manifest gives a layer %d bytes", n)
		}
		if size += n; s.MaxBytes > 0 && size > s.MaxBytes {
			return nil, s.tooLarge()
		}
	}
	progress(fmt.Sprintf("pulling %d layers, %.1f MB", len(layers), float64(size)/1e6))
	d := &downloads{}
	slots := make(chan struct{}, parallelDownloads)
	for i, l := range layers {
		file, done := filepath.Join(dir, fmt.Sprintf("layer-%d", i)), make(chan error, 1)
		d.files, d.done = append(d.files, file), append(d.done, done)
		d.Go(func() {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				done <- fetch(l, file)
			case <-ctx.Done():
				done <- ctx.Err()
			}
		})
	}
	return d, nil
}

// fetch stores a layer as the registry has it. The library compares its digest.
func fetch(layer v1.Layer, file string) error {
	from, err := layer.Compressed()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// open waits for a layer and gives it as a plain archive. Its file is gone when
// that is closed.
func (d *downloads) open(i int) (io.ReadCloser, error) {
	if err := <-d.done[i]; err != nil {
		return nil, err
	}
	file, err := os.Open(d.files[i])
	if err != nil {
		return nil, err
	}
	if err := os.Remove(d.files[i]); err != nil {
		_ = file.Close()
		return nil, err
	}
	return decompress(file)
}

// maxWindow bounds the memory that a zstd archive can ask for, in bytes; as the
// zstd program does.
const maxWindow = 128 << 20

// decompress tells by the first bytes how a layer is compressed: gzip, zstd or
// not at all. The file is closed with what it gives.
func decompress(file io.ReadCloser) (io.ReadCloser, error) {
	plain, err := newDecompressor(bufio.NewReaderSize(file, 1<<16))
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &layer{plain, file}, nil
}

func newDecompressor(from *bufio.Reader) (io.ReadCloser, error) {
	magic, err := from.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(from)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(from, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(from), nil
}

// layer reads a plain archive out of a file.
type layer struct {
	io.ReadCloser
	file io.Closer
}

func (l *layer) Close() error { return errors.Join(l.ReadCloser.Close(), l.file.Close()) }
