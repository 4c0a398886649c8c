package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// service is a container that runs beside the job's own.
type service struct {
	*container
	output *output
	exited chan struct{} // closed when its process has ended
}

// startService starts a service and waits until it is healthy.
func (s *Server) startService(ctx context.Context, spec containerSpec, net Network, report progress) (*service, error) {
	spec.makeDir = true
	argv := spec.argv()
	if len(argv) == 0 && !spec.root.hasInit {
		return nil, fmt.Errorf("cannot start service %s: its image names no command", spec.Image)
	}
	c, err := s.launch(ctx, spec, net)
	if err != nil {
		return nil, fmt.Errorf("cannot start service %s: %w", spec.Image, err)
	}
	sv := &service{container: c, output: &output{}, exited: make(chan struct{})}
	if len(argv) > 0 {
		sv.spawn(argv)
	}
	if err := sv.awaitHealth(ctx, health(spec), report, spec.Image); err != nil {
		err = fmt.Errorf("cannot start service %s: %w%s", spec.Image, err, sv.output.lastWords())
		return nil, errors.Join(err, c.stop())
	}
	return sv, nil
}

// spawn starts the service's process, which ends with its guest.
func (sv *service) spawn(argv []string) {
	go func() {
		defer close(sv.exited)
		streams := wire.Streams{Stdout: &sv.output.tail, Stderr: &sv.output.tail}
		status, err := sv.guest.Exec(context.Background(), sv.process(argv, sv.env, sv.dir), streams)
		var closed *wire.ClosedError
		switch {
		case errors.As(err, &closed): // the guest ended, and all in it
		case err != nil:
			sv.output.end(err)
		default:
			sv.output.end(fmt.Errorf("it ended with status %d", status))
		}
	}()
}

// health is what the workflow says of a service's health, or else its image.
func health(spec containerSpec) dockeropts.Health {
	h := spec.options.Health
	if h.Disabled {
		return dockeropts.Health{}
	}
	if h.Cmd == "" {
		h.Cmd = spec.root.config.Health
	}
	return h
}

// Defaults of docker-run(1).
const (
	healthInterval = 30 * time.Second
	healthTimeout  = 30 * time.Second
	healthRetries  = 3
)

// settleTime is how long a service without a health command has to stay up: a
// wrong command line shows at once.
const settleTime = 20 * time.Millisecond

// awaitHealth waits until a service is healthy. It is asked sooner and more
// often than Docker does, since a job waits; it has as long as there.
func (sv *service) awaitHealth(ctx context.Context, h dockeropts.Health, report progress, name string) error {
	if h.Cmd == "" {
		select {
		case <-sv.exited:
			return sv.output.cause()
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settleTime):
			return nil
		}
	}
	limit := h.StartPeriod + time.Duration(cmp.Or(h.Retries, healthRetries))*cmp.Or(h.Interval, healthInterval)
	begin := time.Now()
	report("waiting for service %s to be healthy, at most %v", name, limit)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		status, output, err := sv.check(ctx, h)
		switch {
		case err == nil && status == 0:
			report("service %s is healthy after %v", name, time.Since(begin).Round(10*time.Millisecond))
			return nil
		case time.Since(begin) > limit:
			return fmt.Errorf("it was not healthy after %v: %q ended with status %d: %s", limit, h.Cmd, status, output)
		}
		select {
		case <-sv.exited:
			return sv.output.cause()
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// check runs the health command once.
func (sv *service) check(ctx context.Context, h dockeropts.Health) (status int, output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(h.Timeout, healthTimeout))
	defer cancel()

	var out tail
	status, err = sv.guest.Exec(ctx, sv.process([]string{"/bin/sh", "-c", h.Cmd}, sv.env, sv.dir),
		wire.Streams{Stdout: &out, Stderr: &out})
	var failure *wire.Error
	switch {
	case errors.As(err, &failure):
		return -1, failure.Message, err
	case err != nil:
		return -1, "it did not answer in time", err
	}
	return status, strings.TrimSpace(out.String()), nil
}

// output keeps the end of what a service prints, and how it ended.
type output struct {
	tail

	mu  sync.Mutex
	err error
}

func (o *output) end(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

func (o *output) cause() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return errors.New("its guest ended")
	}
	return o.err
}

// lastWords returns the last lines, if there are any, behind an error.
func (o *output) lastWords() string {
	text := strings.TrimSpace(o.String())
	if text == "" {
		return ""
	}
	return "; its last output:\n" + text
}

// tailLimit is enough for the last words of a service, in bytes.
const tailLimit = 4096

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-tailLimit):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
