package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// exec runs a step in the job's own container and returns its status.
func (j *job) exec(ctx context.Context, r brokerapi.ExecRequest, streams wire.Streams) (int, error) {
	j.mu.Lock()
	own := j.own
	j.mu.Unlock()
	if own == nil {
		return 0, errors.New("cannot run step: the job has services only, and no container")
	}
	c := own.container

	env := maps.Clone(c.env)
	maps.Copy(env, r.Env)
	if len(r.PrependPath) > 0 {
		env["PATH"] = strings.Join(append(slices.Clone(r.PrependPath), env["PATH"]), ":")
	}
	status, err := c.guest.Exec(ctx, c.process(r.Argv, env, r.Dir), streams)
	return status, j.explain(err)
}

// runMember runs a process in a guest of its own beside those of the job, which
// is gone when the status is known.
func (j *job) runMember(ctx context.Context, m *member, argv []string, streams wire.Streams) (int, error) {
	status, err := j.start(ctx, m, argv, streams)
	return status, errors.Join(err, j.discard(m))
}

// start starts a new member for one process and returns the status of that. The
// guest is left to discard or stop.
func (j *job) start(ctx context.Context, m *member, argv []string, streams wire.Streams) (int, error) {
	var err error
	if m.address, err = j.network.Reserve(); err != nil {
		return 0, j.explain(err)
	}
	if err := j.launch(ctx, m); err != nil {
		return 0, j.explain(err)
	}
	status, err := m.container.exec(ctx, argv, streams)
	return status, j.explain(err)
}

// explain returns why a process could not run to its end: why the broker ended
// its job, if it did, or else err, which may be nil.
func (j *job) explain(err error) error {
	if err == nil {
		return nil
	}
	if cause := j.endCause(); cause != nil {
		return cause
	}

	var closed *wire.ClosedError
	if errors.As(err, &closed) {
		return fmt.Errorf("cannot go on with the step: the guest ended or was ended: %w", closed.Err)
	}
	return err
}
