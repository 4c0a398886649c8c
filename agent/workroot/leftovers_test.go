package workroot

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRemoveLeftovers(t *testing.T) {
	kept := []string{
		"_PipelineMapping", "_PipelineMapping/p", "_actions", "_actions/o", "_actions/o/a", "_temp", "_temp/a", "_tool",
	}
	for _, test := range []struct {
		summary   string
		workspace string // beneath the directory that holds work
		want      []string
	}{
		{summary: "its workspace", workspace: "work/repo/repo", want: append(slices.Clone(kept), "repo", "repo/repo")},
		{summary: "a new workspace", workspace: "work/new/new", want: kept},
		{summary: "no workspace", workspace: "", want: kept},
		{summary: "the work root", workspace: "work", want: kept},
		{summary: "outside", workspace: "outside", want: kept},
		{summary: "a link", workspace: "work/link", want: kept},
		{summary: "beneath a link", workspace: "work/link/canary", want: kept},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := newLeftovers(t)
			r := Root{Path: filepath.Join(dir, "work")}
			if err := r.RemoveLeftovers(filepath.Join(dir, test.workspace)); err != nil {
				t.Fatal(err)
			}
			if got := list(t, r.Path); !slices.Equal(got, test.want) {
				t.Errorf("left %q\nwant %q", got, test.want)
			}
			if got := list(t, filepath.Join(dir, "outside")); !slices.Equal(got, []string{"canary"}) {
				t.Errorf("outside: left %q", got)
			}
		})
	}
}

// newLeftovers returns a directory with a work root after two jobs, in "work",
// and "outside", to which links lead.
func newLeftovers(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{
		"work/_temp/a", "work/_actions/o/a", "work/_tool/node/x", "work/_PipelineMapping/p",
		"work/repo/repo/src/.git/config", "work/repo/beside", "work/other/other/file", "outside/canary",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"work/link", "work/repo/repo/link", "work/repo/link", "work/_tool/link"} {
		if err := os.Symlink(filepath.Join(dir, "outside"), filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestRemoveLeftoversToolLink has a job that put a link in the tools' place.
func TestRemoveLeftoversToolLink(t *testing.T) {
	dir := newLeftovers(t)
	tools := filepath.Join(dir, "work", toolDir)
	if err := os.RemoveAll(tools); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "outside"), tools); err != nil {
		t.Fatal(err)
	}
	if err := (Root{Path: filepath.Join(dir, "work")}).RemoveLeftovers(""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(tools); err == nil {
		t.Error("the link is left")
	}
	if got := list(t, filepath.Join(dir, "outside")); !slices.Equal(got, []string{"canary"}) {
		t.Errorf("outside: left %q", got)
	}
}

// list returns the names of everything beneath dir, sorted.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	if err := fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
		if name != "." {
			names = append(names, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}
