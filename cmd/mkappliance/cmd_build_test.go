package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/cli"
)

// TestBuildRefuses makes mistakes that must stop a build before it does
// anything: neither output nor cache may appear.
func TestBuildRefuses(t *testing.T) {
	good, err := os.ReadFile("../../images.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary  string
		old, new string // replaced in the repository's images.toml
		env      string // SOURCE_DATE_EPOCH
		args     []string
		want     string
	}{{
		summary: "unknown key",
		old:     "suite =",
		new:     "siute =",
		want:    `images.toml:6: unknown key "siute"; did you mean "suite"?`,
	}, {
		summary: "wrong type",
		old:     `version = "0.1.0"`,
		new:     "version = 1",
		want:    `images.toml:7: version is an integer, want a string in quotes`,
	}, {
		summary: "missing value",
		old:     "architecture = \"amd64\"\n",
		want: `images.toml:4: architecture is missing from [image.runner-amd64]; ` +
			`add a line like: architecture = "..."`,
	}, {
		summary: "missing overlay",
		old:     `"overlays/host"`,
		new:     `"overlays/hots"`,
		want: `images.toml:21: overlay "overlays/hots" is not a directory beside this file; ` +
			`create it or correct the path`,
	}, {
		summary: "unknown image",
		args:    []string{"runner-arm64"},
		want:    `cannot find image "runner-arm64" in images.toml: it has runner-amd64`,
	}, {
		summary: "version",
		args:    []string{"runner-amd64", "--version", "1_2"},
		want: `cannot use --version: version "1_2" does not begin with a digit or has characters ` +
			`other than letters, digits and '.~^'; use one like "1.4.0"`,
	}, {
		summary: "runner missing",
		args:    []string{"runner-amd64", "--runner", "missing.tar.gz"},
		want:    "cannot use --runner: open missing.tar.gz: no such file or directory",
	}, {
		summary: "runner hash",
		args:    []string{"runner-amd64", "--runner", "images.toml@00"},
		want:    "cannot use --runner: images.toml has sha256 ",
	}, {
		summary: "epoch",
		env:     "yesterday",
		want:    `cannot use SOURCE_DATE_EPOCH "yesterday": want seconds since 1970`,
	}, {
		summary: "agent missing",
		args:    []string{"runner-amd64", "--programs", "missing"},
		want: "cannot find the appliance's programs: stat missing/runner-agent: no such file or directory; " +
			"build them with 'make' or give --programs",
	}, {
		summary: "no image named",
		args:    []string{},
		want:    "missing argument: want IMAGE (see 'mkappliance build --help')",
	}, {
		summary: "no description",
		args:    []string{"runner-amd64", "--file", "missing.toml"},
		want:    "cannot read description of images: open missing.toml: no such file or directory",
	}} {
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
			status := cli.Run(t.Context(), newRootCommand(), args, &stderr)

			got, exact := strings.TrimPrefix(stderr.String(), "mkappliance: error: "), test.want+"\n"
			if test.summary == "runner hash" {
				got, exact = got[:len(test.want)], test.want // two hashes follow
			}
			if status != cli.StatusUsage || got != exact {
				t.Errorf("got status %d, %q\nwant %d, %q", status, stderr.String(), cli.StatusUsage, exact)
			}

			if left, _ := filepath.Glob("*"); strings.Join(left, " ") != "images.toml overlays" {
				t.Errorf("the directory now has %q", left)
			}
		})
	}
}
