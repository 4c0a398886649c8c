// Package supervise keeps the actions runner's listener running. It starts
// bin/Runner.Listener itself: run.sh hides the exit statuses, and each of them
// has a meaning here (see decide).
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// Supervisor runs the listener for the service. All fields but Guests are
// required.
type Supervisor struct {
	Config *config.Config
	Home   string // HOME of the runner's user
	// BakedDir is the actions runner as the image carries it. Its files that do
	// not lie in bin or externals are copied into Config.ActionsRunnerDir.
	BakedDir string

	Log    io.Writer                        // receives one line an event
	Notify func(state string)               // sd_notify(3)
	Guests guestResetter                    // nil: there is no broker
	Delay  func(failures int) time.Duration // before the next start; Backoff
}

// guestResetter stops every guest: a listener that is stopped does not call its
// clean-up hook.
type guestResetter interface {
	Reset(ctx context.Context) error
}

const (
	minDelay = 5 * time.Second
	maxDelay = 5 * time.Minute
	// soundRun is how long a listener runs before its end no longer counts as
	// one more failure in a row.
	soundRun = 10 * time.Minute
)

// Backoff returns the delay before the next start after a number of failures in
// a row. It doubles from 5 s to 5 min.
func Backoff(failures int) time.Duration {
	d := minDelay
	for ; failures > 0 && d < maxDelay; failures-- {
		d *= 2
	}
	return min(d, maxDelay)
}

// Run supervises until ctx ends, and then returns nil. It returns a *StopError
// as soon as starting the listener again cannot help.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.refresh(); err != nil {
		return err
	}
	return s.supervise(ctx, s.listen)
}

// supervise calls listen, which runs the listener once, again and again.
func (s *Supervisor) supervise(ctx context.Context, listen func(context.Context) (outcome, error)) error {
	for failures := 0; ; failures++ {
		s.resetGuests(ctx)
		started := time.Now()
		end, err := listen(ctx)
		// After a stop too: the job's guest is still there.
		s.resetGuests(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			s.logf("stopped")
			return nil
		}

		restart, stop := decide(end)
		if stop != nil {
			s.Notify("STATUS=" + stop.Reason)
			return stop
		}

		if time.Since(started) >= soundRun {
			failures = 0
		}
		delay := s.Delay(failures)
		s.Notify("STATUS=" + restart)
		s.logf("%s; starting again in %s", restart, delay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// resetWait is how long guests may take to stop.
const resetWait = 30 * time.Second

// resetGuests stops all guests. The listener is started even if that fails: the
// broker may be absent for a while.
func (s *Supervisor) resetGuests(ctx context.Context) {
	if s.Guests == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resetWait)
	defer cancel()
	if err := s.Guests.Reset(ctx); err != nil && ctx.Err() == nil {
		s.logf("cannot stop leftover guests: %v; see 'journalctl -u runner-guestd'", err)
	}
}

// refresh copies the top-level files of the image's actions runner over older
// ones, so that they match bin and externals, which are mounted beside them.
func (s *Supervisor) refresh() error {
	entries, err := os.ReadDir(s.BakedDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the image's runner: %w", err)
	}

	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		from, to := filepath.Join(s.BakedDir, e.Name()), filepath.Join(s.Config.ActionsRunnerDir, e.Name())
		if err := copyIfOther(from, to); err != nil {
			return fmt.Errorf("cannot refresh the runner's files: %w", err)
		}
	}
	return nil
}

// copyIfOther copies a file with its mode, unless to has the same content.
func copyIfOther(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(to); err == nil && string(old) == string(data) {
		return nil
	}

	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	return atomicfile.Write(to, data, st.Mode().Perm())
}

func (s *Supervisor) logf(format string, args ...any) { fmt.Fprintf(s.Log, format+"\n", args...) }
