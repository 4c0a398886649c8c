package workroot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOpenBeneath(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"root/a/b", "outside"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"root/link": "../outside", "root/a/inner": "b", "root/abs": "/"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, ok := range map[string]bool{
		".": true, "a": true, "a/b": true, "new/deep": true,
		"..": false, "../outside": false, "a/../../outside": false, "/etc": false, "": false,
		"link": false, "link/x": false, "a/inner": false, "abs/etc": false,
	} {
		f, err := OpenBeneath(root, name, os.Getuid(), os.Getgid())
		if (err == nil) != ok {
			t.Errorf("%q: got error %v, want success %v", name, err, ok)
		}
		if err == nil {
			_ = f.Close()
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "root/new/deep")); err != nil {
		t.Errorf("a missing directory was not made: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "outside")); len(left) != 0 {
		t.Errorf("made through a link: %v", left)
	}
}
