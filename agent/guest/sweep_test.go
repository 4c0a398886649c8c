package guest

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSweepGoesOn: what cannot be removed is logged, and keeps the broker neither
// from starting nor from removing the rest.
func TestSweepGoesOn(t *testing.T) {
	dir, programs := t.TempDir(), t.TempDir()
	const rm = "#!/bin/sh\ncase $* in *stubborn) echo busy >&2; exit 1;; *) exec /bin/rm \"$@\";; esac\n"
	var log bytes.Buffer
	m := &Manager{
		JobsDir: filepath.Join(dir, "jobs"), Cgroup: filepath.Join(dir, "cgroup"),
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(programs, "rm"), []byte(rm), 0o755),
		os.MkdirAll(filepath.Join(m.JobsDir, "a-stubborn"), 0o755),
		os.MkdirAll(filepath.Join(m.JobsDir, "b"), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))

	if err := m.Sweep(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(m.JobsDir)
	if err != nil || len(left) != 1 || left[0].Name() != "a-stubborn" {
		t.Errorf("left %v, %v, want a-stubborn alone", left, err)
	}
	if !strings.Contains(log.String(), "busy") {
		t.Errorf("logged %q", &log)
	}
}
