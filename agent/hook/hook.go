// Package hook speaks the container hook protocol of the actions runner: one
// JSON object on standard input, an answer in the response file, the step's
// own output and exit status. It knows nothing of guests; it only translates
// what the runner asks into requests to the broker.
//
// The protocol is docs/adrs/0000-container-hooks.md of
// actions/runner-container-hooks, as ContainerHookManager.cs of actions/runner
// 2.336.0 really speaks it.
package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/shellwords"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// Exit statuses of the hook. That of a step which ran is the step's own.
const (
	StatusFailed      = 1   // the guest could not be prepared or removed
	StatusPayload     = 2   // the payload could not be read
	StatusUnsupported = 3   // the workflow asks for what is not supported
	StatusNotStarted  = 125 // the step could not be run, as in docker-run(1)
)

// cleanupTimeout keeps a broker that hangs from holding up the end of a job.
const cleanupTimeout = time.Minute

// Broker is what the hook needs of the owner of the guests.
type Broker interface {
	// Prepare reports what takes long to progress.
	Prepare(ctx context.Context, r brokerapi.PrepareRequest, progress io.Writer) (*brokerapi.PrepareReply, error)
	// Exec returns the status of the process, or an error if there is none.
	Exec(ctx context.Context, r brokerapi.ExecRequest, s wire.Streams) (status int, err error)
	// Container runs a container to its end and returns the status of its
	// process, or an error if there is none.
	Container(ctx context.Context, r brokerapi.ContainerRequest, s wire.Streams) (status int, err error)
	// Cleanup ends the guests of a job. An unknown job is not an error.
	Cleanup(ctx context.Context, job string) error
}

// Hook answers one call of the runner.
type Hook struct {
	Broker         Broker
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Workspace is the directory the runner starts the hook in, its job's.
	Workspace string
	// Signals are passed on to a running step.
	Signals <-chan os.Signal
}

// Run reads the payload, does what it asks and returns the exit status. An
// error is also written to Stdout as a workflow command, because the runner
// itself shows users no more than that a hook failed.
func (h *Hook) Run(ctx context.Context) (status int, err error) {
	status, err = h.run(ctx)
	if err != nil {
		fmt.Fprintf(h.Stdout, "::error::%s\n", escapeData(err.Error()))
	}
	return status, err
}

func (h *Hook) run(ctx context.Context) (int, error) {
	p, err := Read(h.Stdin)
	if err != nil {
		return StatusPayload, err
	}

	status, failed := 0, StatusFailed
	switch {
	case p.Prepare != nil:
		err = h.prepare(ctx, p)
	case p.Step != nil:
		status, err = h.step(ctx, p)
		failed = StatusNotStarted
	case p.Container != nil:
		status, err = h.containerStep(ctx, p)
		failed = StatusNotStarted
	default:
		err = h.cleanup(ctx, p.Job)
	}

	switch {
	case err == nil:
		return status, nil
	case wire.CodeOf(err) == wire.CodeUnsupported: // found here or by the broker
		return StatusUnsupported, err
	}
	return failed, err
}

// step runs one step in the job's guest. The context ends with the first
// signal, which is the step's to answer, so the call does not hang on it: the
// runner kills a hook that takes too long, and the broker then its process.
func (h *Hook) step(ctx context.Context, p *Payload) (int, error) {
	if p.Job == "" {
		return 0, errors.New(
			`cannot run step: no container was prepared for this job; see the log of "Initialize containers"`,
		)
	}
	argv, err := p.Step.argv()
	if err != nil {
		return 0, fmt.Errorf("cannot run step%s: %w", p.Step.name(), err)
	}

	out := &lineWriter{to: h.Stdout}
	status, err := h.Broker.Exec(context.WithoutCancel(ctx), brokerapi.ExecRequest{
		Job: p.Job, Argv: argv, Env: p.Step.Env, PrependPath: p.Step.PrependPath, Dir: p.Step.Dir,
	}, wire.Streams{Stdout: out, Stderr: h.Stderr, Signals: h.Signals})
	if err != nil {
		return 0, fmt.Errorf("cannot run step%s: %w", p.Step.name(), err)
	}
	out.explain(path.Base(argv[0]), status)
	return status, nil
}

// lineWriter passes output on and knows whether it ended with a line.
type lineWriter struct {
	to      io.Writer
	partial bool
}

func (w *lineWriter) Write(p []byte) (int, error) {
	if len(p) > 0 {
		w.partial = p[len(p)-1] != '\n'
	}
	return w.to.Write(p)
}

// explain says which signal has ended a step, where the runner knows its status only.
// A plain status it reports itself, as it does a cancelled step.
func (w *lineWriter) explain(program string, status int) {
	signal := syscall.Signal(status - 128)
	if signal <= 0 || signal > 64 || signal == syscall.SIGINT || signal == syscall.SIGTERM {
		return
	}
	if w.partial {
		fmt.Fprintln(w.to)
	}
	fmt.Fprintf(w.to, "::error::%s was ended by signal %d (%v)\n", escapeData(program), signal, signal)
}

// cleanup is not given up when the job is cancelled: it is then that it is
// needed.
func (h *Hook) cleanup(ctx context.Context, job string) error {
	if job == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := h.Broker.Cleanup(ctx, job); err != nil {
		return fmt.Errorf("cannot clean up job: %w", err)
	}
	return nil
}

// argv undoes what the runner did: it splits a command line at spaces without
// regard to quotes, so the parts have to be joined before they are split as a
// shell would.
func (s *Step) argv() ([]string, error) {
	argv, err := shellwords.Split(strings.Join(append([]string{s.EntryPoint}, s.Args...), " "))
	if err == nil && (len(argv) == 0 || argv[0] == "") {
		err = errors.New("the command line is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("%w; check the step's shell", err)
	}
	return argv, nil
}

// name is what the runner calls the step, after a space, or nothing.
func (s *Step) name() string { return stepName(s.Env) }

func stepName(env map[string]string) string {
	if id := env["GITHUB_ACTION"]; id != "" {
		return fmt.Sprintf(" %.80q", id)
	}
	return ""
}

// escapeData writes a message so that a workflow command holds it in one line
// (ActionCommand.cs, EscapeData).
func escapeData(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}
