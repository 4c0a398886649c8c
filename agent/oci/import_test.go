package oci_test

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// archiveOf returns the files of an OCI archive with images.
func archiveOf(t *testing.T, list ...v1.Image) []file {
	t.Helper()
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range list {
		if err := l.AppendImage(image); err != nil {
			t.Fatal(err)
		}
	}
	var files []file
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		files = append(files, file{name: name, body: string(data)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func writeArchive(t *testing.T, files ...file) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(name, withSparse(newArchive(t, files...)), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestImport(t *testing.T) {
	store := newStore(t)
	if _, ok := store.Lookup("app"); ok {
		t.Error("an image is there before any was imported")
	}

	image := newImage(t, newLayer(t, file{name: "f", body: "lower"}), newLayer(t, file{name: "f", body: "upper"}))
	image = configure(t, image, func(f *v1.ConfigFile) { f.Config.User = "app" })
	files := archiveOf(t, image)
	for i := range files {
		files[i].name = "./" + files[i].name
	}

	files = append(files, file{name: "../evil", body: "x"}, link("blobs/link", tar.TypeSymlink, "/etc"))
	imported, err := store.Import(t.Context(), "app", writeArchive(t, files...))
	if err != nil {
		t.Fatal(err)
	}
	imported.Release()

	found, ok := store.Lookup("app")
	if !ok {
		t.Fatal("the image is not there")
	}
	defer found.Release()
	compare(t, found.Tree, map[string]string{".": "040755 0:0", "f": `100644 0:0 x1 "upper"`})
	if digest, err := image.Digest(); err != nil || found.Digest != digest.String() || found.Config.User != "app" {
		t.Errorf("got %+v, want %s, %v", found, digest, err)
	}
	checkEmpty(t, filepath.Join(store.Dir, "tmp"))
	if _, ok := store.Lookup("other"); ok {
		t.Error("there is an image that was not imported")
	}

	again, err := store.Import(t.Context(), "other", writeArchive(t, archiveOf(t, image)...))
	if err != nil {
		t.Fatal(err)
	}
	again.Release()
	if again.Tree != found.Tree {
		t.Errorf("the same image has two trees")
	}

	shop := newShop(t)
	store.Insecure = []string{shop.addr()}
	if pulled := pull(t, store, shop.push("app", image)); pulled.Tree != found.Tree || len(shop.requests()) != 2 {
		t.Errorf("what was imported is downloaded again")
	}
}

func TestImportRefuses(t *testing.T) {
	good := newImage(t, newLayer(t, file{name: "f"}))
	files := archiveOf(t, good)
	manifest, err := good.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := good.Digest()
	if err != nil {
		t.Fatal(err)
	}

	// with returns the archive with another content of a file, or without the file.
	with := func(name, body string) []file {
		changed := slices.Clone(files)
		for i := range changed {
			if strings.HasSuffix(changed[i].name, name) {
				changed[i].body = body
			}
		}
		return slices.DeleteFunc(changed, func(f file) bool { return f.body == "" })
	}

	configDigest, layerDigest := manifest.Config.Digest.Hex, manifest.Layers[0].Digest.Hex
	for _, test := range []struct {
		summary string
		files   []file
		want    string
	}{
		{summary: "no archive", want: "it is not an OCI archive: it has no index.json"},
		{
			summary: "docker-archive",
			files:   []file{{name: "manifest.json", body: "[]"}},
			want:    "it is not an OCI archive: it has no index.json",
		},
		{
			summary: "no JSON",
			files:   with("index.json", "x"),
			want:    "invalid character 'x' looking for beginning of value",
		},
		{
			summary: "no image",
			files:   archiveOf(t),
			want:    "there is none for linux/" + arch + ", only for no platform",
		},
		{summary: "no manifest", files: with(digest.Hex, ""), want: "it has no " + digest.Hex},
		{summary: "no configuration", files: with(configDigest, ""), want: "it has no " + configDigest},
		{
			summary: "another layer",
			files:   with(layerDigest, "x"),
			want: "cannot read blobs/sha256/" + layerDigest + " of archive: its content is " +
				"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
		},
		{
			summary: "twice",
			files:   append(slices.Clone(files), files...),
			want:    "cannot read " + files[0].name + " of archive: ",
		},
		{
			summary: "large index",
			files:   with("index.json", strings.Repeat(" ", 4<<20+1)),
			want:    "it is not an OCI archive: its index.json has 4194305 bytes, more than 4194304",
		},
		{
			summary: "other machine",
			files:   archiveOf(t, configure(t, good, func(f *v1.ConfigFile) { f.Architecture = "s390x" })),
			want:    "it is for linux/s390x, and this host is linux/" + arch,
		},
		{
			summary: "sparse index",
			files:   append(with("index.json", ""), sparseFile("index.json", "5000000")),
			want:    `"index.json" is a sparse file, which no layer and no archive may have`,
		},
		{
			summary: "sparse file beside the image",
			files:   append(slices.Clone(files), sparseFile("other", "1099511627776")),
			want:    `"other" is a sparse file, which no layer and no archive may have`,
		},
		{
			summary: "index link",
			files:   append(with("index.json", ""), link("index.json", tar.TypeSymlink, "/etc/hostname")),
			want:    "it is not an OCI archive: it has no index.json",
		},
	} {
		store := newStore(t)
		image, err := store.Import(t.Context(), "app", writeArchive(t, test.files...))
		if err == nil {
			image.Release()
		}
		if err == nil || !strings.HasPrefix(err.Error(), "cannot import image: "+test.want) {
			t.Errorf("%s: got %v\nwant %s", test.summary, err, test.want)
		}
		checkEmpty(t, filepath.Join(store.Dir, "images"))
		checkEmpty(t, filepath.Join(store.Dir, "tmp"))
		checkEmpty(t, filepath.Join(store.Dir, "refs"))
	}
}

// TestImportTooLarge imports files that are too large together: each of them
// alone would fit.
func TestImportTooLarge(t *testing.T) {
	store := newStore(t)
	store.MaxBytes = 1 << 20
	files := []file{{name: "index.json", body: "{}"}}
	for i := range 3 {
		body := strings.Repeat(string(rune('a'+i)), 400<<10)
		files = append(files, file{name: fmt.Sprintf("blobs/sha256/%x", sha256.Sum256([]byte(body))), body: body})
	}

	_, err := store.Import(t.Context(), "app", writeArchive(t, files...))
	want := "cannot import image: the image is too large: all images together may take 1.0 MiB; " +
		"raise RUNNER_IMAGE_CACHE in config.env"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	checkEmpty(t, filepath.Join(store.Dir, "tmp"))
}
