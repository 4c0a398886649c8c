// Package run starts the programs that the product needs from the system, and
// is the only package of it that imports os/exec.
//
// A tool that runs for its result goes through an Executor, so that a test can
// put a runtest.Fake in its place and assert the exact argument vector: the
// tools of the build (mmdebstrap, mkfs.erofs, veritysetup, ukify, ...), and nft
// and the actions runner's config.sh in the agent. Programs that live longer go
// through Start: the listener, systemd-nspawn, QEMU and helpers of the broker.
//
// Two starts of processes lie outside. The guest agent starts a job's processes
// by os.StartProcess, since it resolves programs in the guest and hands its own
// descriptors on; and programs that replace themselves call execve(2).
package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/internal/tail"
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
	// ExtraFiles are open in the tool as descriptors 3, 4 and so on.
	ExtraFiles []*os.File
	// SysProcAttr sets namespaces, credentials or cgroup; nil for none.
	SysProcAttr *syscall.SysProcAttr
	// KillWithParent has the kernel kill the tool when the calling program
	// ends, however it ends (PR_SET_PDEATHSIG, prctl(2)).
	KillWithParent bool
	// Kill ends the tool by SIGKILL instead of SIGTERM when the context ends.
	Kill bool
	// WaitDelay bounds two waits: for the end of the tool once the context has
	// ended, after which it is killed, and for the end of its output once it
	// has ended itself, since processes that it left behind may hold that open.
	// Zero means 10 seconds, less than zero no bound.
	WaitDelay time.Duration
}

// Executor runs tools. Local is the real one; tests use runtest.Fake.
type Executor interface {
	// Exec runs c to its end. A tool that exits non-zero or by a signal
	// returns an *ExitError.
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

// Exec implements Executor. When ctx ends, the tool gets SIGTERM, and SIGKILL ten
// seconds later, unless c says otherwise.
func (Local) Exec(ctx context.Context, c Cmd) error {
	last := &tail.Buffer{Limit: 2048}
	if c.Stderr != nil {
		c.Stderr = io.MultiWriter(c.Stderr, last)
	} else {
		c.Stderr = last
	}
	if len(c.Args) == 0 {
		return errors.New("cannot run command: empty argument vector")
	}
	p, err := Start(ctx, c)
	if err != nil {
		return c.explain(ctx, err)
	}

	err = p.Wait()
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Stderr = last.LastLines(8)
	}
	return err
}

// ExitStatus returns the status of an ended process as a shell would: the exit
// status itself, or 128 plus the number of the signal that ended it.
func ExitStatus(p *os.ProcessState) int {
	if ws, ok := p.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.ExitCode()
}

func toolName(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }
