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
//
// A job decides what it leaves. None of it may keep the broker from starting: what
// cannot be removed is logged, and tried again by the next broker.
func (m *Manager) Sweep() error {
	if err := os.MkdirAll(m.JobsDir, 0o700); err != nil {
		return fmt.Errorf("cannot make directory for guests: %w", err)
	}

	// From the top down: a cgroup limits its children only if its parent lets it.
	delegate(filepath.Dir(m.Cgroup))
	if err := os.Mkdir(m.Cgroup, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make cgroup for guests: %w", err)
	}
	delegate(m.Cgroup)
	if err := m.Limits.set(m.Cgroup); err != nil {
		return err
	}

	// Processes before mounts: a process keeps a mount busy.
	groups, err := os.ReadDir(m.Cgroup)
	if err != nil {
		return fmt.Errorf("cannot sweep: %w", err)
	}
	for _, e := range groups {
		if e.IsDir() {
			m.logLeft(killCgroup(filepath.Join(m.Cgroup, e.Name())))
		}
	}

	jobs, err := os.ReadDir(m.JobsDir)
	if err != nil {
		return fmt.Errorf("cannot sweep: %w", err)
	}
	for _, e := range jobs {
		m.logLeft(removeDir(filepath.Join(m.JobsDir, e.Name())))
	}
	return nil
}

// Close removes the cgroup of the guests, all of which have been stopped.
func (m *Manager) Close() error {
	if err := removeCgroup(m.Cgroup); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (m *Manager) logLeft(err error) {
	if err != nil {
		m.Log.Error("something of a guest is left", "error", err)
	}
}

// removeDir deletes a guest's directory once nothing is mounted in it.
//
// A job may have nested directories to any depth: a broker that ran out of
// descriptors could not end the job, nor start again.
func removeDir(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	if err := (workroot.Root{Path: dir}).Remove(); err != nil {
		return fmt.Errorf("cannot remove the directory of a guest: %w", err)
	}
	return nil
}
