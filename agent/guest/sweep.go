package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mkappliance/mkappliance/agent/workroot"
)

// Sweep removes the processes, cgroups, mounts and directories of the guests of
// an earlier broker, and prepares the cgroup and the directory for new ones.
func (h *Manager) Sweep() error {
	if err := os.MkdirAll(h.JobsDir, 0o700); err != nil {
		return fmt.Errorf("cannot make directory for guests: %w", err)
	}

	// From the top down: a cgroup limits its children only if its parent lets it.
	delegate(filepath.Dir(h.Cgroup))
	if err := os.Mkdir(h.Cgroup, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make cgroup for guests: %w", err)
	}
	delegate(h.Cgroup)
	if err := h.Limits.set(h.Cgroup); err != nil {
		return err
	}

	// Processes before mounts: a process keeps a mount busy.
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
//
// A job may have nested directories to any depth: a broker that ran out of
// descriptors could not end the job, nor start again.
func removeDir(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	if err := workroot.RemoveTree(dir); err != nil {
		return fmt.Errorf("cannot remove the directory of a guest: %w", err)
	}
	return nil
}
