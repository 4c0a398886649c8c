package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// caller is a client that follows a process. Its signals wait here until there
// is one, since a guest may have to be started first.
type caller struct {
	*wire.Conn
	signals chan os.Signal
	input   *wire.Input            // for the worker only
	job     chan brokerapi.JobInfo // holds the client's Job frame
}

// maxSignals is more than a client sends before a process takes one.
const maxSignals = 16

// newCaller begins to read the client's signals. When it hangs up, cancel is
// called.
func newCaller(client *wire.Conn, cancel context.CancelFunc) *caller {
	c := &caller{
		Conn: client, signals: make(chan os.Signal, maxSignals),
		input: wire.NewInput(client), job: make(chan brokerapi.JobInfo, 1),
	}
	go func() {
		defer cancel()
		defer c.input.Close()
		for {
			kind, payload, err := client.Receive()
			if err != nil || c.take(kind, payload) != nil {
				return
			}
		}
	}()
	return c
}

// take takes a frame of the client, without blocking. One that no client of
// ours sends is an error.
func (c *caller) take(kind wire.Kind, payload []byte) error {
	switch kind {
	case wire.Signal:
		signal, err := wire.ReadSignal(payload)
		if err != nil {
			return nil
		}
		select {
		case c.signals <- signal:
		default: // the process does not take those before
		}
		return nil
	case wire.Stdin:
		return c.input.Put(payload)
	case wire.Job:
		var info brokerapi.JobInfo
		if json.Unmarshal(payload, &info) != nil {
			return nil // the job does without
		}
		select {
		case c.job <- info:
		default: // there is one already
		}
		return nil
	}
	return fmt.Errorf("cannot understand the client: unexpected frame %q", kind)
}

// streams connects the client with a process.
func (c *caller) streams() wire.Streams {
	return wire.Streams{Stdout: c.Writer(wire.Stdout), Stderr: c.Writer(wire.Stderr), Signals: c.signals}
}

// awaitHangup calls cancel when the client is gone. All but the streaming verbs
// expect nothing more from it, so that a read which returns means that.
func awaitHangup(client *wire.Conn, cancel context.CancelFunc) {
	go func() {
		_, _, _ = client.Receive()
		cancel()
	}()
}

// reporter sends a client one line about something that takes long.
type reporter func(format string, args ...any)

func reportTo(client *wire.Conn) reporter {
	return func(format string, args ...any) {
		// A client that is gone shows elsewhere.
		_ = client.Send(wire.Stdout, fmt.Appendf(nil, format+"\n", args...))
	}
}
