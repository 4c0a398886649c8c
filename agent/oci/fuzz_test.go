package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// FuzzUnpack applies layers to a tree without the process and its own root
// directory, which confine them: even so none may change files beside the tree.
func FuzzUnpack(f *testing.F) {
	for _, headers := range [][]tar.Header{
		{{Name: "../canary"}, {Name: "/canary"}, {Name: "a/../../canary"}},
		{
			{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."},
			{Name: "l/canary"}, {Name: "l/.wh.canary"}, {Name: "l/.wh..wh..opq"},
			{Name: "l", Typeflag: tar.TypeDir},
		},
		{
			{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../canary"},
			{Name: "h", Typeflag: tar.TypeLink, Linkname: "l"},
			{Name: "h"},
			{Name: "l", Uid: 7},
		},
		{{Name: "h", Typeflag: tar.TypeLink, Linkname: "../canary"}, {Name: "h"}},
		{
			{Name: "../.wh.canary"}, {Name: ".wh..."}, {Name: ".wh.."}, {Name: ".wh..wh..opq"},
			{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o7777},
		},
		{
			{Name: "n", Typeflag: tar.TypeChar},
			{Name: "p", Typeflag: tar.TypeFifo},
			{Name: "p/x"},
			{Name: "x", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		},
		{
			{Name: strings.Repeat("../", 60) + "canary", Format: tar.FormatGNU},
			{Name: strings.Repeat("a/", 90) + "b", Mode: 0o4755},
		},
	} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(buf.Bytes(), buf.Bytes())
	}
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		outside := t.TempDir()
		tree, canary := filepath.Join(outside, "tree"), filepath.Join(outside, "canary")
		if err := os.Mkdir(tree, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
			t.Fatal(err)
		}

		before, err := os.Lstat(canary)
		if err != nil {
			t.Fatal(err)
		}

		for _, layer := range [][]byte{lower, upper} {
			_, _ = applyLayer(tree, bytes.NewReader(layer), DefaultMaxFiles)
		}

		after, err := os.Lstat(canary)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(canary)
		same := before.Mode() == after.Mode() && before.ModTime().Equal(after.ModTime())
		if err != nil || string(data) != "alive" || !same {
			t.Fatalf("the canary is changed: %q, %v, %v", data, after, err)
		}

		entries, err := os.ReadDir(outside)
		if err != nil || len(entries) != 2 {
			t.Fatalf("beside the tree there are %v, %v", entries, err)
		}
	})
}

// FuzzConfig parses the configuration of an image.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"config":{"Env":["A=b","x","=y"],"User":"a:b","WorkingDir":"/w","Volumes":{"/v":{},"r":{}},` +
		`"Healthcheck":{"Test":["CMD","it's"]}}}`))
	f.Add([]byte(`{"config":{"Healthcheck":{"Test":["CMD-SHELL","true"]},"Entrypoint":["/e"],"Cmd":[]}}`))
	f.Add([]byte(`{"config":{"Healthcheck":{"Test":["NONE"]},"WorkingDir":"relative"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := v1.ParseConfigFile(bytes.NewReader(data))
		if err != nil {
			return
		}

		c := newConfig(file, startIntervalOf(data))
		for _, e := range c.Env {
			if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.Contains(e, "\x00") {
				t.Errorf("variable %q", e)
			}
		}
		for _, p := range append(slices.Clone(c.Volumes), c.WorkingDir) {
			if p != "" && !filepath.IsAbs(p) || strings.Contains(p, "\x00") {
				t.Errorf("path %q", p)
			}
		}

		if h := c.Health; h != nil && (len(h.Test) == 0 || h.Shell && len(h.Test) != 1 || h.Retries < 0 || min(
			h.Interval, h.Timeout, h.StartPeriod, h.StartInterval) < 0) {
			t.Errorf("health %+v", h)
		}

		kept, err := json.Marshal(record{Config: c})
		if err != nil {
			t.Fatal(err)
		}
		var back record
		if err := json.Unmarshal(kept, &back); err != nil || !slices.Equal(back.Config.Env, c.Env) {
			t.Errorf("got %q back, %v; want %q", back.Config.Env, err, c.Env)
		}
	})
}

// FuzzUser parses passwd(5) and group(5) of an image.
func FuzzUser(f *testing.F) {
	f.Add("root:x:0:0::/root:/bin/sh\napp:x:1001:1002::/home/app:\n", "staff:x:50:app,b\n", "app:staff")
	f.Add("a:x:-1:99999999999999999999", ":::", "a")
	f.Fuzz(func(t *testing.T, passwd, group, spec string) {
		tree := t.TempDir()
		if err := os.Mkdir(filepath.Join(tree, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(tree, "etc", name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		u, err := FindUser(tree, spec)
		if err != nil {
			if s := err.Error(); len(s) > 500 || strings.ContainsAny(s, "\n\r\x00") {
				t.Errorf("the message is %q", s)
			}
			return
		}
		for _, id := range append(u.Groups, u.UID, u.GID) {
			if id >= idCount {
				t.Errorf("got number %d", id)
			}
		}
		if u.Home == "" {
			t.Error("got no home")
		}
	})
}
