package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// UnifyCgroups shows version 2 of cgroups alone to this process and to what it
// starts, in the mount namespace of its own that it has to have. A host may still
// use version 1 beside it, a hybrid: there systemd-nspawn makes cgroups for a guest
// in the hierarchy name=systemd as well, which it never removes.
func UnifyCgroups() error {
	var stat unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &stat); err != nil {
		return fmt.Errorf("cannot find cgroups: %w", err)
	}
	if stat.Type == unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	if err := unix.Mount("cgroup2", cgroupRoot, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount cgroup2: %w", err)
	}
	return nil
}

// cgroupRoot is where every init system mounts cgroups, file-hierarchy(7).
const cgroupRoot = "/sys/fs/cgroup"

// FindCgroup returns the cgroup2 directory beneath which the caller may make
// cgroups for guests. Under systemd that is its delegated unit (Delegate=yes),
// whose own processes are in the sub-cgroup that DelegateSubgroup= names.
func FindCgroup(subgroup string) (string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return "", fmt.Errorf("cannot find cgroup2: %w", err)
	}
	if len(mounts) == 0 {
		return "", errors.New("cannot find cgroup2: it is not mounted")
	}

	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("cannot find own cgroup: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		// The entry of cgroup2, cgroups(7).
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			// The last one may cover others, see UnifyCgroups.
			dir := filepath.Join(mounts[len(mounts)-1].Mountpoint, path)
			if filepath.Base(dir) == subgroup {
				dir = filepath.Dir(dir)
			}
			return dir, nil
		}
	}
	return "", errors.New("cannot find own cgroup: this kernel has no cgroup2")
}

// delegate makes limits available to the children of a cgroup. Limits of a
// controller that the kernel lacks do not apply.
func delegate(dir string) {
	for _, controller := range []string{"cpu", "cpuset", "memory", "pids", "io"} {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
	}
}

// killCgroup kills every process in a cgroup and beneath it, waits until they
// are gone, and removes it. It does nothing if the cgroup does not exist.
func killCgroup(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot end the processes of a guest: %w", err)
	}

	deadline := time.Now().Add(killWait)
	for {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil {
			return fmt.Errorf("cannot end the processes of a guest: %w", err)
		}
		if strings.Contains(string(events), "populated 0") {
			return removeCgroup(dir)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot end the processes of a guest: some in %s survived SIGKILL for %v", dir, killWait)
		}
		time.Sleep(time.Millisecond)
	}
}

// killWait is how long killed processes may take to disappear.
const killWait = 10 * time.Second

// Bounds of the cgroups that a guest may make beneath its own, where systemd
// and container engines have their services. Removing them takes a descriptor a
// level.
const (
	maxCgroupDepth = 64
	maxCgroups     = 4096
)

// limitNesting keeps a guest from making more cgroups than can be removed.
func limitNesting(dir string) error {
	for name, limit := range map[string]int{"cgroup.max.depth": maxCgroupDepth, "cgroup.max.descendants": maxCgroups} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strconv.Itoa(limit)), 0); err != nil {
			return fmt.Errorf("cannot limit cgroups of a guest: %w", err)
		}
	}
	return nil
}

// removeCgroup removes a cgroup without processes and those beneath it. Their
// names are a job's and together longer than a path may be, so each is opened
// from the one above.
func removeCgroup(dir string) error {
	root, err := os.OpenRoot(dir)
	if err == nil {
		err = errors.Join(removeCgroupsIn(root), root.Close())
	}
	if err := errors.Join(err, os.Remove(dir)); err != nil {
		return fmt.Errorf("cannot remove cgroup: %w", err)
	}
	return nil
}

func removeCgroupsIn(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		below, err := root.OpenRoot(e.Name())
		if err != nil {
			return err
		}
		if err := errors.Join(removeCgroupsIn(below), below.Close(), root.Remove(e.Name())); err != nil {
			return err
		}
	}
	return nil
}
