package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/tail"
)

// service is a container whose own process runs beside the steps of a job.
type service struct {
	*container
	output  tail.Buffer
	started chan struct{}   // closed when its process runs
	ended   context.Context // ends with its process; the cause is an exitError or why it could not be run
	end     context.CancelCauseFunc
}

// exitError is the end of a service's process.
type exitError struct{ status int }

func (e exitError) Error() string { return fmt.Sprintf("it ended with status %d", e.status) }

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

	s := &service{container: m.container, output: tail.Buffer{Limit: outputLimit}, started: make(chan struct{})}
	s.ended, s.end = context.WithCancelCause(context.Background())
	if len(argv) > 0 {
		go s.run(argv, func(status int) { j.log.Info("service ended", "job", j.id, "image", m.spec.Image, "status", status) })
	} else {
		close(s.started) // the guest's own init system runs
	}

	if err := s.await(ctx, m, report); err != nil {
		return fmt.Errorf("cannot start service %s: %w%s", m.spec.Image, err, s.lastWords())
	}
	m.service = s
	return nil
}

// startOwn starts the job's own container, and waits until it can be used if the
// workflow says how to find out.
func (j *job) startOwn(ctx context.Context, m *member, report reporter) error {
	if err := j.launch(ctx, m); err != nil {
		return err
	}
	check := m.health()
	if len(check.argv) == 0 {
		return nil
	}

	ended, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		select {
		case <-m.container.guest.Exited():
			end(errGuestEnded)
		case <-ended.Done():
		}
	}()
	if err := m.container.awaitHealth(ctx, ended, check, "the job's container", report); err != nil {
		return fmt.Errorf("cannot start the job's container: %w", err)
	}
	return nil
}

// errGuestEnded is the cause that ends a service with its guest.
var errGuestEnded = errors.New("its guest ended")

// run runs the service's process, which ends with its guest.
func (s *service) run(argv []string, exited func(status int)) {
	status, err := s.exec(context.Background(), argv, wire.Streams{
		Stdout: &s.output, Stderr: &s.output, Started: s.started,
	})

	var closed *wire.ClosedError
	switch {
	case errors.As(err, &closed):
		s.end(errGuestEnded)
	case err != nil:
		s.end(err)
	default:
		exited(status)
		s.end(exitError{status})
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

// settleTime is how long a service without a health check is waited for once its process
// runs: many programs refuse a wrong command line within that.
const settleTime = 20 * time.Millisecond

// await waits until a service can be used.
func (s *service) await(ctx context.Context, m *member, report reporter) error {
	if check := m.health(); len(check.argv) > 0 {
		return s.awaitHealth(ctx, s.ended, check, "service "+m.spec.Image, report)
	}

	select {
	case <-s.started:
	case <-s.ended.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-s.ended.Done():
		if cause := context.Cause(s.ended); !errors.As(cause, new(exitError)) {
			return cause
		}
		return nil // see reportEnd
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settleTime):
		return nil
	}
}

// reportEnd reports a service that has ended before the job's steps begin. As with
// Docker, the job goes on: some services do their work once. One that fails is a
// warning of the job.
func (s *service) reportEnd(image string, report reporter) {
	var exit exitError
	if !errors.As(context.Cause(s.ended), &exit) {
		return
	}
	text := fmt.Sprintf("service %s does not run any more: %v%s", image, exit, s.lastWords())
	if exit.status == 0 {
		report("%s", text)
	} else {
		report("::warning::%s", escapeData(text))
	}
}

// escapeData writes a message so that a workflow command holds it in one line
// (ActionCommand.cs, EscapeData).
func escapeData(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}
