package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Self is the path by which a program starts itself again. The kernel resolves
// it, so it works where the process may not search the program's directory.
const Self = "/proc/self/exe"

// LookPath returns the path of a tool, as exec.LookPath does.
func LookPath(tool string) (string, error) { return exec.LookPath(tool) }

// Process is a program that Start has started.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// Start starts c and returns while it runs. When ctx ends, the program is
// stopped as Cmd.Kill and Cmd.WaitDelay say. The caller need not call Wait: the
// program is reaped in any case. An error is that of os/exec, which names the
// program.
func Start(ctx context.Context, c Cmd) (*Process, error) {
	if len(c.Args) == 0 {
		return nil, errors.New("empty argument vector")
	}
	p := &Process{cmd: c.command(ctx), done: make(chan struct{})}

	started := make(chan error)
	go func() {
		if c.KillWithParent {
			// The kernel sends the signal when the thread ends that started the
			// child, so that thread has to wait for the child.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
		}
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = c.explain(ctx, p.cmd.Wait())
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Done returns a channel that is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the program. A program that exited non-zero or by a
// signal returns an *ExitError, without what it wrote to standard error.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Status waits for the end of the program and returns its status as ExitStatus
// does.
func (p *Process) Status() int {
	<-p.done
	return ExitStatus(p.cmd.ProcessState)
}

// Pid returns the id of the process. It names the program for certain only
// before Done is closed.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the program. It returns nil if the program has ended.
func (p *Process) Signal(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// defaultWaitDelay is how long a stopped tool may take to clean up.
const defaultWaitDelay = 10 * time.Second

// command returns c for os/exec.
func (c Cmd) command(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = c.Dir, c.Env, c.ExtraFiles
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr

	if !c.Kill {
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	}
	switch {
	case c.WaitDelay == 0:
		cmd.WaitDelay = defaultWaitDelay
	case c.WaitDelay > 0:
		cmd.WaitDelay = c.WaitDelay
	}

	attributes := syscall.SysProcAttr{}
	if c.SysProcAttr != nil {
		attributes = *c.SysProcAttr
	}
	if c.KillWithParent {
		attributes.Pdeathsig = syscall.SIGKILL
	}
	cmd.SysProcAttr = &attributes
	return cmd
}

// explain turns what os/exec returns into what this package promises.
func (c Cmd) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("cannot finish %s: %w", toolName(c.Args[0]), context.Cause(ctx))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &ExitError{Tool: toolName(c.Args[0]), Status: ExitStatus(exit.ProcessState)}
	}
	return fmt.Errorf("cannot run %s: %w", toolName(c.Args[0]), err)
}
