package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// FindCgroup gives the cgroup2 directory below which the caller may make
// cgroups for guests. Under systemd that is its delegated unit (Delegate=yes),
// whose own processes sit in the sub-cgroup that DelegateSubgroup= names.
func FindCgroup(subgroup string) (string, error) {
	mount, err := cgroupMount()
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("cannot find own cgroup: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			dir := filepath.Join(mount, path)
			if filepath.Base(dir) == subgroup {
				dir = filepath.Dir(dir)
			}
			return dir, nil
		}
	}
	return "", errors.New("cannot find own cgroup: this kernel has no cgroup2")
}

// cgroupMount finds where cgroup2 is mounted: not always at the same place on a
// host that still uses version 1 beside it.
func cgroupMount() (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("cannot find cgroup2: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return unescape(fields[4]), nil
		}
	}
	return "", errors.New("cannot find cgroup2: it is not mounted")
}

// delegate lets the children of a cgroup be limited. A controller that is not
// there cannot be used; limits then do not apply.
func delegate(dir string) {
	for _, controller := range []string{"cpu", "memory", "pids", "io"} {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
	}
}

// killCgroup kills every process in a cgroup and below it, waits until they are
// gone, and removes it. One that does not exist is fine.
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

// killWait is how long killed processes may take to vanish.
const killWait = 10 * time.Second

// removeCgroup removes an empty cgroup and those below it.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot remove cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil {
		return fmt.Errorf("cannot remove cgroup: %w", err)
	}
	return nil
}
