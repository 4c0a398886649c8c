package brokerapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/mkappliance/mkappliance/agent/wire"
)

// Client asks the broker that listens on Socket. Each call is a connection of
// its own; when it breaks, the broker ends what the call started.
//
// An error that the broker reports has the broker's text and code, see
// wire.CodeOf.
type Client struct{ Socket string }

// peer is the broker. It is root, so its answers may be as long as a request.
func peer() wire.Peer { return wire.Peer{Name: "the broker", MaxFrame: wire.MaxRequest} }

// Prepare starts the guests of a job. The broker reports what takes long, line
// by line, to progress.
func (c *Client) Prepare(ctx context.Context, r PrepareRequest, progress io.Writer) (*PrepareReply, error) {
	var reply PrepareReply
	if err := c.call(ctx, Envelope{Prepare: &r}, &reply, progress); err != nil {
		return nil, err
	}
	return &reply, nil
}

// Cleanup ends a job. One that is not known is not an error.
func (c *Client) Cleanup(ctx context.Context, job string) error {
	return c.call(ctx, Envelope{Cleanup: &CleanupRequest{Job: job}}, nil, nil)
}

// Reset ends the job that runs, if there is one.
func (c *Client) Reset(ctx context.Context) error {
	return c.call(ctx, Envelope{Reset: &struct{}{}}, nil, nil)
}

// Exec runs a process in the guest of a job and returns its exit status, 128
// plus the signal's number if one ended it.
func (c *Client) Exec(ctx context.Context, r ExecRequest, s wire.Streams) (int, error) {
	return c.exec(ctx, Envelope{Exec: &r}, s)
}

// Container runs a container to its end and returns the status of its process.
func (c *Client) Container(ctx context.Context, r ContainerRequest, s wire.Streams) (int, error) {
	return c.exec(ctx, Envelope{Container: &r}, s)
}

// Run runs a command in a fresh guest and returns its status.
func (c *Client) Run(ctx context.Context, r RunRequest, s wire.Streams) (int, error) {
	return c.exec(ctx, Envelope{Run: &r}, s)
}

// Worker runs the actions runner's worker in a guest of its own, as the job that
// runs, and returns its exit status. The worker reads s.Stdin, which is what the
// listener says to it. At most one value is taken from job: the description of
// the job, as soon as the caller knows it.
//
// When the worker ends, or the connection, everything of the job ends.
func (c *Client) Worker(ctx context.Context, r WorkerRequest, job <-chan JobInfo, s wire.Streams) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	described := make(chan any, 1)
	go func() {
		select {
		case info, ok := <-job:
			if ok {
				described <- info
			}
		case <-ctx.Done():
		}
	}()
	s.Job = described
	return c.exec(ctx, Envelope{Worker: &r}, s)
}

func (c *Client) call(ctx context.Context, e Envelope, reply any, progress io.Writer) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	return explain(peer().Call(ctx, conn, e, reply, progress))
}

func (c *Client) exec(ctx context.Context, e Envelope, s wire.Streams) (int, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, err
	}
	status, err := peer().Exec(ctx, conn, e, s)
	return status, explain(err)
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the broker: %w; is runner-guestd.socket active?", err)
	}
	return conn, nil
}

// explain says where to look for the reason of a broker that ended: one that has
// read all that was sent, or not, or before it was sent.
func explain(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return errors.New("cannot go on: the broker ended, and the guest with it; see 'journalctl -u runner-guestd'")
	}
	return err
}
