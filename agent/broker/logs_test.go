package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/workroot"
)

// newLogs returns a keeper of logs and the directory that a job writes to.
func newLogs(t *testing.T) (k logKeeper, from string) {
	t.Helper()
	from = t.TempDir()
	k = logKeeper{
		from: workroot.Root{Path: from}, to: filepath.Join(t.TempDir(), "logs"), job: "01234567-and-more",
		log: slog.New(slog.DiscardHandler),
	}
	return k, from
}

// TestKeepLogs has a job that left more than its log.
func TestKeepLogs(t *testing.T) {
	k, from := newLogs(t)
	secret := filepath.Join(t.TempDir(), "secret")
	const name = "Worker_20260101-000000-utc.log"
	long := strings.Repeat("x", maxLogSize) + "the end"
	for path, content := range map[string]string{
		secret:                           "secret",
		filepath.Join(from, name):        long,
		filepath.Join(from, "other.log"): "other",
		filepath.Join(from, "..Worker_20260101-000000-utc.log"): "other",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(from, "Worker_20260101-000001-utc.log")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(from, "Worker_20260101-000002-utc.log"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(from, "Worker_20260101-000003-utc.log"), 0o700); err != nil {
		t.Fatal(err)
	}

	k.keep()
	kept, err := os.ReadDir(k.to)
	if err != nil || len(kept) != 1 || kept[0].Name() != "Worker_20260101-000000-utc-01234567.log" {
		t.Fatalf("kept %v, %v, want %s alone", kept, err, name)
	}
	data, err := os.ReadFile(filepath.Join(k.to, kept[0].Name()))
	if err != nil || string(data) != long[len(long)-maxLogSize:] {
		t.Errorf("kept %d bytes, %v, want the last %d", len(data), err, maxLogSize)
	}
}

// TestKeptLogStays: a job whose log has the name of another job's does not
// replace that.
func TestKeptLogStays(t *testing.T) {
	k, from := newLogs(t)
	log := filepath.Join(from, "Worker_20260101-000000-utc.log")
	for _, job := range []string{"01234567-first", "89abcdef-second"} {
		if err := os.WriteFile(log, []byte(job), 0o600); err != nil {
			t.Fatal(err)
		}
		k.job = job
		k.keep()
	}
	data, err := os.ReadFile(filepath.Join(k.to, "Worker_20260101-000000-utc-01234567.log"))
	if err != nil || string(data) != "01234567-first" {
		t.Errorf("the log of the first job has %q, %v", data, err)
	}
	if kept, err := os.ReadDir(k.to); err != nil || len(kept) != 2 {
		t.Errorf("kept %v, %v, want two", kept, err)
	}
}

// TestManyLogs: a job leaves a bounded number of files, however many it wrote.
func TestManyLogs(t *testing.T) {
	k, from := newLogs(t)
	for i := range 2000 {
		name := fmt.Sprintf("Worker_20260101-%06d-utc.log", i)
		if err := os.WriteFile(filepath.Join(from, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k.keep()
	kept, err := os.ReadDir(k.to)
	if err != nil || len(kept) != maxLogs || kept[maxLogs-1].Name() != "Worker_20260101-001999-utc-01234567.log" {
		t.Errorf("kept %v, %v, want the last %d", kept, err, maxLogs)
	}
}

// TestPruneLogs: old logs go, and the oldest where all take too much.
func TestPruneLogs(t *testing.T) {
	k, _ := newLogs(t)
	if err := os.Mkdir(k.to, 0o750); err != nil {
		t.Fatal(err)
	}

	now := time.Now()
	for _, log := range []struct {
		name string
		size int64
		age  time.Duration
		want bool
	}{
		{name: "Worker_20260101-000000-utc-01234567.log", size: maxLogsSize / 2, age: 0, want: true},
		{name: "Worker_20260101-000001-utc-01234567.log", size: maxLogsSize / 2, age: time.Hour, want: true},
		{name: "Worker_20260101-000002-utc-01234567.log", size: 1, age: 2 * time.Hour},
		{name: "Worker_20260101-000003-utc-01234567.log", size: 0, age: maxLogAge + time.Hour},
		{name: "of-the-operator", size: 1, age: 2 * maxLogAge, want: true},
	} {
		path := filepath.Join(k.to, log.name)
		defer checkExists(t, path, log.want)

		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(log.size); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		if err := os.Chtimes(path, now, now.Add(-log.age)); err != nil {
			t.Fatal(err)
		}
	}
	k.keep()
}

// TestPruneManyLogs: jobs leave a bounded number of files together, however small.
func TestPruneManyLogs(t *testing.T) {
	k, _ := newLogs(t)
	if err := os.Mkdir(k.to, 0o750); err != nil {
		t.Fatal(err)
	}
	for i := range maxAllLogs + 10 {
		path := filepath.Join(k.to, fmt.Sprintf("Worker_20260101-%06d-utc-01234567.log", i))
		age := time.Now().Add(-time.Duration(i) * time.Second)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, age, age)); err != nil {
			t.Fatal(err)
		}
	}

	k.keep()
	kept, err := os.ReadDir(k.to)
	if err != nil || len(kept) != maxAllLogs || kept[0].Name() != "Worker_20260101-000000-utc-01234567.log" {
		t.Errorf("kept %d, %v, want the newest %d", len(kept), err, maxAllLogs)
	}
}

func checkExists(t *testing.T, path string, want bool) {
	t.Helper()
	_, err := os.Lstat(path)
	if (err == nil) != want {
		t.Errorf("%s: got %v, want it to exist: %v", filepath.Base(path), err, want)
	}
	if err != nil && !os.IsNotExist(err) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}
