package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"
	"time"
)

// DefaultDir is the directory of runner.service: RuntimeDirectory= in the unit.
const DefaultDir = "/run/runner/service"

// DirVariable names the directory in the environment of the listener, for the
// relay.
const DirVariable = "RUNNER_CONTROL_DIR"

// ErrNotRunning is returned if the service does not run.
var ErrNotRunning = errors.New("runner.service does not run")

// ErrResumed is returned by Wait if the drain was taken back.
var ErrResumed = errors.New("the runner was resumed meanwhile")

// Client asks the service whose directory is Dir.
type Client struct{ Dir string }

// Status returns the state of the service. If the service does not run, it
// returns the state that it ended in.
func (c *Client) Status(ctx context.Context) (Status, error) {
	status, err := c.call(ctx, request{Verb: "status"})
	if !errors.Is(err, ErrNotRunning) {
		return status, err
	}

	last, err := LoadStatus(c.Dir)
	if err != nil {
		return Status{}, err
	}
	switch last.State {
	case Deprecated, Removed, Stopped:
		return last, nil
	case "":
		return Status{State: Stopped, Reason: ErrNotRunning.Error()}, nil
	}
	// It was killed, or systemd starts it again.
	reason := fmt.Sprintf("%v; it was %s before", ErrNotRunning, last.State)
	return Status{State: Stopped, Since: last.Since, Reason: reason, Drain: last.Drain,
		RunnerVersion: last.RunnerVersion, RunnerDeadline: last.RunnerDeadline}, nil
}

// Drain lets the runner take no more jobs, and returns without waiting for the
// one under way, which is cancelled after limit, in whole seconds; 0 for never.
func (c *Client) Drain(ctx context.Context, limit time.Duration) (Status, error) {
	return c.call(ctx, request{Verb: "drain", TimeoutS: int64((limit + time.Second - 1) / time.Second)})
}

// Pause is Drain, without a limit, for a caller that restarts the service once the
// runner is drained: the drain ends with the restart, or by itself a minute after
// the runner is drained. One that was asked for before holds as it is.
func (c *Client) Pause(ctx context.Context) (Status, error) {
	return c.call(ctx, request{Verb: "pause"})
}

// Resume ends a drain.
func (c *Client) Resume(ctx context.Context) (Status, error) {
	return c.call(ctx, request{Verb: "resume"})
}

// JobEnded is the relay's: the worker has ended. It returns when the listener may
// know, which is at once unless the runner is drained.
func (c *Client) JobEnded(ctx context.Context) error {
	_, err := c.call(ctx, request{Verb: "job-ended"})
	return err
}

const (
	pollEvery = 100 * time.Millisecond // how often Wait asks
	// restartWait is how long the service may be away: systemd starts it again
	// after 30 s.
	restartWait = time.Minute
)

// Wait returns as soon as the runner is drained, or takes no jobs for good. It
// calls changed, if that is not nil, with the first status and each new state.
// It returns ErrResumed if the drain was ended, and ErrNotRunning if the service
// was stopped; a restart of the service it outlasts.
func (c *Client) Wait(ctx context.Context, changed func(Status)) (Status, error) {
	var last State
	answered := time.Now()
	for {
		status, err := c.Status(ctx)
		if err != nil {
			return Status{}, err
		}
		if status.State != last && changed != nil {
			changed(status)
		}
		last = status.State

		switch status.State {
		case Drained, Deprecated, Removed:
			return status, nil
		case Starting, Online, Busy, Conflict:
			if status.Drain == nil {
				return status, ErrResumed
			}
		}
		if status.State != Stopped {
			answered = time.Now()
		}
		if time.Since(answered) > restartWait {
			return status, ErrNotRunning
		}

		select {
		case <-ctx.Done():
			return status, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

func (c *Client) call(ctx context.Context, r request) (Status, error) {
	status, err := c.ask(ctx, r)
	if err != nil {
		return Status{}, fmt.Errorf("cannot %s runner: %w", verbs[r.Verb], err)
	}
	return status, nil
}

// verbs are those of messages.
var verbs = map[string]string{"status": "query", "drain": "drain", "pause": "drain", "resume": "resume",
	"job-ended": "report the end of a job to"}

func (c *Client) ask(ctx context.Context, r request) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", filepath.Join(c.Dir, socketName))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return Status{}, ErrNotRunning
	}
	if err != nil {
		return Status{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()

	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return Status{}, err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadBytes('\n')
	if err != nil {
		return Status{}, fmt.Errorf("the service did not answer: %w", err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return Status{}, fmt.Errorf("the service did not answer in JSON: %w", err)
	}
	if a.Error != "" {
		return Status{}, fmt.Errorf("%.400s", a.Error)
	}
	return a.Status, nil
}
