// Package run runs external tools. It is the only place in this
// repository that starts a process for its result, so that tests can put a
// runtest.Fake in its place and assert the exact argument vector.
package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Cmd describes one run of an external tool.
type Cmd struct {
	// Args is the argument vector; Args[0] is looked up in PATH.
	Args []string
	// Dir is the working directory; empty means the caller's.
	Dir string
	// Env is the whole environment. Nil means the caller's own, as in os/exec.
	Env []string
	// Stdin is the tool's standard input; nil means /dev/null.
	Stdin io.Reader
	// Stdout receives standard output; nil discards it (Output captures it).
	Stdout io.Writer
	// Stderr receives standard error as it is written. Its end is also kept
	// for the error message, whether Stderr is set or not.
	Stderr io.Writer
	// SysProcAttr sets namespaces, credentials or cgroup; nil for none.
	SysProcAttr *syscall.SysProcAttr
}

// Executor runs tools. Local is the real one; tests use runtest.Fake.
type Executor interface {
	// Exec runs c to its end. A tool that exits non-zero gives an *ExitError.
	Exec(ctx context.Context, c Cmd) error
}

// ExitError says that a tool ran and failed.
type ExitError struct {
	Tool   string // base of Args[0]
	Status int    // exit status, or 128 + signal number
	Stderr string // the last lines the tool wrote to standard error
}

func (e *ExitError) Error() string {
	msg := fmt.Sprintf("%s failed with status %d", e.Tool, e.Status)
	if e.Stderr != "" {
		msg += ": " + e.Stderr
	}
	return msg
}

// Output runs c and returns what it wrote to standard output.
func Output(ctx context.Context, r Executor, c Cmd) ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	err := r.Exec(ctx, c)
	return out.Bytes(), err
}

// Local runs tools on this machine.
type Local struct{}

// killDelay is how long a cancelled tool may take to clean up after SIGTERM.
const killDelay = 10 * time.Second

// Exec implements Executor. When ctx ends, the tool gets SIGTERM, and SIGKILL ten
// seconds later.
func (Local) Exec(ctx context.Context, c Cmd) error {
	if len(c.Args) == 0 {
		return errors.New("cannot run command: empty argument vector")
	}
	tail := &tailWriter{limit: 2048}
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout = c.Dir, c.Env, c.Stdin, c.Stdout
	cmd.Stderr = tail
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(c.Stderr, tail)
	}
	cmd.SysProcAttr = c.SysProcAttr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	err := cmd.Run()
	if ctxErr := ctx.Err(); ctxErr != nil && err != nil {
		return fmt.Errorf("cannot finish %s: %w", toolName(c.Args[0]), context.Cause(ctx))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &ExitError{Tool: toolName(c.Args[0]), Status: ExitStatus(exit.ProcessState), Stderr: tail.lastLines(8)}
	}
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", toolName(c.Args[0]), err)
	}
	return nil
}

// ExitStatus gives the status of an ended process as a shell would: the exit
// status itself, or 128 plus the number of the signal that ended it.
func ExitStatus(p *os.ProcessState) int {
	if ws, ok := p.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.ExitCode()
}

func toolName(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// tailWriter keeps the last limit bytes written to it.
type tailWriter struct {
	buf   []byte
	limit int
}

func (t *tailWriter) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tailWriter) lastLines(n int) string {
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	return strings.TrimSpace(strings.Join(lines[max(0, len(lines)-n):], "\n"))
}
