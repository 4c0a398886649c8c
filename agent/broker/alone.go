package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
)

// containerStep runs a container's own process in a guest of its own, which may
// have to be built first: beside those of job j or, if that is nil, alone.
func (r *resources) containerStep(
	ctx context.Context, client *caller, work workDir, j *job, request brokerapi.ContainerRequest,
) (int, error) {
	m, err := newStep(request.Container)
	if err != nil {
		return 0, err
	}
	m.notify(reportTo(client.Conn))
	if m.root, err = r.rootOfStep(ctx, client, work, j, request); err != nil {
		return 0, err
	}
	defer m.root.release()

	argv := m.argv()
	if len(argv) == 0 {
		return 0, fmt.Errorf("cannot run container: image %q names no command, and the step has none", request.Image)
	}
	if j != nil {
		return j.runMember(ctx, m, argv, client.streams())
	}
	return r.runAlone(ctx, client, work, m, argv)
}

// rootOfStep finds or builds the root file system of a step. If the step belongs
// to job j, that ends with the job: a build has a guest that is not the job's.
func (r *resources) rootOfStep(
	ctx context.Context, client *caller, work workDir, j *job, request brokerapi.ContainerRequest,
) (rootFS, error) {
	if j == nil {
		return r.findOrBuildRoot(ctx, client, work, nil, request)
	}

	ctx, done, err := j.enter(ctx)
	if err != nil {
		return rootFS{}, j.explain(err)
	}
	defer done()
	root, err := r.findOrBuildRoot(ctx, client, work, j, request)
	return root, j.explain(err)
}

// runAlone runs one process in a job of its own, of which nothing is left when
// the status is known.
func (r *resources) runAlone(
	ctx context.Context, client *caller, work workDir, m *member, argv []string,
) (status int, err error) {
	err = r.alone(work, nil, func(j *job) error {
		status, err = j.start(ctx, m, argv, client.streams())
		return err
	})
	return status, err
}

// alone calls do with a job that is not the broker's, and stops it. The limits of
// jobs hold for it as well, unless it is part of another one, whose context do
// heeds: a second watch of the same disk would sometimes end the part alone.
func (r *resources) alone(work workDir, whole *job, do func(j *job) error) error {
	j, err := r.newJob(work)
	if err != nil {
		return err
	}
	if whole == nil {
		j.run()
	}
	err = do(j)
	return errors.Join(err, j.stop())
}
