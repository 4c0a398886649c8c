package guest

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnifyCgroups: on a hybrid host, version 2 alone is seen afterwards, and the own
// cgroup is found there.
func TestUnifyCgroups(t *testing.T) {
	privateMounts(t)
	for range 2 {
		if err := UnifyCgroups(); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := FindCgroup("")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{cgroupRoot, dir} {
		var stat unix.Statfs_t
		if err := unix.Statfs(path, &stat); err != nil || stat.Type != unix.CGROUP2_SUPER_MAGIC {
			t.Errorf("%s: type %#x, %v, want cgroup2", path, stat.Type, err)
		}
	}
	if err := unix.Access(filepath.Join(dir, "cgroup.procs"), unix.R_OK); err != nil {
		t.Error(err)
	}
}
