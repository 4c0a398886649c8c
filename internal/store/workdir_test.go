package store

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWorkDirRemovesOnlyStaleOnes(t *testing.T) {
	s := &Store{Dir: t.TempDir()}
	held, release, err := s.WorkDir()
	if err != nil {
		t.Fatal(err)
	}

	stale := filepath.Join(s.Dir, "work", "killed")
	if err := os.MkdirAll(filepath.Join(stale, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	other, releaseOther, err := s.WorkDir()
	if err != nil {
		t.Fatal(err)
	}

	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Errorf("the work directory of a killed run is still there: %v", err)
	}
	for _, dir := range []string{held, other} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("a directory in use is gone: %v", err)
		}
	}

	release()
	releaseOther()
	if left, _ := filepath.Glob(filepath.Join(s.Dir, "work", "*")); len(left) != 0 {
		t.Errorf("left behind %q", left)
	}
}

// TestWorkDirAtOnce starts many runs at once: none may take the new directory
// of another for a stale one.
func TestWorkDirAtOnce(t *testing.T) {
	s := &Store{Dir: t.TempDir()}
	const runs = 8
	failures := make(chan error, runs)
	for range runs {
		go func() {
			for range 50 {
				dir, release, err := s.WorkDir()
				if err == nil {
					_, err = os.Stat(dir)
					release()
				}
				if err != nil {
					failures <- err
					return
				}
			}
			failures <- nil
		}()
	}
	for range runs {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
}
