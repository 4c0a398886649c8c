package disk

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// newESP returns an ESP with files of the names.
func newESP(t *testing.T, names ...string) *ESP {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, layout.UKIDir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, layout.UKIDir, name), []byte("uki"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return NewESP(dir)
}

func names(t *testing.T, e *ESP) []string {
	t.Helper()
	files, err := os.ReadDir(e.path())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

// empty empties files of an ESP, as a power cut leaves what is being renamed.
func empty(t *testing.T, e *ESP, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Truncate(e.path(name), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUKIs(t *testing.T) {
	e := newESP(t, "runner_1.0.0.efi", "runner_1.1.0+2-1.efi", "runner_1.2.0+0-3.efi", "runner_1.3.0+3.efi",
		"other_1.0.0.efi", "runner_1.4.0.efi.old", ".runner_1.5.0+3.efi.1.tmp", "runner_+3.efi", "runner_1.6.0+3.efi")
	empty(t, e, "runner_1.6.0+3.efi")
	list, err := e.UKIs()
	if err != nil {
		t.Fatal(err)
	}
	want := []UKI{
		{Version: "1.0.0", Size: 3, name: "runner_1.0.0.efi"},
		{Version: "1.1.0", Counted: true, Left: 2, Size: 3, name: "runner_1.1.0+2-1.efi"},
		{Version: "1.2.0", Counted: true, Left: 0, Size: 3, name: "runner_1.2.0+0-3.efi"},
		{Version: "1.3.0", Counted: true, Left: 3, Size: 3, name: "runner_1.3.0+3.efi"},
	}
	if diff := cmp.Diff(want, list, cmp.AllowUnexported(UKI{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if list[1].Failed() || !list[2].Failed() {
		t.Error("only 1.2.0 has failed")
	}
}

func TestKeep(t *testing.T) {
	e := newESP(t, "runner_1.0.0.efi", "runner_0.9.0+0-3.efi", "runner_1.0.0-rc1.efi", "other.efi",
		".runner_1.5.0+3.efi.1.tmp", "runner_1.0.0+0.efi", "runner_1.1.0+3.efi")
	empty(t, e, "runner_1.0.0+0.efi", "runner_1.1.0+3.efi")
	if err := e.Keep("1.0.0"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"other.efi", "runner_1.0.0.efi"}, names(t, e)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestInstall(t *testing.T) {
	e := newESP(t, "runner_1.0.0.efi")
	content := bytes.Repeat([]byte("kernel"), 10000)
	err := e.Install("1.1.0", 3, bytes.NewReader(content), sha256.Sum256([]byte("other")))
	if err == nil || !strings.Contains(err.Error(), "differs from what was written") {
		t.Errorf("other content: got %v", err)
	}
	if diff := cmp.Diff([]string{"runner_1.0.0.efi"}, names(t, e)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}

	if err := e.Install("1.1.0", 3, bytes.NewReader(content), sha256.Sum256(content)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"runner_1.0.0.efi", "runner_1.1.0+3.efi"}, names(t, e)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestGiveUp(t *testing.T) {
	e := newESP(t, "runner_1.0.0.efi", "runner_1.1.0+2-1.efi")
	for _, version := range []string{"1.0.0", "3.0.0"} {
		if err := e.GiveUp(version); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"runner_1.0.0+0.efi", "runner_1.1.0+2-1.efi"}, names(t, e)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
