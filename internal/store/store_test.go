package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// writeFile returns a creator of a file entry.
func writeFile(content string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(content), 0o644) }
}

// makeTree creates a directory entry with one file in it.
func makeTree(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(path, "file"), nil, 0o644)
}

// put makes an entry that was last used at a time.
func put(t *testing.T, s *Store, kind, key string, used time.Time, create func(string) error) string {
	t.Helper()
	path, err := s.Put(kind, key, create)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, used, used); err != nil {
		t.Fatal(err)
	}
	return path
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestGetAfterPut(t *testing.T) {
	s := &Store{Dir: filepath.Join(t.TempDir(), "store")}
	if _, err := s.Get("layers", "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}

	want := put(t, s, "layers", "a", time.Unix(7, 0), writeFile("content"))
	got, err := s.Get("layers", "a")
	if err != nil || got != want {
		t.Fatalf("got %s, %v; want %s", got, err, want)
	}
	if data, err := os.ReadFile(got); err != nil || string(data) != "content" {
		t.Errorf("got %q, %v", data, err)
	}
	if info, err := os.Stat(got); err != nil || time.Since(info.ModTime()) > time.Minute {
		t.Errorf("the use is not marked: %v, %v", info.ModTime(), err)
	}
}

func TestPutFailureKeepsNothing(t *testing.T) {
	s := &Store{Dir: t.TempDir()}
	broken := errors.New("broken")
	_, err := s.Put("layers", "a", func(path string) error { return errors.Join(writeFile("half")(path), broken) })
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if left, _ := os.ReadDir(filepath.Join(s.Dir, "layers")); len(left) != 0 {
		t.Errorf("left behind %v", left)
	}
}

// TestPutTwiceAtOnce lets a second process put the entry while the first makes
// it: both must get the entry.
func TestPutTwiceAtOnce(t *testing.T) {
	for _, test := range []struct {
		summary string
		create  func(string) error
	}{
		{"file", writeFile("content")},
		{"directory", makeTree},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s := &Store{Dir: t.TempDir()}
			path, err := s.Put("kind", "key", func(path string) error {
				if _, err := s.Put("kind", "key", test.create); err != nil {
					t.Errorf("the second Put failed: %v", err)
				}
				return test.create(path)
			})
			if err != nil || !exists(path) {
				t.Errorf("the first Put: got %s, %v", path, err)
			}
			if left, _ := os.ReadDir(filepath.Join(s.Dir, "kind")); len(left) != 1 {
				t.Errorf("left behind %v", left)
			}
		})
	}
}

func TestNewest(t *testing.T) {
	s := &Store{Dir: t.TempDir()}
	if _, err := s.Newest("tools"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
	put(t, s, "tools", "a", time.Unix(1, 0), makeTree)
	want := put(t, s, "tools", "b", time.Unix(3, 0), makeTree)
	put(t, s, "tools", "c", time.Unix(2, 0), makeTree)
	if got, err := s.Newest("tools"); err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

func TestPrune(t *testing.T) {
	s := &Store{Dir: t.TempDir()}
	now := time.Now()
	old := put(t, s, "layers", "old", now.Add(-2*time.Hour), writeFile(""))
	oldTree := put(t, s, "tools", "old", now.Add(-2*time.Hour), makeTree)
	recent := put(t, s, "layers", "recent", now, writeFile(""))
	unfinished := filepath.Join(s.Dir, "layers", newPattern+"killed")
	if err := makeTree(unfinished); err != nil {
		t.Fatal(err)
	}
	work, releaseWork, err := s.WorkDir()
	if err != nil {
		t.Fatal(err)
	}
	defer releaseWork()

	release, err := s.Use()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(now.Add(-time.Hour)); !errors.Is(err, ErrInUse) || !exists(old) {
		t.Errorf("in use: got %v, want %v; the old entry is there: %v", err, ErrInUse, exists(old))
	}
	release()

	if err := s.Prune(now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{old, oldTree, unfinished} {
		if exists(path) {
			t.Errorf("%s was kept", path)
		}
	}
	for _, path := range []string{recent, work} {
		if !exists(path) {
			t.Errorf("%s was removed", path)
		}
	}
}
