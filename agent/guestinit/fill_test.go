package guestinit

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFill(t *testing.T) {
	dir, volume := t.TempDir(), t.TempDir()
	past := time.Unix(1e9, 0)
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "sub/empty"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub/file"), []byte("content"), 0o600),
		os.Chmod(filepath.Join(dir, "sub/file"), 0o640|fs.ModeSetgid),
		os.Chtimes(filepath.Join(dir, "sub/file"), past, past),
		os.Symlink("/nowhere", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o622),
		os.Chmod(dir, 0o777|fs.ModeSticky),
	); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	owner := os.Getuid()
	if owner == 0 {
		owner = 7
		if err := os.Lchown(filepath.Join(dir, "link"), owner, owner); err != nil {
			t.Fatal(err)
		}
	}

	if err := fill(volume, dir); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(volume, "sub/file")); err != nil || string(data) != "content" {
		t.Errorf("the file has %q, %v", data, err)
	}
	for name, want := range map[string]fs.FileMode{
		".": 0o777 | fs.ModeDir | fs.ModeSticky, "sub": 0o755 | fs.ModeDir, "sub/empty": 0o755 | fs.ModeDir,
		"sub/file": 0o640 | fs.ModeSetgid, "link": 0o777 | fs.ModeSymlink,
	} {
		if info, err := os.Lstat(filepath.Join(volume, name)); err != nil || info.Mode() != want {
			t.Errorf("%s is %v, %v, want %v", name, info, err, want)
		}
	}
	if info, err := os.Lstat(filepath.Join(volume, "link")); err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != owner {
		t.Errorf("the link is %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(volume, "sub/file")); err != nil || !info.ModTime().Equal(past) {
		t.Errorf("the file is %v, %v", info, err)
	}
	if _, err := os.Lstat(filepath.Join(volume, "socket")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is there: %v", err)
	}

	// A volume with something in it stays as it is.
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fill(volume, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(volume, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a volume was filled again: %v", err)
	}
}
