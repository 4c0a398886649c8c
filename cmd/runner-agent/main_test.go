package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/internal/cli/clitest"
	"github.com/mkappliance/mkappliance/internal/manpage"
)

func TestMain(m *testing.M) { clitest.Main(m, "runner-agent", main) }

func TestScripts(t *testing.T) { clitest.Run(t) }

// TestUnitsNameManualPages: a page of ours that a unit names is written, so
// that "systemctl help" finds it.
func TestUnitsNameManualPages(t *testing.T) {
	pages := t.TempDir()
	if err := manpage.Write(newRootCommand(), pages, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}

	documentation := regexp.MustCompile(`man:(runner-[a-z-]+)\(([0-9])\)`)
	named := 0
	err := filepath.WalkDir("../../overlays", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range documentation.FindAllStringSubmatch(string(content), -1) {
			named++
			if _, err := os.Stat(filepath.Join(pages, match[1]+"."+match[2])); err != nil {
				t.Errorf("%s names %s: %v", path, match[0], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if named == 0 {
		t.Error("no unit names a page of ours: the pattern does not fit any more")
	}
}
