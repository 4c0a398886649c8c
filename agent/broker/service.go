package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/tail"
)

// service is a container whose own process runs beside the steps of a job.
type service struct {
	*container
	output  tail.Buffer
	started chan struct{} // closed when its process runs
	exited  chan struct{} // closed when its process has ended
	err     error         // why it ended, once exited is closed
}

// outputLimit is enough for the last words of a service, in bytes.
const outputLimit = 4096

// startService starts a service and waits until it can be used.
func (j *job) startService(ctx context.Context, m *member, report reporter) error {
	argv := m.argv()
	if len(argv) == 0 && !m.root.hasInit {
		return fmt.Errorf("cannot start service %s: its image names no command", m.spec.Image)
	}
	if err := j.launch(ctx, m); err != nil {
		return fmt.Errorf("cannot start service %s: %w", m.spec.Image, err)
	}

	s := &service{
		container: m.container, output: tail.Buffer{Limit: outputLimit},
		started: make(chan struct{}), exited: make(chan struct{}),
	}
	if len(argv) > 0 {
		go s.run(argv)
	} else {
		close(s.started) // the guest's own init system runs
	}
	if err := s.awaitHealth(ctx, m.health(), m.spec.Image, report); err != nil {
		return fmt.Errorf("cannot start service %s: %w%s", m.spec.Image, err, s.lastWords())
	}
	return nil
}

// run runs the service's process, which ends with its guest.
func (s *service) run(argv []string) {
	defer close(s.exited)
	status, err := s.exec(context.Background(), argv, wire.Streams{
		Stdout: &s.output, Stderr: &s.output, Started: s.started,
	})

	var closed *wire.ClosedError
	switch {
	case errors.As(err, &closed):
		s.err = errors.New("its guest ended")
	case err != nil:
		s.err = err
	default:
		s.err = fmt.Errorf("it ended with status %d", status)
	}
}

// lastWords returns the end of what the service printed, to stand behind an
// error; empty if it printed nothing.
func (s *service) lastWords() string {
	text := s.output.String()
	if text == "" {
		return ""
	}
	return "; its last output:\n" + text
}

// Defaults of docker-run(1).
const (
	healthInterval = 30 * time.Second
	healthTimeout  = 30 * time.Second
	healthRetries  = 3
)

// settleTime is how long a service without a health command has to stay up once its
// process runs: many programs refuse a wrong command line within that.
const settleTime = 20 * time.Millisecond

// awaitHealth waits until a service can be used. It is asked sooner and more
// often than Docker does, since a job waits; it has as long as there.
func (s *service) awaitHealth(ctx context.Context, h dockeropts.Health, name string, report reporter) error {
	if h.Cmd == "" {
		select {
		case <-s.started:
			return s.stayUp(ctx, settleTime)
		case <-s.exited:
			return s.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}

	limit := h.StartPeriod + time.Duration(cmp.Or(h.Retries, healthRetries))*cmp.Or(h.Interval, healthInterval)
	begin := time.Now()
	report("waiting for service %s to be healthy, at most %v", name, limit)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		status, output, err := s.checkHealth(ctx, h)
		switch {
		case err == nil && status == 0:
			report("service %s is healthy after %v", name, time.Since(begin).Round(10*time.Millisecond))
			return nil
		case time.Since(begin) > limit:
			return fmt.Errorf("it was not healthy after %v: %q ended with status %d: %s", limit, h.Cmd, status, output)
		}
		if err := s.stayUp(ctx, wait); err != nil {
			return err
		}
	}
}

// stayUp waits, and returns an error if the service's process ends before.
func (s *service) stayUp(ctx context.Context, d time.Duration) error {
	select {
	case <-s.exited:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// checkHealth runs the health command once. With an error, the status is -1 and
// output says why.
func (s *service) checkHealth(ctx context.Context, h dockeropts.Health) (status int, output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(h.Timeout, healthTimeout))
	defer cancel()

	out := tail.Buffer{Limit: outputLimit}
	status, err = s.exec(ctx, []string{"/bin/sh", "-c", h.Cmd}, wire.Streams{Stdout: &out, Stderr: &out})
	var failure *wire.Error
	switch {
	case errors.As(err, &failure):
		return -1, failure.Message, err
	case err != nil:
		return -1, "it did not answer in time", err
	}
	return status, out.String(), nil
}
