package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Peer is the end of a connection that answers.
type Peer struct {
	Name string // for errors: "the broker"
	// MaxFrame is the largest payload it may send, in bytes.
	MaxFrame int
}

// Streams connects a process at the other end with its caller.
type Streams struct {
	Stdin          io.Reader        // sent to the process, as fast as it reads; nil for none
	Stdout, Stderr io.Writer        // nil discards
	Signals        <-chan os.Signal // sent to the process; nil for none
	Job            <-chan any       // the first is sent as a Job frame; nil for none
	Started        chan<- struct{}  // closed when the guest reports that the process runs; nil for none
}

// ClosedError says that the peer hung up before it answered.
type ClosedError struct {
	Peer string
	Err  error // what reading the connection returned
}

func (e *ClosedError) Error() string { return fmt.Sprintf("%s ended: %v", e.Peer, e.Err) }

func (e *ClosedError) Unwrap() error { return e.Err }

// Exec asks for a process and carries the conversation about it to its end: its
// output to s, input and signals to it. It returns the exit status that the
// peer reported. A read of s.Stdin may still be under way then; one that fails
// ends the input as io.EOF does.
//
// Exec closes conn when it returns or ctx ends; a peer ends the process then,
// and the error is the context's cause. An answer that cannot be had is a
// *ClosedError, one that says why an *Error.
func (p Peer) Exec(ctx context.Context, conn io.ReadWriteCloser, request any, s Streams) (status int, err error) {
	c, done, err := p.open(ctx, conn, request)
	if err != nil {
		return 0, err
	}
	defer done()

	ended := make(chan struct{})
	defer close(ended)
	go c.forward(s.Signals, ended)
	go c.sendJob(s.Job, ended)
	var in *outlet // nil if there is no input
	if s.Stdin != nil {
		in = newOutlet(c, ended)
		go in.copy(s.Stdin)
	}

	for {
		kind, payload, err := p.receive(ctx, c)
		switch {
		case err != nil:
			return 0, err
		case kind == Window && in != nil:
			err = in.grant(payload)
		case kind == Started && len(payload) == 0:
			if s.Started != nil {
				close(s.Started)
				s.Started = nil // a hostile peer may repeat itself
			}
		case kind == Stdout:
			err = write(s.Stdout, payload)
		case kind == Stderr:
			err = write(s.Stderr, payload)
		case kind == Exit && len(payload) == 1:
			return int(payload[0]), nil
		default:
			return 0, p.unexpected(kind)
		}
		if err != nil {
			return 0, err
		}
	}
}

// Call asks for something that has no process and reads the answer into reply,
// unless that is nil. Until it comes, the peer may report progress, which is
// written to progress; nil discards it. See Exec for the context and errors.
func (p Peer) Call(ctx context.Context, conn io.ReadWriteCloser, request, reply any, progress io.Writer) error {
	c, done, err := p.open(ctx, conn, request)
	if err != nil {
		return err
	}
	defer done()

	for {
		kind, payload, err := p.receive(ctx, c)
		switch {
		case err != nil:
			return err
		case kind == Reply && reply == nil:
			return nil
		case kind == Reply:
			if err := json.Unmarshal(payload, reply); err != nil {
				return fmt.Errorf("cannot understand %s: %w", p.Name, err)
			}
			return nil
		case kind != Stdout:
			return p.unexpected(kind)
		}
		if err := write(progress, payload); err != nil {
			return err
		}
	}
}

// open sends the request. The connection closes with done or with ctx.
func (p Peer) open(ctx context.Context, conn io.ReadWriteCloser, request any) (c *Conn, done func(), err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	done = func() {
		stop()
		_ = conn.Close()
	}

	c = NewConn(conn, p.MaxFrame)
	if err := c.SendJSON(Request, request); err != nil {
		done()
		return nil, nil, err
	}
	return c, done, nil
}

// receive reads a frame. One that says why there is no answer is an error.
func (p Peer) receive(ctx context.Context, c *Conn) (Kind, []byte, error) {
	kind, payload, err := c.Receive()
	switch {
	case err != nil && ctx.Err() != nil:
		return 0, nil, context.Cause(ctx)
	case err != nil:
		return 0, nil, &ClosedError{Peer: p.Name, Err: err}
	case kind == Failure:
		return 0, nil, readFailure(payload)
	}
	return kind, payload, nil
}

func (p Peer) unexpected(kind Kind) error {
	return fmt.Errorf("cannot understand %s: unexpected frame %q", p.Name, kind)
}

// forward sends signals until ended is closed. One that cannot be sent is not
// reported: receiving fails as well then.
func (c *Conn) forward(signals <-chan os.Signal, ended <-chan struct{}) {
	for {
		select {
		case sig := <-signals:
			if n, ok := sig.(syscall.Signal); ok {
				_ = c.Send(Signal, []byte{byte(n)})
			}
		case <-ended:
			return
		}
	}
}

// sendJob sends the first value that comes from job before ended is closed.
func (c *Conn) sendJob(job <-chan any, ended <-chan struct{}) {
	select {
	case info := <-job:
		_ = c.SendJSON(Job, info)
	case <-ended:
	}
}

func write(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(p); err != nil {
		return fmt.Errorf("cannot pass output on: %w", err)
	}
	return nil
}

// ReadSignal returns the signal that a Signal frame carries.
func ReadSignal(payload []byte) (syscall.Signal, error) {
	if len(payload) != 1 || payload[0] == 0 || payload[0] > maxSignal {
		return 0, errors.New("cannot read signal: it is not a number from 1 to 64")
	}
	return syscall.Signal(payload[0]), nil
}

// maxSignal is SIGRTMAX of Linux, signal(7).
const maxSignal = 64

// SendExit ends a conversation with the status of its process.
func (c *Conn) SendExit(status int) error { return c.Send(Exit, []byte{byte(status)}) }
