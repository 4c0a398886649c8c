// Package relay stands in the place of the actions runner's worker,
// bin/Runner.Worker, and has the broker start the real one in a guest. It
// passes on what the listener sends through its pipe, the worker's output,
// signals and exit status, none of it changed, and reads the job message as it
// passes.
//
// What listener and worker expect of each other is in JobDispatcher.cs,
// ProcessChannel.cs and ProcessInvoker.cs of actions/runner 2.336.0.
package relay

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/jobmessage"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// Program is the name that the listener starts the worker by, and Real that of
// the real worker beside it.
const (
	Program = "Runner.Worker"
	Real    = layout.RealWorker
)

// ErrListenerGone is why a job ends whose listener does not live any more. The
// real worker would not notice.
var ErrListenerGone = errors.New("the listener ended")

// Broker starts workers.
type Broker interface {
	Worker(ctx context.Context, r brokerapi.WorkerRequest, job <-chan brokerapi.JobInfo, s wire.Streams) (int, error)
}

// Relay is one worker, as its listener sees it.
type Relay struct {
	Broker  Broker
	Environ []string // KEY=VALUE, of the listener

	Input          io.Reader // from the listener; its end is the listener's
	Stdout, Stderr io.Writer
	Signals        <-chan os.Signal // for the worker
}

// Run runs the worker and returns its exit status. It returns ErrListenerGone
// at the end of the input, when the guest is being ended.
func (r *Relay) Run(ctx context.Context) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	input, job := newSpool(), make(chan brokerapi.JobInfo, 1)
	defer input.Close()
	go func() {
		r.receive(input, job)
		cancel(ErrListenerGone)
	}()

	request := brokerapi.WorkerRequest{Env: environment(r.Environ)}
	status, err := r.Broker.Worker(ctx, request, job, wire.Streams{
		Stdin: input, Stdout: r.Stdout, Stderr: r.Stderr, Signals: r.Signals,
	})
	if err != nil && ctx.Err() != nil {
		return 0, context.Cause(ctx) // whatever broke of it first
	}
	return status, err
}

// receive passes the listener's bytes on until their end, and describes the job
// as soon as its message is read.
func (r *Relay) receive(input *spool, job chan<- brokerapi.JobInfo) {
	message, copied := io.Pipe()
	defer copied.Close()
	go func() {
		// A message that is not understood costs an early start, not the job.
		if info, err := jobmessage.Read(message); err == nil {
			job <- info
		}
		_ = message.Close() // the rest is the worker's alone
	}()

	buf := make([]byte, wire.MaxData)
	for {
		n, err := r.Input.Read(buf)
		if n > 0 {
			if _, err := input.Write(buf[:n]); err != nil {
				return
			}
			_, _ = copied.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// environment returns environ as a map.
func environment(environ []string) map[string]string {
	env := map[string]string{}
	for _, entry := range environ {
		if key, value, ok := strings.Cut(entry, "="); ok {
			env[key] = value
		}
	}
	return env
}
