package brokerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/mkappliance/mkappliance/agent/wire"
)

// Client asks the broker that listens on Socket. Each call is a connection of
// its own; when it breaks, the broker ends what the call started.
type Client struct{ Socket string }

// Streams connects a process in a guest with its caller.
type Streams struct {
	Stdout, Stderr io.Writer
	Signals        <-chan os.Signal // forwarded to the process group; may be nil
}

// Prepare starts the guests of a job. What takes long is told, line by line,
// to progress.
func (c *Client) Prepare(ctx context.Context, r PrepareRequest, progress io.Writer) (*PrepareReply, error) {
	var reply PrepareReply
	return &reply, c.call(ctx, Envelope{Prepare: &r}, &reply, progress)
}

// Cleanup ends the guests of a job. A job that is not known is fine.
func (c *Client) Cleanup(ctx context.Context, job string) error {
	return c.call(ctx, Envelope{Cleanup: &CleanupRequest{Job: job}}, nil, nil)
}

// Reset ends every guest.
func (c *Client) Reset(ctx context.Context) error {
	return c.call(ctx, Envelope{Reset: &struct{}{}}, nil, nil)
}

// Exec runs a process in the guest of a job and gives its exit status, 128 plus
// the signal's number if one ended it.
func (c *Client) Exec(ctx context.Context, r ExecRequest, s Streams) (int, error) {
	return c.stream(ctx, Envelope{Exec: &r}, s)
}

// Container runs a container to its end and gives the status of its process.
func (c *Client) Container(ctx context.Context, r ContainerRequest, s Streams) (int, error) {
	return c.stream(ctx, Envelope{Container: &r}, s)
}

// Run runs a command in a fresh guest.
func (c *Client) Run(ctx context.Context, r RunRequest, s Streams) (int, error) {
	return c.stream(ctx, Envelope{Run: &r}, s)
}

// open connects and sends the request. The connection closes when ctx ends.
func (c *Client) open(ctx context.Context, e Envelope) (*wire.Conn, func(), error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot reach the broker: %w; is runner-guestd.socket active?", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	done := func() { stop(); _ = conn.Close() }
	w := wire.NewConn(conn, wire.MaxRequest)
	if err := w.SendJSON(wire.Request, e); err != nil {
		done()
		return nil, nil, err
	}
	return w, done, nil
}

func (c *Client) call(ctx context.Context, e Envelope, reply any, progress io.Writer) error {
	conn, done, err := c.open(ctx, e)
	if err != nil {
		return err
	}
	defer done()
	kind, payload, err := conn.Receive()
	for ; err == nil && kind == wire.Stdout && progress != nil; kind, payload, err = conn.Receive() {
		if _, err := progress.Write(payload); err != nil {
			return fmt.Errorf("cannot pass output on: %w", err)
		}
	}
	switch {
	case err != nil:
		return brokenOff(ctx, err)
	case kind == wire.Failure:
		return errors.New(string(payload))
	case kind != wire.Reply:
		return fmt.Errorf("cannot understand the broker: unexpected frame %q", kind)
	case reply == nil:
		return nil
	}
	if err := json.Unmarshal(payload, reply); err != nil {
		return fmt.Errorf("cannot understand the broker: %w", err)
	}
	return nil
}

func (c *Client) stream(ctx context.Context, e Envelope, s Streams) (int, error) {
	conn, done, err := c.open(ctx, e)
	if err != nil {
		return 0, err
	}
	defer done()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case sig := <-s.Signals:
				if n, ok := sig.(syscall.Signal); ok {
					_ = conn.Send(wire.Signal, []byte{byte(n)})
				}
			case <-ended:
				return
			}
		}
	}()
	for {
		kind, payload, err := conn.Receive()
		if err != nil {
			return 0, brokenOff(ctx, err)
		}
		switch {
		case kind == wire.Stdout:
			_, err = s.Stdout.Write(payload)
		case kind == wire.Stderr:
			_, err = s.Stderr.Write(payload)
		case kind == wire.Failure:
			return 0, errors.New(string(payload))
		case kind == wire.Exit && len(payload) == 1:
			return int(payload[0]), nil
		default:
			return 0, fmt.Errorf("cannot understand the broker: unexpected frame %q", kind)
		}
		if err != nil {
			return 0, fmt.Errorf("cannot pass output on: %w", err)
		}
	}
}

// brokenOff explains a connection that ended before the answer.
func brokenOff(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("cannot go on: the broker ended, and the guest with it; see 'journalctl -u runner-guestd'")
	}
	return err
}
