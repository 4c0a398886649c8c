package oci_test

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// describe returns the mode, owner within the image, links and content of each file
// of a tree.
func describe(t *testing.T, tree string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}

		text := fmt.Sprintf("%06o %d:%d", stat.Mode, int(stat.Uid)-owner, int(stat.Gid)-owner)
		switch stat.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + to
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" x%d %q", stat.Nlink, data)
		}

		name, err := filepath.Rel(tree, path)
		got[name] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// compare checks that describe returns want for a tree.
func compare(t *testing.T, tree string, want map[string]string) {
	t.Helper()
	got := describe(t, tree)
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%.60s: got %s, want %s", name, got[name], text)
		}
	}
	for name, text := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%.60s: got %s, want nothing", name, text)
		}
	}
}

func TestUnpack(t *testing.T) {
	store, shop := newStoreAndShop(t)
	long := strings.Repeat(strings.Repeat("d", 200)+"/", 5)
	lower := newLayer(t,
		dir("bin/"), dir("gone/"), file{name: "gone/f"}, file{name: "removed"}, file{name: "replaced", body: "old"},
		dir("opaque/"), file{name: "opaque/old"}, dir("opaque/olddir"), file{name: "opaque/olddir/f"},
		dir("dir-to-file"), file{name: "dir-to-file/f"}, file{name: "file-to-dir"},
		file{"bin/su", "root", func(h *tar.Header) { h.Mode = 0o4755 }},
		file{"mine", "", func(h *tar.Header) { h.Uid, h.Gid, h.Mode = 1001, 65535, 0o600 }},
		dir("usr/lib/"), link("lib", tar.TypeSymlink, "usr/lib"), file{name: "lib/through", body: "merged"},
		link("out", tar.TypeSymlink, "/etc/passwd"), link("hard", tar.TypeLink, "replaced"),
		file{"null", "", func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 1, 3 }},
		file{"disk", "", func(h *tar.Header) { h.Typeflag, h.Devmajor = tar.TypeBlock, 8 }},
		file{"pipe", "", func(h *tar.Header) { h.Typeflag = tar.TypeFifo }},
		file{"sticky/", "", func(h *tar.Header) { h.Typeflag, h.Mode = tar.TypeDir, 0o1777 }},
		file{name: long + "f", body: "deep"}, file{name: "no/parent/here"},
	)

	upper := newLayer(t,
		file{name: ".wh.gone"}, file{name: ".wh.removed"}, file{name: ".wh.never-was"},
		file{name: "opaque/new"}, file{name: "opaque/.wh..wh..opq"}, file{name: "replaced", body: "new"},
		file{name: "dir-to-file"}, dir("file-to-dir"), file{name: "file-to-dir/f"},
	)

	image := pull(t, store, shop.push("app", newImage(t, lower, upper)))
	want := map[string]string{
		".":               "040755 0:0",
		"bin":             "040755 0:0",
		"bin/su":          `104755 0:0 x1 "root"`,
		"dir-to-file":     `100644 0:0 x1 ""`,
		"file-to-dir":     "040755 0:0",
		"file-to-dir/f":   `100644 0:0 x1 ""`,
		"hard":            `100644 0:0 x1 "old"`,
		"lib":             "120777 0:0 -> usr/lib",
		"mine":            `100600 1001:65535 x1 ""`,
		"no":              "040755 0:0",
		"no/parent":       "040755 0:0",
		"no/parent/here":  `100644 0:0 x1 ""`,
		"opaque":          "040755 0:0",
		"opaque/new":      `100644 0:0 x1 ""`,
		"out":             "120777 0:0 -> /etc/passwd",
		"pipe":            "010644 0:0",
		"replaced":        `100644 0:0 x1 "new"`,
		"sticky":          "041777 0:0",
		"usr":             "040755 0:0",
		"usr/lib":         "040755 0:0",
		"usr/lib/through": `100644 0:0 x1 "merged"`,
		long + "f":        `100644 0:0 x1 "deep"`,
	}

	for name := filepath.Dir(long + "f"); name != "."; name = filepath.Dir(name) {
		want[name] = "040755 0:0"
	}
	compare(t, image.Tree, want)
}

