package imagecheck

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/state"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// TestReset: a reset leaves the content of /var as the image has it, but for files
// that tmpfiles.d brings back.
func TestReset(t *testing.T) {
	image := os.Getenv("MKAPPLIANCE_TEST_IMAGE")
	if image == "" {
		t.Skip("MKAPPLIANCE_TEST_IMAGE names no baked image")
	}
	root := t.TempDir()
	extractVar(t, image, root)
	flashed := listVar(t, root)
	if len(flashed) < 80 {
		t.Fatalf("/var of the image has %d files only", len(flashed))
	}

	for path := range flashed {
		if filepath.Dir(path) == "/var/roothome" {
			delete(flashed, path)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, layout.State), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := state.Ask(root, state.Request{Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Reset(root, io.Discard); err != nil {
		t.Fatal(err)
	}
	after := listVar(t, root)
	delete(after, layout.State) // tmpfiles.d makes it
	if diff := cmp.Diff(flashed, after); diff != "" {
		t.Errorf("/var before and after a reset (-before +after):\n%s", diff)
	}
}

// extractVar copies the var file system of an image to root/var.
func extractVar(t *testing.T, image, root string) {
	t.Helper()
	disk, err := diskfs.Open(image, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	table, err := disk.GetPartitionTable()
	if err != nil {
		t.Fatal(err)
	}

	for _, p := range table.(*gpt.Table).Partitions {
		if p.Name != layout.VarLabel {
			continue
		}
		dir := filepath.Join(root, "var")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("debugfs", "-R", "rdump / "+dir, fmt.Sprintf("%s?offset=%d", image, p.Start*512)).
			CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	t.Fatal("the image has no partition for /var")
}

// listVar returns the mode of each file and directory, with the size of files.
func listVar(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(filepath.Join(root, "var"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			text += fmt.Sprintf(" %d bytes", info.Size())
		}
		files[strings.TrimPrefix(path, root)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
