package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// caller is a client that follows a process. Its signals wait here until there
// is one, since a guest may have to be started first.
type caller struct {
	*wire.Conn
	signals chan os.Signal
}

// maxSignals is more than a client sends before a process takes one.
const maxSignals = 16

// newCaller begins to read the client's signals. When it hangs up, cancel is
// called.
func newCaller(client *wire.Conn, cancel context.CancelFunc) *caller {
	c := &caller{Conn: client, signals: make(chan os.Signal, maxSignals)}
	go func() {
		defer cancel()
		for {
			kind, payload, err := client.Receive()
			if err != nil || kind != wire.Signal {
				return
			}
			signal, err := wire.ReadSignal(payload)
			if err != nil {
				continue
			}
			select {
			case c.signals <- signal:
			default: // the process does not take those before
			}
		}
	}()
	return c
}

// streams connects the client with a process.
func (c *caller) streams() wire.Streams {
	return wire.Streams{Stdout: c.Writer(wire.Stdout), Stderr: c.Writer(wire.Stderr), Signals: c.signals}
}

// exec runs a step in the guest of the job's container.
func (s *Server) exec(ctx context.Context, client *caller, r brokerapi.ExecRequest) error {
	s.mu.Lock()
	j := s.job
	s.mu.Unlock()
	switch {
	case j == nil || j.id != r.Job:
		return errors.New("cannot run step: the guest of this job is gone; it was ended, or never started")
	case j.container == nil:
		return errors.New("cannot run step: the job has services only, and no container")
	}
	c := j.container
	env := mergeEnv(c.env, r.Env)
	if len(r.PrependPath) > 0 {
		env["PATH"] = strings.Join(append(slices.Clone(r.PrependPath), env["PATH"]), ":")
	}

	status, err := c.guest.Exec(ctx, c.process(r.Argv, env, r.Dir), client.streams())
	if err != nil {
		if cause := j.endCause(); cause != nil {
			return cause
		}
		return explainGuest(err)
	}
	return client.SendExit(status)
}

// explainGuest says that a step's guest is gone, where that is why it failed.
func explainGuest(err error) error {
	var closed *wire.ClosedError
	if errors.As(err, &closed) {
		return fmt.Errorf("cannot go on with the step: the guest ended or was ended: %w", closed.Err)
	}
	return err
}

// run starts a guest of the base tree for one command, and ends it with the
// command.
func (s *Server) run(ctx context.Context, client *caller, r brokerapi.RunRequest) error {
	env := mergeEnv(map[string]string{"HOME": "/root", "LANG": "C.UTF-8"}, r.Env)
	spec := containerSpec{Container: brokerapi.Container{Env: env, Dir: r.Dir}, root: s.baseRoot()}
	return s.runIn(ctx, client, spec, r.Argv, nil)
}

// runContainer runs a container's own process in a guest of its own.
func (s *Server) runContainer(ctx context.Context, client *caller, r brokerapi.ContainerRequest) error {
	spec, err := newContainerSpec("", r.Container)
	if err != nil {
		return err
	}
	root, err := s.findOrBuildRoot(ctx, client, r)
	if err != nil {
		return err
	}
	defer root.release()

	spec.root, spec.makeDir = root, true
	argv := spec.argv()
	if len(argv) == 0 {
		return fmt.Errorf("cannot run container: image %q names no command, and the step gives none", r.Image)
	}
	s.mu.Lock()
	j := s.job
	s.mu.Unlock()
	if j == nil || j.id != r.Job {
		j = nil
	}
	return s.runIn(ctx, client, spec, argv, j)
}

// runIn runs one process in a guest of its own. The client hears of the end when
// nothing is left.
func (s *Server) runIn(ctx context.Context, client *caller, spec containerSpec, argv []string, j *job) error {
	var status int
	err := s.withGuest(ctx, spec, j, func(c *container, _ string) (err error) {
		status, err = c.guest.Exec(ctx, c.process(argv, c.env, c.dir), client.streams())
		return err
	})
	if err != nil {
		return explainGuest(err)
	}
	return client.SendExit(status)
}

// withGuest starts a guest, in the network of a job if there is one, lets do use
// it and the directory of its named volumes, and ends it.
func (s *Server) withGuest(ctx context.Context, spec containerSpec, j *job, do func(c *container, volumes string) error) (err error) {
	if j == nil {
		j = &job{id: newID(), stopWatch: func() {}}
		if j.network, err = s.parts.Networks.NewNetwork(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stopJob(j)) }()
	}
	net := j.network
	spec.hosts, spec.volumes = j.hosts, s.volumes(j)
	if spec.address, err = net.Reserve(); err != nil {
		return err
	}
	c, err := s.launch(ctx, spec, net)
	if err != nil {
		return errors.Join(err, net.Leave(spec.address))
	}
	err = do(c, spec.volumes)
	return errors.Join(err, c.stop(), net.Leave(spec.address), s.restoreOwnership())
}
