// Package imagecheck looks at the baked image file from outside.
package imagecheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// check is a line of 'mkappliance verify --json'.
type check struct {
	Name    string `json:"check"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem"`
}

// verify runs the verb and returns its exit status and the outcome of each check.
func verify(t *testing.T, program, image string) (int, map[string]check) {
	t.Helper()
	cmd := exec.Command(program, "verify", "--json", image)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	checks := map[string]check{}
	for line := range strings.Lines(string(out)) {
		var c check
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("cannot read %q: %v", line, err)
		}
		checks[c.Name] = c
	}
	t.Logf("verify %s: status %d\n%s%s", image, cmd.ProcessState.ExitCode(), out, stderr.String())
	return cmd.ProcessState.ExitCode(), checks
}

func buildProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "mkappliance")
	build := exec.Command("go", "build", "-o", program, "github.com/mkappliance/mkappliance/cmd/mkappliance")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build mkappliance: %v\n%s", err, out)
	}
	return program
}

// copyImage copies the image and its manifest to where they may be damaged.
func copyImage(t *testing.T) string {
	t.Helper()
	image := os.Getenv("MKAPPLIANCE_TEST_IMAGE")
	if image == "" {
		t.Skip("MKAPPLIANCE_TEST_IMAGE names no baked image")
	}
	dir := t.TempDir()
	for _, file := range []string{image, strings.TrimSuffix(image, ".img") + ".json"} {
		if out, err := exec.Command("cp", "--sparse=always", file, dir).CombinedOutput(); err != nil {
			t.Fatalf("cannot copy image: %v\n%s", err, out)
		}
	}

	// The update set is only read.
	set, err := filepath.Glob(strings.TrimSuffix(image, ".img") + ".*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range set {
		if err := os.Symlink(file, filepath.Join(dir, filepath.Base(file))); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, filepath.Base(image))
}

var checkNames = []string{
	"manifest", "partitions", "partition table", "ESP", "root file system", "verity", "var file system",
	"no identity in root", "no identity in var", "update set",
}

func TestImageFileIsClean(t *testing.T) {
	image := copyImage(t)
	status, checks := verify(t, buildProgram(t), image)
	if status != 0 {
		t.Errorf("got status %d, want 0", status)
	}
	for _, name := range checkNames {
		if c, ran := checks[name]; !ran || !c.OK {
			t.Errorf("%s: ran: %v, %+v", name, ran, c)
		}
	}
	if len(checks) != len(checkNames) {
		t.Errorf("got %d checks, want %d", len(checks), len(checkNames))
	}
}

// TestImageFileDamaged changes one thing at a time and asserts which checks
// find it.
func TestImageFileDamaged(t *testing.T) {
	image := copyImage(t)
	program := buildProgram(t)
	disk, err := diskfs.Open(image, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	table, err := disk.GetPartitionTable()
	if err != nil {
		t.Fatal(err)
	}
	parts := table.(*gpt.Table).Partitions
	start := func(r layout.Role) int64 {
		i := slices.IndexFunc(layout.Baked(), func(p layout.Partition) bool { return p.Role == r })
		return int64(parts[i].Start) * 512
	}

	for _, test := range []struct {
		summary string
		at      int64 // the byte to flip
		finders string
	}{
		{summary: "backup partition table", at: disk.Size - 512 + 24, finders: "partition table"},
		{summary: "FAT", at: start(layout.ESP) + 32*512 + 8, finders: "ESP"},
		{summary: "verity hash tree", at: start(layout.Verity) + 4096 + 5, finders: "verity"},
		{summary: "file in root", at: start(layout.Root) + 100<<20, finders: "verity"},
		{summary: "super block of root", at: start(layout.Root) + 1024, finders: "root file system, verity"},
		{summary: "super block of var", at: start(layout.Var) + 1024 + 0x20, finders: "var file system"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			flip(t, image, test.at)
			defer flip(t, image, test.at)
			status, checks := verify(t, program, image)
			if status != 1 {
				t.Errorf("got status %d, want 1", status)
			}
			for finder := range strings.SplitSeq("manifest, "+test.finders, ", ") {
				if c, ran := checks[finder]; !ran || c.OK || c.Problem == "" {
					t.Errorf("%s: ran: %v, %+v", finder, ran, c)
				}
			}
			if len(checks) != len(checkNames) {
				t.Errorf("got %d checks, want %d", len(checks), len(checkNames))
			}
		})
	}
}

// flip changes one bit of the file; twice changes it back.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyUsage(t *testing.T) {
	program := buildProgram(t)
	for _, test := range []struct {
		summary string
		args    []string
		want    string
	}{
		{
			summary: "no image",
			args:    []string{"verify"},
			want:    "missing argument: want IMAGE.img (see 'mkappliance verify --help')",
		},
		{
			summary: "not an image",
			args:    []string{"verify", "image.iso"},
			want:    "cannot verify image.iso: want a file whose name ends in .img",
		},
		{
			summary: "missing image",
			args:    []string{"verify", "/nonexistent/a.img"},
			want:    "cannot verify image: stat /nonexistent/a.img: no such file or directory",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			cmd := exec.Command(program, test.args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			err := cmd.Run()
			want := "mkappliance: error: " + test.want + "\n"
			if cmd.ProcessState.ExitCode() != 2 || stderr.String() != want {
				t.Errorf("got %v and %q, want status 2 and %q", err, stderr.String(), want)
			}
		})
	}
}