// TestUnpackAttributes: capabilities hold for the image's own root only.
func TestUnpackAttributes(t *testing.T) {
	store, shop := newStoreAndShop(t)
	// VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE, permitted and effective;
	// struct vfs_cap_data of linux/capability.h.
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	image := pull(t, store, shop.push("app", newImage(t, newLayer(t, file{"bin", "", func(h *tar.Header) {
		h.PAXRecords = map[string]string{
			"SCHILY.xattr.user.note":               "kept",
			"SCHILY.xattr.security.capability":     capability,
			"SCHILY.xattr.trusted.overlay.opaque":  "y",
			"SCHILY.xattr.security.selinux":        "x",
			"SCHILY.xattr.system.posix_acl_access": "x",
		}
	}}))))

	names := make([]byte, 1024)
	n, err := unix.Listxattr(filepath.Join(image.Tree, "bin"), names)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00")
	slices.Sort(got)
	if diff := cmp.Diff([]string{"security.capability", "user.note"}, got); diff != "" {
		t.Errorf("the attributes differ, -want +got:\n%s", diff)
	}

	value := make([]byte, 64)
	n, err = unix.Getxattr(filepath.Join(image.Tree, "bin"), "user.note", value)
	if err != nil || string(value[:n]) != "kept" {
		t.Errorf("got %q, %v", value[:n], err)
	}
	// VFS_CAP_REVISION_3 names the root it is for: here 1 << 20.
	n, err = unix.Getxattr(filepath.Join(image.Tree, "bin"), "security.capability", value)
	if want := "\x01\x00\x00\x03" + capability[4:] + "\x00\x00\x10\x00"; err != nil || string(value[:n]) != want {
		t.Errorf("got %q, %v; want %q", value[:n], err, want)
	}
}

// TestUnpackStaysInside applies layers with names outside the tree, which are
// found in the tree instead.
func TestUnpackStaysInside(t *testing.T) {
	canary := file{name: "canary", body: "changed"}
	at := func(name string) file { return file{name: name, body: "changed"} }
	for _, test := range []struct {
		summary string
		files   []file
	}{
		{summary: "parent", files: []file{at("../canary"), at("../../canary"), at("a/../../../../canary")}},
		{summary: "absolute", files: []file{at("/canary")}},
		{summary: "link", files: []file{link("l", tar.TypeSymlink, "../.."), at("l/canary")}},
		{summary: "absolute link", files: []file{link("l", tar.TypeSymlink, "/"), at("l/canary")}},
		{summary: "link to itself", files: []file{link("l", tar.TypeSymlink, "canary"), canary, {name: "l", body: "x"}}},
		{summary: "link of links", files: []file{
			link("a", tar.TypeSymlink, ".."), link("b", tar.TypeSymlink, "a/.."), link("c", tar.TypeSymlink, "b/../.."),
			at("c/canary"),
		}},
		{summary: "whiteout", files: []file{
			link("l", tar.TypeSymlink, "../.."),
			{name: "l/.wh.canary"}, {name: "../.wh.canary"}, {name: "l/.wh..wh..opq"},
			canary,
		}},
		{summary: "through proc", files: []file{link("l", tar.TypeSymlink, "/proc/self/cwd/.."), at("l/canary"), canary}},
		{summary: "descriptor", files: []file{link("l", tar.TypeSymlink, "/proc/self/fd/3/.."), at("l/canary"), canary}},
		{summary: "replaced by dir", files: []file{link("l", tar.TypeSymlink, "../.."), dir("l"), at("l/canary"), canary}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			store, shop := newStoreAndShop(t)
			if err := os.MkdirAll(store.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
			outside := []string{filepath.Join(store.Dir, "canary"), filepath.Join(filepath.Dir(store.Dir), "canary")}
			for _, c := range outside {
				if err := os.WriteFile(c, []byte("alive"), 0o666); err != nil {
					t.Fatal(err)
				}
			}

			image := pull(t, store, shop.push("app", newImage(t, newLayer(t, test.files...))))
			for _, c := range outside {
				if data, err := os.ReadFile(c); err != nil || string(data) != "alive" {
					t.Errorf("the layer reached %s: %q, %v", c, data, err)
				}
			}

			found := false
			for name := range describe(t, image.Tree) {
				found = found || filepath.Base(name) == "canary"
			}
			if !found {
				t.Error("the layer's own canary is not in the tree")
			}
		})
	}
}

