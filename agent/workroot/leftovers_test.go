package workroot

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRemoveLeftovers(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	for _, name := range []string{"work/_temp/a", "work/_actions/o/a", "work/_tool/node/x", "work/_PipelineMapping/p",
		"work/repo/repo/src/.git/config", "work/repo/beside", "work/other/other/file", "outside/canary"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"work/link", "work/repo/repo/link", "work/_tool/link"} {
		if err := os.Symlink(outside, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	work := filepath.Join(dir, "work")
	if err := RemoveLeftovers(work, filepath.Join(dir, "work/repo/repo")); err != nil {
		t.Fatal(err)
	}
	var left []string
	if err := fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
		left = append(left, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{".", "outside", "outside/canary", "work", "work/_PipelineMapping", "work/_PipelineMapping/p", "work/_actions", "work/_actions/o", "work/_actions/o/a",
		"work/_temp", "work/_temp/a", "work/_tool", "work/repo", "work/repo/repo"}
	if !slices.Equal(left, want) {
		t.Errorf("left %q\nwant %q", left, want)
	}
	for _, workspace := range []string{"", "/etc", filepath.Join(dir, "work")} {
		if err := RemoveLeftovers(work, workspace); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "work/repo")); err == nil {
			t.Errorf("workspace %q: repositories are left", workspace)
		}
	}
}
