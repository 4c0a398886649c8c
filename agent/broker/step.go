package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guestinit"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// caller is a client that follows a process. Its signals wait here until there
// is one, since a guest may have to be started first.
type caller struct {
	*wire.Conn
	signals chan []byte
}

// maxSignals is more than anybody sends before a process takes one.
const maxSignals = 16

// newCaller begins to read the client's signals. When it hangs up, cancel is
// called.
func newCaller(client *wire.Conn, cancel context.CancelFunc) *caller {
	c := &caller{Conn: client, signals: make(chan []byte, maxSignals)}
	go func() {
		defer cancel()
		for {
			kind, payload, err := client.Receive()
			if err != nil || kind != wire.Signal {
				return
			}
			select {
			case c.signals <- payload:
			default: // it does not listen to the ones before
			}
		}
	}()
	return c
}

// frame is one message of a conversation.
type frame struct {
	kind    wire.Kind
	payload []byte
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
	end, err := c.exec(ctx, client, c.process(r.Argv, env, r.Dir))
	if err != nil {
		if why := j.ended(); why != nil {
			return why
		}
		return err
	}
	return client.Send(end.kind, end.payload)
}

// exec runs a process and carries its conversation.
// The guest is not trusted: only frames that a process may cause pass. When ctx
// ends, so does the connection to the agent, which ends the process's whole
// tree. The last frame is not passed on but given to the caller.
func (c *container) exec(ctx context.Context, client *caller, request guestinit.Exec) (end frame, err error) {
	conn, err := c.guest.Dial()
	if err != nil {
		return end, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	agent := wire.NewConn(conn, wire.MaxData)
	if err := agent.SendJSON(wire.Request, guestinit.Request{Exec: &request}); err != nil {
		return end, err
	}
	ended := make(chan struct{})
	var signals sync.WaitGroup
	signals.Go(func() {
		for {
			select {
			case payload := <-client.signals:
				_ = agent.Send(wire.Signal, payload) // reading fails as well
			case <-ended:
				return
			}
		}
	})
	defer signals.Wait()
	defer close(ended)
	return passOutput(agent, client.Conn)
}

// passOutput gives the client what the process writes until it ends.
func passOutput(agent, client *wire.Conn) (end frame, err error) {
	for {
		kind, payload, err := agent.Receive()
		if err != nil {
			return end, fmt.Errorf("cannot go on with the step: the guest ended or was ended: %w", err)
		}
		switch kind {
		case wire.Stdout, wire.Stderr:
			if err := client.Send(kind, payload); err != nil {
				return end, err
			}
		case wire.Failure, wire.Exit:
			return frame{kind, payload}, nil
		default:
			return end, fmt.Errorf("cannot understand the guest: unexpected frame %q", kind)
		}
	}
}

// run starts a guest of the base tree for one command, and ends it with the
// command.
func (s *Server) run(ctx context.Context, client *caller, r brokerapi.RunRequest) error {
	env := mergeEnv(map[string]string{"HOME": "/root", "LANG": "C.UTF-8"}, r.Env)
	return s.runIn(ctx, client, containerSpec{Container: brokerapi.Container{Env: env, Dir: r.Dir}, image: s.baseImage()}, r.Argv, nil)
}

// runContainer runs a container's own process in a guest of its own.
func (s *Server) runContainer(ctx context.Context, client *caller, r brokerapi.ContainerRequest) error {
	image, err := s.imageOf(ctx, client, r)
	if err != nil {
		return err
	}
	defer image.release()
	spec := containerSpec{Container: r.Container, image: image, makeDir: true}
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
	var end frame
	err := s.withGuest(ctx, spec, j, func(c *container, _ string) (err error) {
		end, err = c.exec(ctx, client, c.process(argv, c.env, c.dir))
		return err
	})
	if err != nil {
		return err
	}
	return client.Send(end.kind, end.payload)
}

// withGuest starts a guest, in the network of a job if there is one, lets do use
// it and the directory of its named volumes, and ends it.
func (s *Server) withGuest(ctx context.Context, spec containerSpec, j *job, do func(c *container, volumes string) error) (err error) {
	if j == nil {
		j = &job{id: newID(), stopWatch: func() {}}
		if j.network, err = s.network.NewNetwork(); err != nil {
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