// TestUnpackLinksOfLowerLayers writes through the links of lower layers.
func TestUnpackLinksOfLowerLayers(t *testing.T) {
	store, shop := newStoreAndShop(t)
	image := pull(t, store, shop.push("app", newImage(t,
		newLayer(t, link("var", tar.TypeSymlink, "../../../../../.."), link("run", tar.TypeSymlink, "/nowhere/yet")),
		newLayer(t, file{name: "var/tmp/f", body: "x"}, dir("nowhere/yet"), file{name: "run/g"}),
	)))
	got := describe(t, image.Tree)
	if got["tmp/f"] == "" || got["nowhere/yet/g"] == "" {
		t.Errorf("got %q", got)
	}
}

func TestUnpackRefuses(t *testing.T) {
	for _, test := range []struct {
		summary string
		file    file
		canary  bool // whether there is one outside the tree
		want    string
	}{
		{
			summary: "hardlink out",
			file:    link("l", tar.TypeLink, "../../../canary"),
			canary:  true,
			want:    "no such file or directory",
		},
		{
			summary: "user",
			file:    file{name: "f", with: func(h *tar.Header) { h.Uid = 65536 }},
			want:    `"f" belongs to user 65536 and group 0, and guests have none beyond 65535`,
		},
		{summary: "whiteout of parent", file: file{name: "a/.wh..."}, want: "invalid whiteout"},
		{
			summary: "sparse",
			file:    sparseFile("sparse", "1099511627776"),
			want:    `"sparse" is a sparse file, which no layer and no archive may have`,
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			store, shop := newStoreAndShop(t)
			if test.canary {
				if err := os.WriteFile(filepath.Join(filepath.Dir(store.Dir), "canary"), nil, 0o666); err != nil {
					t.Fatal(err)
				}
			}

			archive := withSparse(newArchive(t, test.file))
			ref := shop.push("app", newImage(t, layerOf(t, archive)))
			_, err := store.Pull(t.Context(), ref, nil, func(string) {})
			if err == nil || !strings.Contains(err.Error(), "cannot unpack layer 1: ") {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			checkEmpty(t, filepath.Join(store.Dir, "images"))
			checkEmpty(t, filepath.Join(store.Dir, "tmp"))
		})
	}
}

func TestUnpackCompressions(t *testing.T) {
	data := newArchive(t, file{name: "f", body: "content"})
	for _, c := range []compression.Compression{compression.None, compression.GZip, compression.ZStd} {
		t.Run(string(c), func(t *testing.T) {
			store, shop := newStoreAndShop(t)
			image := pull(t, store, shop.push("app", newImage(t, layerOf(t, data, tarball.WithCompression(c)))))
			compare(t, image.Tree, map[string]string{".": "040755 0:0", "f": `100644 0:0 x1 "content"`})
		})
	}
	t.Run("broken", func(t *testing.T) {
		store, shop := newStoreAndShop(t)
		layer := newLayer(t, file{name: "f", body: strings.Repeat("content", 1<<16)})
		short, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		defer short.Close()
		data, err := io.ReadAll(io.LimitReader(short, 500))
		if err != nil {
			t.Fatal(err)
		}
		ref := shop.push("app", newImage(t, static.NewLayer(data, types.DockerLayer)))
		_, err = store.Pull(t.Context(), ref, nil, func(string) {})
		if err == nil || !strings.HasSuffix(err.Error(), "cannot unpack layer 1: unexpected EOF") {
			t.Errorf("got %v", err)
		}
	})
}
