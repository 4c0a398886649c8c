package broker

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/workroot"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// TestKeepTools: only complete tools stay that no layer has.
func TestKeepTools(t *testing.T) {
	for _, test := range []struct {
		summary string
		layer   []string // what a job wrote: a file, a directory/, or link -> target
		kept    []string // what was there, and is there afterwards
		want    []string
	}{
		{
			summary: "a complete tool",
			layer:   []string{"node/24.1.0/x64/bin/node", "node/24.1.0/x64.complete"},
			want:    []string{"node/24.1.0/x64.complete", "node/24.1.0/x64/bin/node"},
		},
		{summary: "one without its mark", layer: []string{"node/24.1.0/x64/bin/node"}},
		{summary: "a mark without its tool", layer: []string{"node/24.1.0/x64.complete"}},
		{summary: "a mark of nothing", layer: []string{"node/24.1.0/.complete"}},
		{summary: "a tool that looks like a mark", layer: []string{"n/1/x.complete/f", "n/1/x.complete.complete"}},
		{summary: "a directory as the mark", layer: []string{"node/24.1.0/x64/f", "node/24.1.0/x64.complete/"}},
		{summary: "a link as the tool", layer: []string{"node/24.1.0/x64 -> /etc", "node/24.1.0/x64.complete"}},
		{summary: "a link as the version", layer: []string{"node/24.1.0 -> DIR/elsewhere"}},
		{summary: "a link as the name", layer: []string{"node -> DIR/elsewhere"}},
		{summary: "files elsewhere", layer: []string{"x", "y/x", "y/z/x"}},
		{
			summary: "a tool that is there",
			layer:   []string{"node/24.1.0/x64/mine", "node/24.1.0/x64.complete"},
			kept:    []string{"node/24.1.0/x64.complete", "node/24.1.0/x64/theirs"},
			want:    []string{"node/24.1.0/x64.complete", "node/24.1.0/x64/theirs"},
		},
		{
			summary: "a tool of the image",
			layer:   []string{"go/1.25.0/x64/mine", "go/1.25.0/x64.complete"},
		},
		{
			summary: "what a broker left that was ended",
			layer:   []string{"node/24.1.0/x64/mine", "node/24.1.0/x64.complete"},
			kept:    []string{"node/24.1.0/x64/part"},
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "elsewhere/24.1.0/x64/f", "elsewhere/24.1.0/x64.complete", "elsewhere/x64/f", "elsewhere/x64.complete")
			write(t, filepath.Join(dir, "baked"), "go/1.25.0/x64.complete", "go/1.25.0/x64/go")
			write(t, filepath.Join(dir, "kept/cache"), test.kept...)

			layers := workroot.Root{Path: filepath.Join(dir, "layers"), UID: os.Getuid(), GID: os.Getgid()}
			c, err := newToolCache(ToolSettings{Baked: filepath.Join(dir, "baked"), Kept: filepath.Join(dir, "kept")},
				layers, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			c.made.Store(1)
			write(t, filepath.Join(dir, "layers/1/upper"), test.layer...)

			c.keep()
			if diff := cmp.Diff(test.want, filesIn(t, filepath.Join(dir, "kept/cache"))); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
		})
	}
}

// write makes files beneath a directory: an entry that ends with / is a directory,
// and one with " -> " a link, in whose target DIR stands for the parent of root.
func write(t *testing.T, root string, entries ...string) {
	t.Helper()
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name, target, isLink := strings.Cut(e, " -> ")
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case isLink:
			err = os.Symlink(strings.ReplaceAll(target, "DIR", filepath.Join(root, "../../..")), path)
		case strings.HasSuffix(e, "/"):
			err = os.Mkdir(path, 0o755)
		default:
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// filesIn returns the names of all files beneath a directory.
func filesIn(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// TestWorkerTools: each guest of a job that shows the tools has a layer of its own,
// above those that there are.
func TestWorkerTools(t *testing.T) {
	l := newLab(t)
	l.settings.Tools = ToolSettings{Baked: filepath.Join(l.dir, "tools"), Kept: filepath.Join(l.dir, "kept")}
	write(t, l.settings.Tools.Baked, "go/1.25.0/x64.complete")
	const shown = layout.WorkerWork + "/_tool"
	l.hooking(func(ctx context.Context, hook *brokerapi.Client) {
		r := brokerapi.PrepareRequest{Container: &brokerapi.Container{Image: base, Mounts: []brokerapi.Mount{
			{Source: layout.WorkerWork, Target: "/__w"}, {Source: shown, Target: "/__w/_tool"},
		}}}
		if _, err := hook.Prepare(ctx, r, nil); err != nil {
			t.Error(err)
		}
	})
	l.serve()
	l.mustWork(nil)

	for i, target := range []string{shown, "/__w/_tool"} {
		_, binds := l.guests.all()[i].configured()
		if !slices.Contains(binds, target) {
			t.Errorf("guest %d shows %q, want %s too", i, binds, target)
		}
	}
	if info, err := os.Stat(l.settings.Tools.Kept); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory of kept tools is %v, %v, want one that is root's alone", info, err)
	}
}
