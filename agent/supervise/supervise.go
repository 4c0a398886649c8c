// Package supervise keeps the actions runner's listener running. It starts
// bin/Runner.Listener itself: run.sh hides the exit codes, and each of them has
// a meaning here (see decide).
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

// Supervisor holds what the service needs.
type Supervisor struct {
	Config *config.Config
	Home   string // HOME of the runner's user
	// BakedDir is the runner as it came with the image. Its files that do not
	// lie in bin or externals are copied into the runner's own directory.
	BakedDir string
	Log      io.Writer
	Notify   func(state string) // sd_notify(3)
	Guests   guestResetter      // nil where there is no broker
	Delay    func(failures int) time.Duration
}

// guestResetter ends every guest: a listener that was stopped does not call
// its clean-up hook.
type guestResetter interface {
	Reset(ctx context.Context) error
}

const (
	minDelay = 5 * time.Second
	maxDelay = 5 * time.Minute
	// soundRun is how long a listener must have run for its end not to count
	// as one more failure in a row.
	soundRun = 10 * time.Minute
)

// Backoff doubles from 5 s to 5 min.
func Backoff(failures int) time.Duration {
	d := minDelay
	for ; failures > 0 && d < maxDelay; failures-- {
		d *= 2
	}
	return min(d, maxDelay)
}

// Run supervises until ctx ends (then it returns nil), or until starting the
// listener again cannot help (then it returns a *StopError).
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.refresh(); err != nil {
		return err
	}
	for failures := 0; ; failures++ {
		s.resetGuests(ctx)
		started := time.Now()
		end, err := s.listen(ctx)
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

// resetWait bounds how long guests may take to go.
const resetWait = 30 * time.Second

func (s *Supervisor) resetGuests(ctx context.Context) {
	if s.Guests == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resetWait)
	defer cancel()
	if err := s.Guests.Reset(ctx); err != nil && ctx.Err() == nil {
		s.logf("cannot end leftover guests: %v; see 'journalctl -u runner-guestd'", err)
	}
}

// refresh copies the image's top-level runner files over older ones, so that
// they match the bin and externals that are mounted beside them.
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
		if err := copyIfOther(filepath.Join(s.BakedDir, e.Name()), filepath.Join(s.Config.ActionsRunnerDir, e.Name())); err != nil {
			return fmt.Errorf("cannot refresh the runner's files: %w", err)
		}
	}
	return nil
}

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
