package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestArchOf(t *testing.T) {
	for _, test := range []struct {
		summary  string
		manifest string // empty: none
		want     string // empty: an error
	}{
		{summary: "no manifest", want: "amd64"},
		{summary: "amd64", manifest: `{"architecture":"amd64"}`, want: "amd64"},
		{summary: "arm64", manifest: `{"architecture":"arm64"}`, want: "arm64"},
		{summary: "unknown", manifest: `{"architecture":"vax"}`},
		{summary: "damaged", manifest: `{`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "x.img")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if test.manifest != "" {
				if err := os.WriteFile(filepath.Join(dir, "x.json"), []byte(test.manifest), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := archOf(file)
			if got.Debian != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q, %v, want %q", got.Debian, err, test.want)
			}
		})
	}
}
