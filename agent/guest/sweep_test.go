package guest

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSweepGoesOn: what cannot be removed is logged, and keeps the broker neither
// from starting nor from removing the rest.
func TestSweepGoesOn(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	m := &Manager{
		JobsDir: filepath.Join(dir, "jobs"), Cgroup: filepath.Join(dir, "cgroup"),
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	stubborn := filepath.Join(m.JobsDir, "a-stubborn")
	if err := errors.Join(os.MkdirAll(stubborn, 0o755), os.MkdirAll(filepath.Join(m.JobsDir, "b"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := setFlags(stubborn, unix.STATX_ATTR_IMMUTABLE); err != nil { // FS_IMMUTABLE_FL has the same value
		t.Skipf("cannot make a directory immutable: %v", err)
	}
	t.Cleanup(func() { _ = setFlags(stubborn, 0) })

	if err := m.Sweep(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(m.JobsDir)
	if err != nil || len(left) != 1 || left[0].Name() != "a-stubborn" {
		t.Errorf("left %v, %v, want a-stubborn alone", left, err)
	}
	if !strings.Contains(log.String(), "operation not permitted") {
		t.Errorf("logged %q", &log)
	}
}

// setFlags sets the flags of a directory, FS_IOC_SETFLAGS(2const).
func setFlags(dir string, flags int) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.IoctlSetPointerInt(int(d.Fd()), unix.FS_IOC_SETFLAGS, flags)
}
