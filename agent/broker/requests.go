package broker

import (
	"context"
	"errors"
	"maps"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
)

// prepare ends an earlier job and starts one.
func (s *Server) prepare(
	ctx context.Context, r brokerapi.PrepareRequest, report reporter,
) (*brokerapi.PrepareReply, error) {
	// A workflow that asks for too much is refused before anything changes.
	members, err := newMembers(r)
	if err != nil {
		return nil, err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.endJob(); err != nil {
		return nil, err
	}
	if err := s.removeLeftovers(r.Workspace); err != nil {
		return nil, err
	}

	j, err := s.newJob(s.settings.workDir())
	if err != nil {
		return nil, err
	}
	j.workspace = r.Workspace
	reply, err := j.prepare(ctx, members, report)
	if err != nil {
		stopErr := j.stop()
		if stopErr != nil {
			s.job = j // to be stopped by the next request
		}
		return nil, errors.Join(err, stopErr)
	}
	s.job = j
	j.run()
	s.log.Info("job started", "job", j.id, "services", len(reply.Services))
	return reply, nil
}

// cleanup ends a job. One that is not known has been ended.
func (s *Server) cleanup(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job == nil || s.job.id != id {
		return nil
	}
	workspace := s.job.workspace
	if err := s.endJob(); err != nil {
		return err
	}
	return s.removeJob(workspace)
}

// reset ends whatever job there is. The runner may be preparing another by now,
// so that nothing is removed but what would lead it astray.
func (s *Server) reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.endJob(), s.settings.workDir().RemoveLinks())
}

// endJob ends the job, if there is one. If that fails it stays, so that ending it
// can be tried again. The caller holds mu.
func (s *Server) endJob() error {
	if s.job == nil {
		return nil
	}
	if err := s.job.stop(); err != nil {
		return err
	}
	s.log.Info("job ended", "job", s.job.id)
	s.job = nil
	s.guests.refill()
	return nil
}

// findJob returns the job of an id, or nil.
func (s *Server) findJob(id string) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job == nil || s.job.id != id {
		return nil
	}
	return s.job
}

// errNoJob answers a request that names a job which does not run, or not where the
// request came in.
var errNoJob = errors.New("cannot run step: the guest of this job is gone; it was ended, or never started")

// exec runs a step in the guest of the job's container and returns its status.
func (s *Server) exec(ctx context.Context, client *caller, r brokerapi.ExecRequest) (int, error) {
	j := s.findJob(r.Job)
	if j == nil {
		return 0, errNoJob
	}
	return j.exec(ctx, r, client.streams())
}

// runContainer runs a container's own process in a guest of its own: beside those
// of a job if the request names one, else alone.
func (s *Server) runContainer(ctx context.Context, client *caller, r brokerapi.ContainerRequest) (int, error) {
	return s.containerStep(ctx, client, s.settings.workDir(), s.findJob(r.Job), r)
}

// run runs a command in a fresh guest of the guest base.
func (s *Server) run(ctx context.Context, client *caller, r brokerapi.RunRequest) (int, error) {
	env := map[string]string{"HOME": "/root", "LANG": "C.UTF-8"}
	maps.Copy(env, r.Env)
	m := &member{spec: containerSpec{Container: brokerapi.Container{Env: env, Dir: r.Dir}}, root: s.baseRoot()}
	return s.runAlone(ctx, client, s.settings.workDir(), m, r.Argv)
}
