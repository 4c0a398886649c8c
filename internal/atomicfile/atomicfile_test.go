package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
)

func TestWriteReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, content := range []string{"old", "new"} {
		if err := Write(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Fatalf("got %q, %v; want %q", got, err, content)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("got mode %v, %v", info.Mode(), err)
	}
}

func TestFailedCopyKeepsOldContentAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken source")
	err := Copy(path, io.MultiReader(iotest.OneByteReader(&io.LimitedReader{}), iotest.ErrReader(broken)), 0o600)
	if !errors.Is(err, broken) {
		t.Fatalf("got %v, want the source's error", err)
	}
	entries, _ := os.ReadDir(dir)
	got, _ := os.ReadFile(path)
	if string(got) != "old" || len(entries) != 1 {
		t.Errorf("got content %q and %d entries; want the old file alone", got, len(entries))
	}
}
