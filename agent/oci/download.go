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

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// parallelDownloads is how many layers are downloaded at a time.
const parallelDownloads = 3

// download is a layer on its way from a registry to a file.
type download struct {
	store *Store
	layer v1.Layer
	file  string
	done  chan struct{} // closed once the file is complete
}

// downloads returns the layers of an image, the lowest first, to be downloaded
// to dir. It refuses those that take more room than the store has.
func (s *Store) downloads(dir string, image v1.Image) (list []*download, size int64, err error) {
	layers, err := layersOf(image)
	if err != nil {
		return nil, 0, err
	}

	for i, l := range layers {
		n, err := l.Size()
		if err != nil {
			return nil, 0, err
		}
		if n < 0 {
			return nil, 0, fmt.Errorf("the image's manifest lists a layer of %d bytes", n)
		}
		if size += n; s.MaxBytes > 0 && size > s.MaxBytes {
			return nil, 0, s.tooLarge()
		}
		file := filepath.Join(dir, fmt.Sprintf("layer-%d", i))
		list = append(list, &download{store: s, layer: l, file: file, done: make(chan struct{})})
	}
	return list, size, nil
}

// maxLayers is how many layers an image may have: each is unpacked by a process of
// its own. Docker's images have 127 at most.
const maxLayers = 1000

// layersOf returns the layers of an image, the lowest first. They are counted
// before, since the library reads the whole manifest again for each.
func layersOf(image v1.Image) ([]v1.Layer, error) {
	manifest, err := image.Manifest()
	if err != nil {
		return nil, fmt.Errorf("cannot read the image's manifest: %w", err)
	}
	if n := len(manifest.Layers); n > maxLayers {
		return nil, fmt.Errorf("the image has %d layers, more than %d", n, maxLayers)
	}
	layers, err := image.Layers()
	if err != nil {
		return nil, fmt.Errorf("cannot read the image's layers: %w", err)
	}
	return layers, nil
}

// run stores the layer as the registry sends it. The library compares its
// digest, and ends with the context that the image was made with.
func (d *download) run() error {
	from, err := d.layer.Compressed()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(d.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}

	_, err = io.Copy(to, &roomReader{Reader: from, store: d.store})
	if err := errors.Join(err, to.Close()); err != nil {
		return err
	}
	close(d.done)
	return nil
}

// open waits for the layer and returns it as a plain tar archive. The file is
// removed when that is closed.
func (d *download) open(ctx context.Context) (io.ReadCloser, error) {
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}

	file, err := os.Open(d.file)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(d.file); err != nil {
		_ = file.Close()
		return nil, err
	}
	return decompress(file)
}

// maxWindow bounds the memory that a zstd archive can ask for, in bytes; as the
// zstd program does.
const maxWindow = 128 << 20

// decompress returns a layer as a plain tar archive. Its first bytes show how it
// is compressed: gzip, zstd or not at all. The file is closed with the result.
//
// containerd's archive/compression does the same, but starts unpigz of PATH as
// root for a hostile layer, and has no bound for the window of zstd.
func decompress(file io.ReadCloser) (io.ReadCloser, error) {
	plain, err := newDecompressor(bufio.NewReaderSize(file, 1<<16))
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &layerReader{ReadCloser: plain, file: file}, nil
}

func newDecompressor(from *bufio.Reader) (io.ReadCloser, error) {
	magic, err := from.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}

	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}): // RFC 1952
		return gzip.NewReader(from)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878
		d, err := zstd.NewReader(from, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(from), nil
}

// layerReader reads a plain tar archive from a compressed file.
type layerReader struct {
	io.ReadCloser
	file io.Closer
}

// Close closes the decompressor and the file.
func (l *layerReader) Close() error { return errors.Join(l.ReadCloser.Close(), l.file.Close()) }
