package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// makeTree makes files, with their parents, and directories for names that end in
// a slash.
func makeTree(t *testing.T, names ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range names {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		err := os.MkdirAll(path, 0o755)
		if !strings.HasSuffix(name, "/") {
			err = errors.Join(os.Remove(path), os.WriteFile(path, []byte("content"), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// list returns what is below /var: directories with a slash, empty files with a 0.
func list(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(filepath.Join(root, "var"), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		info, err := e.Info()
		switch {
		case e.IsDir():
			name += "/"
		case info.Mode().IsRegular() && info.Size() == 0:
			name += " 0"
		}
		names = append(names, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// used are files of an appliance that has run jobs.
var used = []string{
	"/var/.updated", "/var/surprise", "/var/home/ann/.ssh/authorized_keys", "/var/roothome/.bash_history",
	"/var/lib/cloud/instance/user-data.txt", "/var/lib/apt/extended_states", "/var/lib/stranger/file",
	"/var/lib/systemd/catalog/database", "/var/lib/systemd/random-seed", "/var/lib/systemd/timesync/clock",
	"/var/log/journal/0123/system.journal", "/var/log/wtmp", "/var/log/other.log",
	"/var/lib/runner/installed", "/var/lib/runner/identity.sha256", "/var/lib/runner/etc/config.env",
	"/var/lib/runner/host/machine-id", "/var/lib/runner/host/ssh_host_ed25519_key", "/var/lib/runner/host/note",
	"/var/lib/runner/actions-runner/.credentials", "/var/lib/runner/work/a/b/c", "/var/lib/runner/jobs/1/upper/x",
	"/var/lib/runner/upgrade/state.json", "/var/lib/runner/images/refs/ab", "/var/lib/runner/.installed.1.tmp",
}

// left are those that a reset leaves.
var left = []string{
	"/var/", "/var/.updated", "/var/home/", "/var/lib/", "/var/lib/apt/", "/var/lib/apt/extended_states",
	"/var/lib/runner/", "/var/lib/runner/host/", "/var/lib/runner/host/machine-id",
	"/var/lib/systemd/", "/var/lib/systemd/catalog/", "/var/lib/systemd/catalog/database",
	"/var/lib/systemd/timesync/", "/var/lib/systemd/timesync/clock",
	"/var/log/", "/var/log/journal/", "/var/log/wtmp 0", "/var/roothome/",
}

func ask(t *testing.T, root string, keepConfig bool) {
	t.Helper()
	if err := Ask(root, Request{Time: time.Unix(0, 0), KeepConfig: keepConfig}); err != nil {
		t.Fatal(err)
	}
}

func TestReset(t *testing.T) {
	root := makeTree(t, used...)
	if done, err := Reset(root, io.Discard); done || err != nil {
		t.Fatalf("without a request: %v, %v", done, err)
	}
	if got := len(list(t, root)); got < len(used) {
		t.Fatalf("without a request %d files are left", got)
	}

	ask(t, root, false)
	for range 2 { // the second time there is nothing to do
		if _, err := Reset(root, io.Discard); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(left, list(t, root)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestKeepConfig(t *testing.T) {
	root := makeTree(t, used...)
	ask(t, root, true)
	if _, err := Reset(root, io.Discard); err != nil {
		t.Fatal(err)
	}
	got := list(t, root)
	const file = "/var/lib/runner/etc/config.env"
	got = slices.DeleteFunc(got, func(name string) bool { return name == "/var/lib/runner/etc/" })
	want := slices.Concat(left[:6], []string{"/var/lib/runner/", file}, left[7:])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestLinks: what a job has put into its directories is removed itself, not what it
// points to.
func TestLinks(t *testing.T) {
	root := makeTree(t, "/outside/file", "/var/lib/runner/work/", "/var/home/")
	outside := filepath.Join(root, "outside")
	for _, link := range []string{"var/lib/runner/work/link", "var/home/link", "var/lib/link", "var/lib/runner/host"} {
		if err := os.Symlink(outside, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	ask(t, root, false)
	if _, err := Reset(root, io.Discard); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/var/", "/var/home/", "/var/lib/", "/var/lib/runner/"}, list(t, root)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
		t.Error(err)
	}
}

// cut is a log that ends the reset at one of its lines.
type cut struct{ left int }

var errCut = errors.New("power cut")

func (c *cut) Write(p []byte) (int, error) {
	if c.left--; c.left < 0 {
		panic(errCut)
	}
	return len(p), nil
}

// TestCut ends a reset before each of its steps in turn: the next one completes it.
func TestCut(t *testing.T) {
	cuts := 0
	for n := 0; ; n++ {
		root := makeTree(t, used...)
		ask(t, root, false)
		ended := func() (ended bool) {
			defer func() { ended = recover() != nil }()
			_, err := Reset(root, &cut{left: n})
			if err != nil {
				t.Fatal(err)
			}
			return false
		}()
		if !ended {
			break
		}
		cuts++
		if r, err := Asked(root); r == nil || err != nil {
			t.Fatalf("after %d steps the request is gone: %v", n, err)
		}
		if done, err := Reset(root, io.Discard); !done || err != nil {
			t.Fatalf("after %d steps: %v, %v", n, done, err)
		}
		if diff := cmp.Diff(left, list(t, root)); diff != "" {
			t.Errorf("after %d steps (-want +got):\n%s", n, diff)
		}
	}
	if cuts < 15 {
		t.Errorf("it was cut %d times only", cuts)
	}
}

func TestRequests(t *testing.T) {
	for _, test := range []struct{ summary, content, want string }{
		{summary: "newer fields", content: `{"schema":1,"time":"2026-11-24T12:00:00Z","keep_config":true,"more":[1]}`},
		{summary: "newer schema", content: `{"schema":2}`, want: "cannot read /var/lib/runner/reset.json: it has schema 2, " +
			"this agent knows 1; run 'runner-agent reset' again"},
		{summary: "torn", content: `{"sch`, want: "cannot read /var/lib/runner/reset.json: unexpected end of JSON input; " +
			"run 'runner-agent reset' again"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			root := makeTree(t, RequestFile)
			if err := os.WriteFile(filepath.Join(root, RequestFile), []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := Asked(root)
			if got := fmt.Sprint(err); test.want != "" && got != test.want {
				t.Errorf("got %s", got)
			}
			if test.want == "" && (err != nil || !r.KeepConfig) {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
}

// TestTable: no path is in the table twice, or below another, and what units and
// the agent are known to keep is in it.
func TestTable(t *testing.T) {
	table := Table()
	var paths []string
	for _, e := range table {
		if e.Content == "" || e.Reset == "" || len(e.Paths) == 0 {
			t.Errorf("an entry is not complete: %+v", e)
		}
		paths = append(paths, e.Paths...)
	}
	for i, p := range paths {
		if !strings.HasPrefix(p, "/var/") || filepath.Clean(p) != p {
			t.Errorf("%s is not a path below /var", p)
		}
		for _, other := range paths[i+1:] {
			if p == other || strings.HasPrefix(p, other+"/") || strings.HasPrefix(other, p+"/") {
				t.Errorf("%s and %s are both in the table", p, other)
			}
		}
	}

	known := append(keptByUnits(t), keptByLayout(t)...)
	if len(known) < 20 {
		t.Errorf("found %d paths; do units, tmpfiles.d and package layout still name them?", len(known))
	}
	for _, path := range known {
		if Find(table, path) == nil && !IsParent(table, path) {
			t.Errorf("%s is not in the table", path)
		}
	}
}

// keptByUnits returns the paths of tmpfiles.d and of StateDirectory= that the
// overlay of the host has.
func keptByUnits(t *testing.T) []string {
	t.Helper()
	const overlay = "../../overlays/host/usr/lib"
	units, err := filepath.Glob(overlay + "/systemd/system/*.service")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, file := range append(units, overlay+"/tmpfiles.d/runner.conf") {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			if dir, ok := strings.CutPrefix(strings.TrimSpace(line), "StateDirectory="); ok {
				paths = append(paths, "/var/lib/"+dir)
			}
			if words := strings.Fields(line); len(words) > 2 && strings.HasPrefix(words[1], "/var/") {
				paths = append(paths, words[1])
			}
		}
	}
	return paths
}

// keptByLayout returns the paths below /var that package layout names.
func keptByLayout(t *testing.T) []string {
	t.Helper()
	source, err := os.ReadFile("../../internal/layout/paths.go")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, m := range regexp.MustCompile(`= State \+ "(/[^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		paths = append(paths, layout.State+m[1])
	}
	return paths
}

// TestDocs holds the table of docs/upgrade.md to that of this package.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/upgrade.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString("| below `/var` | content | a reset |\n|---|---|---|\n")
	for _, e := range Table() {
		var names []string
		for _, p := range e.Paths {
			names = append(names, "`"+strings.TrimPrefix(p, "/var/")+"`")
		}
		content := e.Content
		if e.Rare != "" {
			content += " (" + e.Rare + ")"
		}
		fate := map[Fate]string{Kept: "keeps it", Emptied: "empties it", Removed: "removes it"}[e.Reset]
		fmt.Fprintf(&want, "| %s | %s | %s |\n", strings.Join(names, ", "), content, fate)
	}
	if !strings.Contains(string(page), want.String()) {
		t.Errorf("docs/upgrade.md lacks this table:\n%s", &want)
	}
}
