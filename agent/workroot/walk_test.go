package workroot

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// deepLevels is how deep the trees are that a walker must get through with
// fewFiles descriptors more than the test has.
const deepLevels, fewFiles = 500, 16

// nest makes directories in dir, each in the one before, and a file in the last.
func nest(t *testing.T, dir string) {
	t.Helper()
	at, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range deepLevels {
		if err := unix.Mkdirat(int(at.Fd()), "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := openDir(at, "d")
		if err != nil {
			t.Fatal(err)
		}
		_ = at.Close()
		at = next
	}
	fd, err := unix.Openat(int(at.Fd()), "file", unix.O_WRONLY|unix.O_CREAT, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	_ = at.Close()
}

// limitFiles leaves this process few descriptors until the test ends.
func limitFiles(t *testing.T) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: uint64(len(open) + fewFiles), Max: before.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
}

// TestDeep has a tree that is deeper than this process has descriptors.
func TestDeep(t *testing.T) {
	for _, test := range []struct {
		summary string
		do      func(r Root) error
		left    bool // the tree is there afterwards
	}{
		{summary: "ownership", do: func(r Root) error { return r.RestoreOwnership(os.Getuid()) }, left: true},
		{summary: "leftovers", do: func(r Root) error { return noneLeft(r.RemoveLeftovers("")) }},
		{summary: "a job", do: func(r Root) error { return noneLeft(r.RemoveJob(filepath.Join(r.Path, "deep"))) }},
		{summary: "all", do: Root.Remove},
	} {
		t.Run(test.summary, func(t *testing.T) {
			r := Root{Path: filepath.Join(t.TempDir(), "work"), UID: os.Getuid(), GID: os.Getgid()}
			if err := os.MkdirAll(filepath.Join(r.Path, "deep"), 0o755); err != nil {
				t.Fatal(err)
			}
			nest(t, filepath.Join(r.Path, "deep"))
			limitFiles(t)
			if err := test.do(r); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(filepath.Join(r.Path, "deep/d")); (err == nil) != test.left {
				t.Errorf("the tree: got %v, want it to be left: %v", err, test.left)
			}
		})
	}
}

// noneLeft returns an error if anything was moved aside.
func noneLeft(left []string, err error) error {
	if len(left) > 0 {
		return errors.New(strings.Join(left, "; "))
	}
	return err
}

func TestWalk(t *testing.T) {
	r := newRoot(t)
	root, err := os.Open(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()

	var entered, left []string
	broken := errors.New("broken")
	err = Walk(root, Visitor{
		Enter: func(e Entry) error {
			entered = append(entered, e.Path())
			if e.Depth() != strings.Count(e.Path(), "/")+1 {
				t.Errorf("%s: depth %d", e.Path(), e.Depth())
			}
			if e.Name == "file" || e.Name == "fifo" {
				return broken
			}
			return nil
		},
		Leave: func(e Entry) error { left = append(left, e.Path()); return nil },
	})
	slices.Sort(entered)
	want := []string{
		"a", "a/b", "a/fifo", "a/file", "a/filelink", "a/inner", "a/out", "abs", "dangling", "link", "loop", "proc",
	}
	if !slices.Equal(entered, want) {
		t.Errorf("entered %q\nwant    %q", entered, want)
	}
	if want := []string{"a/b", "a"}; !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "(and 1 more)") {
		t.Errorf("got %v, want both errors", err)
	}
}

// TestWalkMoved has a job that moves a directory out of the tree while a walk is
// in it. The walk must not go on beside the tree.
func TestWalkMoved(t *testing.T) {
	r := newRoot(t)
	root, err := os.Open(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()

	moved := false
	var left []string
	err = Walk(root, Visitor{
		Enter: func(e Entry) error {
			if e.Depth() == 2 && !moved {
				moved = true
				return os.Rename(filepath.Join(r.Path, "a"), filepath.Join(r.Path, "../outside/a"))
			}
			return nil
		},
		Leave: func(e Entry) error { left = append(left, e.Path()); return nil },
	})
	if err == nil || !strings.Contains(err.Error(), "it was moved meanwhile") {
		t.Errorf("got %v, want the walk to end", err)
	}
	if want := []string{"a/b"}; !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
}
