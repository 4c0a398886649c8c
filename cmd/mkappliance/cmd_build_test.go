package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/buildinfo"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/golden"
	"github.com/mkappliance/mkappliance/rootfs"
)

// TestBuildRefuses makes mistakes that must stop a build before it does anything:
// neither output nor cache may appear.
func TestBuildRefuses(t *testing.T) {
	good, err := os.ReadFile("../../images.toml")
	if err != nil {
		t.Fatal(err)
	}
	hash := regexp.MustCompile(`[0-9a-f]{64}`)
	messages := golden.NewMessages(t, "build.golden")
	for _, test := range []struct {
		summary  string
		old, new string // replaced in the repository's images.toml
		env      string // SOURCE_DATE_EPOCH
		args     []string
	}{
		{summary: "unknown key", old: "suite =", new: "siute ="},
		{summary: "wrong type", old: `version = "0.1.0"`, new: "version = 1"},
		{summary: "missing value", old: "architecture = \"amd64\"\n"},
		{summary: "missing overlay", old: `"overlays/host"`, new: `"overlays/hots"`},
		{summary: "unknown image", args: []string{"runner-arm64"}},
		{summary: "version", args: []string{"runner-amd64", "--version", "1_2"}},
		{summary: "runner missing", args: []string{"runner-amd64", "--runner", "missing.tar.gz"}},
		{summary: "runner hash", args: []string{"runner-amd64", "--runner", "images.toml@00"}},
		{summary: "epoch", env: "yesterday"},
		{summary: "agent missing", args: []string{"runner-amd64", "--programs", "missing"}},
		{summary: "no image named", args: []string{}},
		{summary: "no description", args: []string{"runner-amd64", "--file", "missing.toml"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv("SOURCE_DATE_EPOCH", test.env)
			for _, dir := range []string{"overlays/host", "overlays/guest"} {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}

			document := strings.Replace(string(good), test.old, test.new, 1)
			if test.old != "" && document == string(good) {
				t.Fatalf("%q is not in images.toml", test.old)
			}
			if err := os.WriteFile("images.toml", []byte(document), 0o644); err != nil {
				t.Fatal(err)
			}

			args := test.args
			if args == nil {
				args = []string{"runner-amd64"}
			}
			args = append([]string{"build", "--out", "out", "--cache-dir", "cache"}, args...)
			var stderr bytes.Buffer
			if status := cli.Run(t.Context(), newRootCommand(), args, &stderr); status != cli.StatusUsage {
				t.Errorf("got status %d, want %d", status, cli.StatusUsage)
			}

			message := strings.TrimSuffix(stderr.String(), "\n")
			messages.Check(t, test.summary, hash.ReplaceAllString(message, "HASH"))
			if left, _ := filepath.Glob("*"); strings.Join(left, " ") != "images.toml overlays" {
				t.Errorf("the directory now has %q", left)
			}
		})
	}
}

// TestReadPrograms takes away one file after the other of what make leaves.
func TestReadPrograms(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "man"), 0o755); err != nil {
		t.Fatal(err)
	}
	files := []struct{ name, content string }{
		{name: "runner-agent"},
		{name: "runner-shim"},
		{name: "runner-agent.json", content: `{"program":"runner-agent","version":"v1","commit":"c0ffee"}`},
		{name: "man/mkappliance.1"},
		{name: "man/runner-agent-broker.1"},
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.name), []byte(f.content), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	got, err := readPrograms(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := rootfs.Programs{
		Paths:   []string{filepath.Join(dir, "runner-agent"), filepath.Join(dir, "runner-shim")},
		Manuals: []string{filepath.Join(dir, "man/runner-agent-broker.1")},
		Source:  buildinfo.Info{Version: "v1", Commit: "c0ffee"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("got (+), want (-):\n%s", diff)
	}

	for _, name := range []string{"man/runner-agent-broker.1", "runner-agent.json", "runner-shim", "runner-agent"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := readPrograms(dir); err == nil || !strings.Contains(err.Error(), filepath.Dir(filepath.Join(dir, name))) {
			t.Errorf("without %s: got %v", name, err)
		}
	}
}
