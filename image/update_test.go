package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/golden"
)

// TestVerifyUpdateSet changes one thing at a time in the update set beside an
// image.
func TestVerifyUpdateSet(t *testing.T) {
	messages := golden.NewMessages(t, "update-set.golden")
	for _, test := range []struct{ summary, old, new, remove, damage string }{
		{summary: "good"},
		{summary: "none", remove: "runner_1.0.manifest.json"},
		{summary: "not canonical", old: "{", new: " {"},
		{summary: "architecture", old: `"amd64"`, new: `"arm64"`},
		{summary: "root hash", old: `"abab`, new: `"baba`},
		{summary: "salt", old: `"ac2f`, new: `"0000`},
		{summary: "size", old: `"size": 5`, new: `"size": 6`},
		{summary: "missing file", remove: "runner_1.0.verity"},
		{summary: "damaged file", damage: "runner_1.0.efi"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			o, result := buildTestImage(t)
			if test.remove != "" {
				if err := os.Remove(filepath.Join(o.OutDir, test.remove)); err != nil {
					t.Fatal(err)
				}
			}
			if test.damage != "" {
				if err := os.WriteFile(filepath.Join(o.OutDir, test.damage), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if test.old != "" {
				replaceIn(t, result.UpdateManifest, test.old, test.new)
			}

			img, err := Open(result.Image)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			message := "ok"
			if err := (&verification{image: img, path: result.Image}).checkUpdateSet(t.Context()); err != nil {
				message = strings.ReplaceAll(err.Error(), o.OutDir, "OUT")
			}
			messages.Check(t, test.summary, message)
		})
	}
}

func replaceIn(t *testing.T, path, old, text string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(data), old, text, 1)
	if changed == string(data) {
		t.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}
