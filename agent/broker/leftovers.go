package broker

import (
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// A job decides what lies in the work root, and in directories of its own. None of it
// may keep the next job from starting: what fails here is logged, unless another job
// would see the files.

// removeLeftovers removes what earlier jobs left, before a job with a workspace
// starts.
func (s *Server) removeLeftovers(workspace string) error {
	if s.settings.KeepWork {
		return s.settings.workDir().RemoveLinks()
	}
	return s.logLeft(s.settings.workDir().RemoveLeftovers(workspace))
}

// removeJob removes what a job with a workspace has left.
func (s *Server) removeJob(workspace string) error {
	if s.settings.KeepWork {
		return s.settings.workDir().RemoveLinks()
	}
	return s.logLeft(s.settings.workDir().RemoveJob(workspace))
}

// logLeft logs what could only be moved aside.
func (s *Server) logLeft(left []string, err error) error {
	for _, what := range left {
		s.log.Warn("cannot remove what a job left", "error", what)
	}
	return err
}

// restoreOwnership makes the runner the owner of all that guests left in its work
// root.
func (j *job) restoreOwnership() {
	if err := j.work.RestoreOwnership(guest.SubordinateBase); err != nil {
		j.log.Warn("the runner may be unable to remove what a job left", "job", j.id, "error", err)
	}
}

// removeTree removes a directory of the job's own, to which nobody writes any more,
// and does nothing if there is none. The next broker tries again if that fails.
func (j *job) removeTree(dir string) {
	if err := (workroot.Root{Path: dir}).Remove(); err != nil {
		j.log.Error("cannot remove what a job wrote", "job", j.id, "error", err)
	}
}
