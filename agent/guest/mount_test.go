package guest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// privateMounts moves the test to a mount namespace of its own, or skips it. The
// namespace is the thread's, which ends with the test.
func privateMounts(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skip("no mount namespace:", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

// TestUnmountBelow mounts one tmpfs in another, and one beside them that stays.
func TestUnmountBelow(t *testing.T) {
	privateMounts(t)

	root := t.TempDir()
	dir := filepath.Join(root, `a b\c`)
	beside := dir + "-beside"
	for _, target := range []string{dir, filepath.Join(dir, "inner"), beside} {
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", target, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}

	if err := unmountBelow(dir); err != nil {
		t.Fatal(err)
	}
	left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].Mountpoint != beside {
		t.Errorf("mounts left are %v, want %s alone", left, beside)
	}
	if err := unmountBelow(beside); err != nil {
		t.Error(err)
	}
}
