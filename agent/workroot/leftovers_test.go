package workroot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRemoveLeftovers(t *testing.T) {
	kept := []string{"_actions", "_actions/o", "_actions/o/a", "_temp", "_temp/a", "_tool"}
	before := append([]string{"_PipelineMapping", "_PipelineMapping/p"}, kept...)
	after := append([]string{"_PipelineMapping"}, kept...)
	workspace := []string{"repo", "repo/repo"}

	for _, test := range []struct {
		summary   string
		workspace string // beneath the directory that holds work
		remaining []string
	}{
		{summary: "its workspace", workspace: "work/repo/repo", remaining: workspace},
		{summary: "a new workspace", workspace: "work/new/new"},
		{summary: "no workspace", workspace: ""},
		{summary: "the work root", workspace: "work"},
		{summary: "outside", workspace: "outside"},
		{summary: "a link", workspace: "work/link"},
		{summary: "beneath a link", workspace: "work/link/canary"},
	} {
		for _, remove := range []struct {
			when string
			do   func(Root, string) ([]string, error)
			want []string
		}{
			{when: "before a job", do: Root.RemoveLeftovers, want: before},
			{when: "after a job", do: Root.RemoveJob, want: after},
		} {
			t.Run(test.summary+" "+remove.when, func(t *testing.T) {
				dir := newLeftovers(t)
				r := Root{Path: filepath.Join(dir, "work")}
				if err := noneLeft(remove.do(r, filepath.Join(dir, test.workspace))); err != nil {
					t.Fatal(err)
				}
				if got, want := list(t, r.Path), slices.Concat(remove.want, test.remaining); !slices.Equal(got, want) {
					t.Errorf("left %q\nwant %q", got, want)
				}
				if got := list(t, filepath.Join(dir, "outside")); !slices.Equal(got, []string{"canary"}) {
					t.Errorf("outside: left %q", got)
				}
			})
		}
	}
}

// newLeftovers returns a directory with a work root after two jobs, in "work",
// and "outside", to which links lead.
func newLeftovers(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{
		"work/_temp/a", "work/_actions/o/a", "work/_tool/node/x", "work/_PipelineMapping/p",
		"work/_evil/.git/config", "work/repo/repo/src/.git/config", "work/repo/beside", "work/other/other/file",
		"outside/canary",
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

// TestRunnerDirReplaced has a job that put something else in the place of a
// directory of the runner's. It once ended the service: no job started any more.
func TestRunnerDirReplaced(t *testing.T) {
	for _, name := range []string{"_temp", "_tool", "_actions", "_update", "_PipelineMapping", "_aside"} {
		for _, replace := range []struct {
			summary string
			with    func(path string) error
		}{
			{summary: "a link", with: func(path string) error { return os.Symlink("../outside", path) }},
			{summary: "a link to nothing", with: func(path string) error { return os.Symlink("nowhere", path) }},
			{summary: "a file", with: func(path string) error { return os.WriteFile(path, nil, 0o644) }},
			{summary: "a FIFO", with: func(path string) error { return unix.Mkfifo(path, 0o644) }},
		} {
			for _, remove := range []struct {
				summary string
				do      func(r Root) error
			}{
				{summary: "before a job", do: func(r Root) error { return noneLeft(r.RemoveLeftovers("")) }},
				{summary: "after a job", do: func(r Root) error { return noneLeft(r.RemoveJob("")) }},
				{summary: "links only", do: Root.RemoveLinks},
			} {
				t.Run(name+" by "+replace.summary+" "+remove.summary, func(t *testing.T) {
					dir := newLeftovers(t)
					r := Root{Path: filepath.Join(dir, "work")}
					path := filepath.Join(r.Path, name)
					if err := errors.Join(os.RemoveAll(path), replace.with(path)); err != nil {
						t.Fatal(err)
					}
					if err := remove.do(r); err != nil {
						t.Fatal(err)
					}
					if _, err := os.Lstat(path); err == nil {
						t.Error("it is left")
					}
					if got := list(t, filepath.Join(dir, "outside")); !slices.Equal(got, []string{"canary"}) {
						t.Errorf("outside: left %q", got)
					}
				})
			}
		}
	}
}

// TestMoveAside has files that cannot be removed. They do not refuse service, and
// no other job sees them.
func TestMoveAside(t *testing.T) {
	dir := newLeftovers(t)
	r := Root{Path: filepath.Join(dir, "work")}
	stuck := []string{"other/other", "repo/repo/src"}
	for _, name := range stuck {
		makeImmutable(t, filepath.Join(r.Path, name, "stuck"))
	}
	// A job has made the place itself, for all to see.
	if err := os.Mkdir(filepath.Join(r.Path, asideDir), 0o777); err != nil {
		t.Fatal(err)
	}

	for _, when := range []string{"first", "again"} {
		left, err := r.RemoveLeftovers(filepath.Join(r.Path, "repo/repo"))
		if err != nil || len(left) != map[string]int{"first": 2, "again": 1}[when] {
			t.Errorf("%s: got %q, %v", when, left, err)
		}
		for _, name := range stuck {
			if _, err := os.Lstat(filepath.Join(r.Path, name)); err == nil {
				t.Errorf("%s: the next job sees %s", when, name)
			}
		}
		info, err := os.Lstat(filepath.Join(r.Path, asideDir))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: moved to %v, %v, want root's alone", when, info, err)
		}
	}
}

// makeImmutable makes a file that not even root can remove until the test ends;
// ioctl_iflags(2).
func makeImmutable(t *testing.T, path string) {
	t.Helper()
	const immutable = 0x10 // FS_IMMUTABLE_FL
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Skipf("no file can be made immutable here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0); err != nil {
			t.Error(err)
		}
		_ = f.Close()
	})
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

// TestRemoveMounted: what is mounted in a root is not removed with it.
func TestRemoveMounted(t *testing.T) {
	r := Root{Path: filepath.Join(t.TempDir(), "root")}
	mounted := filepath.Join(r.Path, "a/mounted")
	if err := errors.Join(os.MkdirAll(mounted, 0o755), os.Mkdir(filepath.Join(r.Path, "b"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) })
	kept := filepath.Join(mounted, "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	if err := r.Remove(); err == nil || !strings.Contains(err.Error(), "a file system is mounted there") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(kept); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(r.Path, "b")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the rest is left: %v", err)
	}

	if err := unix.Unmount(mounted, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Remove(), r.Remove()); err != nil {
		t.Error(err)
	}
}
