package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Sweep removes what guests of an earlier broker left: processes, cgroups,
// mounts and directories. It also prepares the directories for new ones.
func (h *Manager) Sweep() error {
	if err := os.MkdirAll(h.JobsDir, 0o700); err != nil {
		return fmt.Errorf("cannot make directory for guests: %w", err)
	}
	delegate(filepath.Dir(h.Cgroup))
	if err := os.Mkdir(h.Cgroup, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make cgroup for guests: %w", err)
	}
	delegate(h.Cgroup)
	if err := h.Limits.set(h.Cgroup); err != nil {
		return err
	}
	groups, err := os.ReadDir(h.Cgroup)
	if err != nil {
		return fmt.Errorf("cannot sweep: %w", err)
	}
	for _, e := range groups {
		if e.IsDir() {
			err = errors.Join(err, killCgroup(filepath.Join(h.Cgroup, e.Name())))
		}
	}
	jobs, readErr := os.ReadDir(h.JobsDir)
	err = errors.Join(err, readErr)
	for _, e := range jobs {
		err = errors.Join(err, removeDir(filepath.Join(h.JobsDir, e.Name())))
	}
	return err
}

// removeDir deletes a guest's directory once nothing is mounted in it.
func removeDir(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove what a guest left: %w", err)
	}
	return nil
}
