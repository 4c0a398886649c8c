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

// Supervisor runs the listener for the service. All fields but ControlDir and
// Guests are required.
type Supervisor struct {
	Config *config.Config
	Home   string // HOME of the runner's user
	// BakedDir is the copy of the actions runner that runs, as its archive has it: the
	// image's, or one of package dist. Its files that do not lie in bin or externals are
	// copied into Config.ActionsRunnerDir.
	BakedDir string
	// ControlDir is where the status is saved and control requests are served;
	// empty for neither.
	ControlDir string

	Log    io.Writer                        // receives one line an event
	Notify func(state string)               // sd_notify(3)
	Guests guestResetter                    // nil: there is no broker
	Delay  func(failures int) time.Duration // before the next start; Backoff

	state *machine // made by Run
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
	s.state = newMachine(s.save)
	if s.ControlDir != "" {
		server, err := s.openControl()
		if err != nil {
			return err
		}
		defer server.Close()
		go server.Serve()
	}

	if err := s.refresh(); err != nil {
		s.state.fire(gaveUp, err.Error())
		return err
	}
	return s.supervise(ctx, s.listen)
}

// supervise calls listen, which runs the listener once, again and again.
func (s *Supervisor) supervise(ctx context.Context, listen func(context.Context) (outcome, error)) error {
	for failures := 0; ; failures++ {
		s.awaitResume(ctx)
		s.resetGuests(ctx)
		s.state.fire(listenerStarted, "")
		started := time.Now()
		end, err := listen(ctx)
		s.state.fire(listenerEnded, "")
		// After a stop too: the job's guest is still there.
		s.resetGuests(context.WithoutCancel(ctx))
		if err != nil {
			s.state.fire(gaveUp, err.Error())
			return err
		}
		if ctx.Err() != nil {
			s.state.fire(stopAsked, "")
			s.logf("stopped")
			return nil
		}

		restart, stop := decide(end)
		if stop != nil {
			s.state.fire(stop.event(), stop.Reason)
			s.Notify("STATUS=" + stop.Reason)
			return stop
		}
		if end.drained {
			failures = -1
			continue
		}
		if end.status == statusConflict {
			s.state.fire(sessionConflict, restart)
		}

		if time.Since(started) >= soundRun {
			failures = 0
		}
		delay := s.Delay(failures)
		s.Notify("STATUS=" + restart)
		s.logf("%s; starting again in %s", restart, delay)
		s.pause(ctx, delay)
	}
}

// pause waits before the next start, not longer than until a stop or a drain.
func (s *Supervisor) pause(ctx context.Context, delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		status, changed := s.state.current()
		if status.Drain != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-changed:
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

// refresh copies the top-level files of the copy that runs over those of another
// ones, so that they match bin and externals, which are mounted beside them.
func (s *Supervisor) refresh() error {
	entries, err := os.ReadDir(s.BakedDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the actions runner: %w", err)
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
