package workroot

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// lstat returns what the kernel knows of a file, or of a link itself.
func lstat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat
}

// TestRestoreOwnership needs no root: a user may hand files over to itself, and
// the kernel then notes the time of the change.
func TestRestoreOwnership(t *testing.T) {
	uid := os.Getuid()
	for _, test := range []struct {
		summary string
		first   int
		changed bool
	}{
		{summary: "all files belong to users of guests", first: uid, changed: true},
		{summary: "no file does", first: max(uid, os.Getgid()) + 1},
	} {
		t.Run(test.summary, func(t *testing.T) {
			r := newRoot(t)
			before := agedTimes(t, filepath.Dir(r.Path))
			if err := r.RestoreOwnership(test.first); err != nil {
				t.Fatal(err)
			}
			for path, then := range before {
				name, beneath := r.Name(path)
				want := test.changed && beneath && name != "."
				if changed := lstat(t, path).Ctim != then; changed != want {
					t.Errorf("%s: changed %v, want %v", path, changed, want)
				}
			}
		})
	}
}

// agedTimes returns the times of change (ctime) of all files beneath dir, which
// are in the past once it returns.
func agedTimes(t *testing.T, dir string) map[string]unix.Timespec {
	t.Helper()
	times := map[string]unix.Timespec{}
	var newest unix.Timespec
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		times[path] = lstat(t, path).Ctim
		newest = times[path]
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	// The kernel's coarse clock has to tick before a change shows.
	probe := filepath.Join(t.TempDir(), "probe")
	for {
		if err := os.WriteFile(probe, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if now := lstat(t, probe).Ctim; now.Nano() > newest.Nano() {
			return times
		}
		_ = os.Remove(probe)
	}
}

// TestRestoreOwnershipOfOthers has files of another user, as after a job.
func TestRestoreOwnershipOfOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	const first, runner = 1 << 30, 900
	r := newRoot(t)
	r.UID, r.GID = runner, runner+1
	for _, f := range []struct {
		name     string
		uid, gid int
	}{
		{name: "a", uid: first, gid: first},
		{name: "a/b", uid: 0, gid: first + 5},
		{name: "a/file", uid: first - 1, gid: 7},
		{name: "link", uid: first, gid: first},
		{name: "../outside/file", uid: first, gid: first},
	} {
		if err := os.Lchown(filepath.Join(r.Path, f.name), f.uid, f.gid); err != nil {
			t.Fatal(err)
		}
	}

	if err := r.RestoreOwnership(first); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		name     string
		uid, gid uint32
	}{
		{name: "a", uid: runner, gid: runner + 1},
		{name: "a/b", uid: runner, gid: runner + 1},
		{name: "a/file", uid: first - 1, gid: 7},
		{name: "link", uid: runner, gid: runner + 1},
		{name: "../outside/file", uid: first, gid: first},
	} {
		if got := lstat(t, filepath.Join(r.Path, want.name)); got.Uid != want.uid || got.Gid != want.gid {
			t.Errorf("%s belongs to %d:%d, want %d:%d", want.name, got.Uid, got.Gid, want.uid, want.gid)
		}
	}
}
