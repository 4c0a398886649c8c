package rootfs

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWorkDirRemovesOnlyWhatNobodyHolds(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	held, release, err := c.WorkDir()
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(c.Dir, "work", "killed")
	if err := os.MkdirAll(filepath.Join(stale, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	other, releaseOther, err := c.WorkDir()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Errorf("what a killed run left is still there: %v", err)
	}
	for _, dir := range []string{held, other} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("a directory in use is gone: %v", err)
		}
	}
	release()
	releaseOther()
	if left, _ := filepath.Glob(filepath.Join(c.Dir, "work", "*")); len(left) != 0 {
		t.Errorf("left behind %q", left)
	}
}
