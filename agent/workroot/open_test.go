package workroot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newRoot returns a root with what a job could have put there, in a directory
// beside "outside", in which nothing may be made.
func newRoot(t *testing.T) Root {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"root/a/b", "outside/secret"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"root/a/file", "outside/file"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []struct{ name, target string }{
		{name: "root/link", target: "../outside"},
		{name: "root/a/inner", target: "b"},
		{name: "root/a/out", target: "../../outside"},
		{name: "root/a/filelink", target: "file"},
		{name: "root/abs", target: "/"},
		{name: "root/proc", target: "/proc/self/cwd"},
		{name: "root/loop", target: "loop"},
		{name: "root/dangling", target: "nowhere"},
	} {
		if err := os.Symlink(link.target, filepath.Join(dir, link.name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "root/a/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	return Root{Path: filepath.Join(dir, "root"), UID: os.Getuid(), GID: os.Getgid()}
}

// checkOutside fails if anything was made beside the root.
func checkOutside(t *testing.T, r Root) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(r.Path, "../outside"))
	if err != nil || len(left) != 2 {
		t.Errorf("outside holds %v (%v), want its two entries", left, err)
	}
}

func TestOpenAndMake(t *testing.T) {
	for _, test := range []struct {
		summary string
		name    string
		opens   bool // Open succeeds
		makes   bool // Make succeeds
	}{
		{summary: "the root itself", name: ".", opens: true, makes: true},
		{summary: "a directory", name: "a/b", opens: true, makes: true},
		{summary: "a name that is not clean", name: "a/./b/../b", opens: true, makes: true},
		{summary: "a new directory", name: "new", makes: true},
		{summary: "a new one beneath a new one", name: "a/new/deep", makes: true},
		{summary: "no name", name: ""},
		{summary: "the parent", name: ".."},
		{summary: "beside the root", name: "../outside"},
		{summary: "beside the root, on a detour", name: "a/../../outside"},
		{summary: "an absolute path", name: "/etc"},
		{summary: "a link out of the root", name: "link"},
		{summary: "beneath a link out of the root", name: "link/secret"},
		{summary: "a new directory beneath a link", name: "link/new"},
		{summary: "a link at the end", name: "a/inner"},
		{summary: "a link in the middle", name: "a/out/secret"},
		{summary: "a new directory beneath a link in the middle", name: "a/out/new"},
		{summary: "an absolute link", name: "abs/etc"},
		{summary: "a magic link", name: "proc"},
		{summary: "a link to itself", name: "loop"},
		{summary: "a link to nothing", name: "dangling"},
		{summary: "beneath a link to nothing", name: "dangling/new"},
		{summary: "a file", name: "a/file"},
		{summary: "beneath a file", name: "a/file/new"},
		{summary: "a FIFO", name: "a/fifo"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			r := newRoot(t)
			for _, open := range []struct {
				name string
				do   func(string) (*os.File, error)
				ok   bool
			}{{name: "Open", do: r.Open, ok: test.opens}, {name: "Make", do: r.Make, ok: test.makes}} {
				dir, err := open.do(test.name)
				if (err == nil) != open.ok {
					t.Errorf("%s(%q): got error %v, want success %v", open.name, test.name, err, open.ok)
				}
				if err != nil {
					continue
				}
				if want := filepath.Join(r.Path, test.name); dir.Name() != want {
					t.Errorf("%s(%q) opened %s", open.name, test.name, dir.Name())
				}
				_ = dir.Close()
			}
			if _, err := os.Stat(filepath.Join(r.Path, test.name)); test.makes && err != nil {
				t.Errorf("a missing directory was not made: %v", err)
			}
			if _, err := os.Lstat(filepath.Join(r.Path, "nowhere")); err == nil {
				t.Error("the target of a link was made")
			}
			checkOutside(t, r)
		})
	}
}

// TestOpenMoved exchanges a directory for a link between two openings.
func TestOpenMoved(t *testing.T) {
	r := newRoot(t)
	dir, err := r.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := os.Rename(filepath.Join(r.Path, "a"), filepath.Join(r.Path, "was-a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../outside", filepath.Join(r.Path, "a")); err != nil {
		t.Fatal(err)
	}

	made, err := MakeBeneath(dir, "c", r.UID, r.GID)
	if err != nil {
		t.Fatal(err)
	}
	_ = made.Close()
	if _, err := os.Stat(filepath.Join(r.Path, "was-a/c")); err != nil {
		t.Errorf("an open directory was not used, but its name: %v", err)
	}
	checkOutside(t, r)
}

func TestRootMissing(t *testing.T) {
	r := Root{Path: filepath.Join(t.TempDir(), "missing")}
	_, openErr := r.Open(".")
	_, makeErr := r.Make("a")
	_, rootErr := r.OpenRoot(".")
	for _, err := range []error{openErr, makeErr, rootErr, noneLeft(r.RemoveLeftovers("")), r.RestoreOwnership(0)} {
		if err == nil || !strings.Contains(err.Error(), r.Path) {
			t.Errorf("got %v, want an error that names %s", err, r.Path)
		}
	}
}

func TestOpenFile(t *testing.T) {
	for _, test := range []struct {
		summary string
		name    string
		ok      bool
	}{
		{summary: "a file", name: "a/file", ok: true},
		{summary: "a link to a file", name: "a/filelink"},
		{summary: "beneath a link", name: "link/file"},
		{summary: "a FIFO without a writer", name: "a/fifo"},
		{summary: "a directory", name: "a/b"},
		{summary: "beside the root", name: "../outside/file"},
		{summary: "nothing", name: "a/missing"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			file, err := newRoot(t).OpenFile(test.name)
			if (err == nil) != test.ok {
				t.Errorf("got error %v, want success %v", err, test.ok)
			}
			if err == nil {
				_ = file.Close()
			}
		})
	}
}

func TestOpenRoot(t *testing.T) {
	r := newRoot(t)
	root, err := r.OpenRoot("a")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if data, err := root.ReadFile("file"); err != nil || string(data) != "root/a/file" {
		t.Errorf("got %q, %v", data, err)
	}
	if _, err := root.ReadFile("out/file"); err == nil {
		t.Error("a link out of the directory was followed")
	}
	if _, err := r.OpenRoot("link"); err == nil {
		t.Error("a link was opened")
	}
}

func TestName(t *testing.T) {
	for _, test := range []struct {
		summary string
		path    string
		want    string
		beneath bool
	}{
		{summary: "beneath", path: "/work/repo/repo", want: "repo/repo", beneath: true},
		{summary: "the root", path: "/work", want: ".", beneath: true},
		{summary: "not clean", path: "/work/./repo/../x/", want: "x", beneath: true},
		{summary: "beside", path: "/other"},
		{summary: "begins alike", path: "/workshop"},
		{summary: "leads out", path: "/work/../etc"},
		{summary: "above", path: "/"},
		{summary: "relative", path: "work"},
		{summary: "empty", path: ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			name, beneath := Root{Path: "/work"}.Name(test.path)
			if name != test.want || beneath != test.beneath {
				t.Errorf("got %q, %v, want %q, %v", name, beneath, test.want, test.beneath)
			}
		})
	}
}
