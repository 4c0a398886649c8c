package oci_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/oci"
)

// emptyFiles returns entries that have no content.
func emptyFiles(n int) []file {
	files := make([]file, n)
	for i := range files {
		files[i].name = fmt.Sprintf("f%d", i)
	}
	return files
}

// TestEmptyFilesCount: files without content take inodes, and so room.
func TestEmptyFilesCount(t *testing.T) {
	store, shop := newStoreAndShop(t)
	store.MaxBytes = 4 << 20
	small := shop.push("small", newImage(t, newLayer(t, emptyFiles(600)...)))
	other := shop.push("other", newImage(t, newLayer(t, append(emptyFiles(600), file{name: "other"})...)))
	first := pull(t, store, small)
	first.Release()
	pull(t, store, other)
	if _, err := os.Stat(first.Tree); err == nil {
		t.Error("two images of 600 files fit into 1024 times 4 KiB")
	}

	large := shop.push("large", newImage(t, newLayer(t, emptyFiles(2000)...)))
	_, err := store.Pull(t.Context(), large, nil, func(string) {})
	want := "the image is too large: all images together may take 4.0 MiB; raise RUNNER_IMAGE_CACHE in config.env"
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// TestTooManyFiles: the number of files is bounded, also of directories that
// an archive makes by naming a file in them.
func TestTooManyFiles(t *testing.T) {
	deep := func(name string) file { return file{name: strings.Repeat(name+"/", 100) + "f"} }
	for _, test := range []struct {
		summary string
		layers  [][]file
		want    string // part of the error; empty: none
	}{
		{summary: "as many as allowed", layers: [][]file{emptyFiles(200), emptyFiles(100)}},
		{
			summary: "one layer", layers: [][]file{emptyFiles(301)},
			want: "cannot unpack layer 1: the image has more than 300 files",
		},
		{
			summary: "several layers", layers: [][]file{emptyFiles(200), emptyFiles(101)},
			want: "cannot unpack layer 2: the image has more than 300 files",
		},
		{
			summary: "directories", layers: [][]file{{deep("a"), deep("b"), deep("c")}},
			want: "cannot unpack layer 1: the image has more than 300 files",
		},
		{summary: "directories once", layers: [][]file{append(emptyFiles(150), deep("a"), file{name: "a/a/a/a/g"})}},
		{
			summary: "links", layers: [][]file{append(emptyFiles(300), link("l", tar.TypeSymlink, "f1"))},
			want: "cannot unpack layer 1: the image has more than 300 files",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			store, shop := newStoreAndShop(t)
			store.MaxFiles = 300
			image := newImage(t)
			for _, files := range test.layers {
				image = appendLayer(t, image, newLayer(t, files...))
			}
			_, err := store.Pull(t.Context(), shop.push("app", image), nil, func(string) {})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			checkEmpty(t, filepath.Join(store.Dir, "tmp"))
		})
	}
}

// TestTooManyLayers: each layer is unpacked by a process of its own. They are
// counted before anything else is done with them.
func TestTooManyLayers(t *testing.T) {
	store, shop := newStoreAndShop(t)
	small := newImage(t, newLayer(t, file{name: "f"}))
	manifest, err := small.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	manifest.Layers = slices.Repeat(manifest.Layers, 1001)
	data, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	const want = "the image has 1001 layers, more than 1000"

	ref := shop.push("app", small)
	shop.say(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", string(manifest.MediaType))
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data)
		return true
	})
	_, err = store.Pull(t.Context(), ref, nil, func(string) {})
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}

	digest, size, err := v1.SHA256(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{{MediaType: manifest.MediaType, Digest: digest, Size: size}}})
	if err != nil {
		t.Fatal(err)
	}
	files := slices.DeleteFunc(archiveOf(t, small), func(f file) bool { return f.name == "index.json" })
	files = append(files, file{name: "index.json", body: string(index)},
		file{name: "blobs/sha256/" + digest.Hex, body: string(data)})
	_, err = store.Import(t.Context(), "app", writeArchive(t, files...))
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// TestReserve fills the file system of a store: the images that nobody uses go,
// and the rest of the host keeps its room.
func TestReserve(t *testing.T) {
	for _, test := range []struct {
		summary string
		options string // of the file system
		files   func(i int) []file
		free    func(unix.Statfs_t) bool
		want    string
	}{
		{
			summary: "bytes", options: "size=64m,nr_inodes=100000",
			files: func(i int) []file {
				return []file{{name: "f", body: strings.Repeat(fmt.Sprint(i), 24<<20)}}
			},
			free: func(fs unix.Statfs_t) bool { return fs.Bavail*32 >= fs.Blocks },
			want: "the file system of the images is nearly full",
		},
		{
			summary: "inodes", options: "size=256m,nr_inodes=30000",
			files: func(i int) []file { return append(emptyFiles(13000), file{name: fmt.Sprint(i)}) },
			free:  func(fs unix.Statfs_t) bool { return fs.Ffree*32 >= fs.Files },
			want:  "the file system of the images is nearly full",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			store, shop := newStoreAndShop(t)
			if err := os.MkdirAll(store.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", store.Dir, "tmpfs", 0, test.options); err != nil {
				t.Skipf("cannot mount: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(store.Dir, unix.MNT_DETACH) })

			var last *oci.Image
			for i := range 4 {
				last = pull(t, store, shop.push(fmt.Sprintf("app:%d", i), newImage(t, newLayer(t, test.files(i)...))))
				var fs unix.Statfs_t
				if err := unix.Statfs(store.Dir, &fs); err != nil || !test.free(fs) {
					t.Errorf("image %d: %d of %d blocks and %d of %d inodes are free, %v", i, fs.Bavail, fs.Blocks, fs.Ffree,
						fs.Files, err)
				}
				if i < 3 {
					last.Release()
				}
			}

			// That in use stays.
			image := newImage(t, newLayer(t, test.files(5)...), newLayer(t, test.files(6)...))
			image = appendLayer(t, image, newLayer(t, file{name: "g", body: strings.Repeat("g", 40<<20)}))
			image = appendLayer(t, image, layerOf(t, newArchive(t, renamed(emptyFiles(4000))...)))
			_, err := store.Pull(t.Context(), shop.push("app:9", image), nil, func(string) {})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if _, err := os.Stat(last.Tree); err != nil {
				t.Error(err)
			}
			checkEmpty(t, filepath.Join(store.Dir, "tmp"))
		})
	}
}

func renamed(files []file) []file {
	for i := range files {
		files[i].name = "other-" + files[i].name
	}
	return files
}
