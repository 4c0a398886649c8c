package osrelease

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	tests := []struct {
		summary string
		path    string // of the file beneath the root
		content string
		want    map[string]string
	}{
		{summary: "no file", path: "other", want: nil},
		{summary: "quotes and line ends", path: "usr/lib/os-release",
			content: "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n  IMAGE_VERSION=1.2.3",
			want: map[string]string{
				"ID": "debian", "PRETTY_NAME": "Debian GNU/Linux 13 (trixie)", "IMAGE_VERSION": "1.2.3"}},
	}
	for _, tt := range tests {
		root := t.TempDir()
		path := filepath.Join(root, tt.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(tt.content), 0o644); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, Read(root)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.summary, diff)
		}
	}
}
