package broker

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// state is how far the life of a job has come. It only moves on.
type state int

const (
	preparing state = iota // its first guests start
	running                // steps run in it, and its limits hold
	ended                  // no guest starts any more; those that it has are being stopped
)

// job is a set of guests that live and end together: a network, a directory for
// named volumes and the containers in them.
//
//	newJob --> preparing --prepare--> running --kill, stop--> ended
//	               '-------------stop---------------------------^
type job struct {
	*resources
	id        string
	network   Network
	work      workDir
	volumes   workroot.Root // directory of the named volumes; made with the first of them
	workspace string        // of the runner, a path of the host; "" if there is none

	worker *worker // nil if the job's worker runs on the host

	adding  sync.Mutex // held while a job with a worker gets or loses other containers
	filling sync.Mutex // held while a guest may copy files of its image into a volume

	ctx    context.Context // ends with the job; its cause is why
	cancel context.CancelCauseFunc
	starts sync.WaitGroup // guests that are being started

	mu         sync.Mutex // guards what follows
	state      state
	cause      error // why the broker itself ended the job; nil if it was asked to
	containers []*container
	members    []*member         // those of the last prepare
	own        *member           // of these, the job's own container; nil if it has services only
	hosts      [][]string        // address and names of each container that others can name
	roots      []rootFS          // of the members, to be released with them
	early      []rootFS          // pulled before they were asked for
	info       brokerapi.JobInfo // what the relay knows of the job
	docker     dockerState
}

// errEnded is the cause that ends the start of a guest when its job is ended.
var errEnded = errors.New("the job was ended")

// newJob returns a job that has a network but no guests. The caller stops it.
func (r *resources) newJob(work workDir) (*job, error) {
	network, err := r.networks.NewNetwork()
	if err != nil {
		return nil, err
	}
	id := newID()
	ctx, cancel := context.WithCancelCause(context.Background())
	volumes := r.settings.root(filepath.Join(r.settings.JobsDir, "v-"+id[:8]))
	return &job{
		resources: r, id: id, network: network, work: work, volumes: volumes, ctx: ctx, cancel: cancel,
	}, nil
}

// run moves the job to the state in which its limits hold, unless it has ended.
func (j *job) run() {
	j.mu.Lock()
	if j.state == preparing {
		j.state = running
	}
	j.mu.Unlock()
	j.watcher.start(j.ctx, j.kill)
}

// launch starts and configures the guest of a member. From then on the job stops
// it.
func (j *job) launch(ctx context.Context, m *member) error {
	ctx, done, err := j.enter(ctx)
	if err != nil {
		return err
	}
	defer done()

	c, err := j.newContainer(ctx, m)
	if err != nil {
		return err
	}
	if err := j.adopt(c); err != nil {
		return errors.Join(err, c.stop())
	}
	m.container = c
	return nil
}

// enter keeps stop waiting until done is called, and returns a context that ends
// with the job. It fails if the job has ended.
func (j *job) enter(ctx context.Context) (_ context.Context, done func(), err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state == ended {
		return nil, nil, errEnded
	}
	j.starts.Add(1)

	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(j.ctx, func() { cancel(context.Cause(j.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
		j.starts.Done()
	}, nil
}

// adopt makes a container one of the job's, unless the job has ended meanwhile.
func (j *job) adopt(c *container) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state == ended {
		return errEnded
	}
	j.containers = append(j.containers, c)
	return nil
}

// discard removes a member while the job goes on, and hands its files over.
func (j *job) discard(m *member) error {
	if err := j.remove(m); err != nil {
		return err
	}
	j.restoreOwnership()
	return nil
}

// remove removes a member while the job goes on. One that could not be launched
// still has an address.
func (j *job) remove(m *member) error {
	var err error
	if m.container != nil {
		err = m.container.stop()
	}
	if m.address.IsValid() {
		err = errors.Join(err, j.network.Leave(m.address))
	}
	if err != nil {
		return err
	}

	j.mu.Lock()
	j.containers = slices.DeleteFunc(j.containers, func(c *container) bool { return c == m.container })
	j.mu.Unlock()
	return nil
}

// kill ends the processes of all guests, whose steps then return the cause. The
// guests are left to stop.
func (j *job) kill(cause error) {
	j.log.Warn("job ended by the broker", "job", j.id, "reason", cause)
	for _, c := range j.end(cause) {
		c.guest.Kill()
	}
}

// end moves the job to its last state, and returns the containers that are
// running. The cause is nil if a client asked for it.
func (j *job) end(cause error) []*container {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state != ended {
		j.state, j.cause = ended, cause
		j.cancel(cmp.Or(cause, errEnded))
	}
	return slices.Clone(j.containers)
}

// endCause returns why the broker itself ended the job, or nil.
func (j *job) endCause() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cause
}

// stop ends the job and removes all that it has, except for its files in a work
// directory of the runner's, who becomes their owner. It may be called again if
// it failed, but not at the same time.
func (j *job) stop() error {
	j.end(nil)
	if j.worker != nil {
		j.worker.close()
	}
	j.starts.Wait() // each has its guest adopted, or stopped, by now
	if err := j.stopContainers(); err != nil {
		return err
	}

	// Guests have the links, the trees and the volumes open; all follow them.
	if err := j.network.Close(); err != nil {
		return err
	}
	j.mu.Lock()
	roots := slices.Concat(j.roots, j.early)
	j.roots, j.early = nil, nil
	j.mu.Unlock()
	for _, root := range roots {
		root.release()
	}
	j.removeTree(j.volumes.Path)
	if j.worker != nil { // the work directory goes, too
		if j.endCause() == nil {
			j.worker.tools.keep()
		}
		j.worker.logs.keep()
		j.removeTree(j.worker.dir)
		return nil
	}
	j.restoreOwnership()
	return nil
}

// stopContainers stops all containers at once.
func (j *job) stopContainers() error {
	j.mu.Lock()
	containers := slices.Clone(j.containers)
	j.mu.Unlock()

	errs := make([]error, len(containers))
	var stops sync.WaitGroup
	for i, c := range containers {
		stops.Go(func() { errs[i] = c.stop() })
	}
	stops.Wait()
	return errors.Join(errs...)
}

// setHosts replaces what the containers know of each other.
func (j *job) setHosts(hosts [][]string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.hosts = hosts
}
