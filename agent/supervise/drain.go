package supervise

import (
	"context"
	"time"

	"github.com/mkappliance/mkappliance/agent/control"
)

// openControl restores a drain from before a restart of the service, and opens
// the socket.
func (s *Supervisor) openControl() (*control.Server, error) {
	last, err := control.LoadStatus(s.ControlDir)
	if err != nil {
		s.logf("%v; a drain is forgotten", err)
	}
	if last.Drain != nil {
		s.state.restore(last.Drain)
	}
	return control.Listen(s.ControlDir, handler{s.state})
}

// save makes the status known for when the service does not run.
func (s *Supervisor) save(status control.Status) {
	if s.ControlDir == "" {
		return
	}
	if err := control.SaveStatus(s.ControlDir, status); err != nil {
		s.logf("%v", err)
	}
}

// handler answers control requests.
type handler struct{ state *machine }

// Status implements control.Handler.
func (h handler) Status() control.Status {
	status, _ := h.state.current()
	return status
}

// Drain implements control.Handler.
func (h handler) Drain(limit time.Duration) (control.Status, error) {
	var deadline time.Time
	if limit > 0 {
		deadline = time.Now().UTC().Add(limit)
	}
	return h.state.drain(deadline), nil
}

// Resume implements control.Handler.
func (h handler) Resume() (control.Status, error) { return h.state.resume(), nil }

// awaitResume waits until no drain is asked for.
func (s *Supervisor) awaitResume(ctx context.Context) {
	status, changed := s.state.current()
	if status.Drain == nil || ctx.Err() != nil {
		return
	}

	s.state.fire(listenerEnded, "") // where none was running
	s.Notify("READY=1\nSTATUS=drained; runner-agent resume ends this")
	s.logf("drained")
	for status.Drain != nil {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		status, changed = s.state.current()
	}
	s.logf("resumed")
}

// cause is why awaitStop returned.
type cause int

const (
	ended    cause = iota // the listener, by itself
	stopping              // the service is stopped
	draining              // no job is under way, or its time is over
)

const (
	lookEvery      = time.Second            // at a worker
	lookEveryDrain = 100 * time.Millisecond // at worker and log during a drain
	// settleWait is how long a drain waits for a message to become a job.
	settleWait = 30 * time.Second
	// startWait is how long a job may be without a worker at first: the listener
	// renews it before, in several tries.
	startWait = 2 * time.Minute
	// endWait is how long the listener may take to print that a worker has ended.
	endWait = 10 * time.Second
)

// awaitStop waits until the listener has ended or is to be interrupted.
func (s *Supervisor) awaitStop(ctx context.Context, listener stoppable) cause {
	w := watch{state: s.state, listener: listener}
	for {
		status, changed := s.state.current()
		interval := lookEvery
		w.correct(status)
		if status.State == control.Draining {
			interval = lookEveryDrain
			if now, cancels := w.mayInterrupt(status); now && s.state.interrupt(status, cancels) {
				return draining
			}
		}

		select {
		case <-listener.Done():
			return ended
		case <-ctx.Done():
			return stopping
		case <-changed:
		case <-time.After(interval):
		}
	}
}

// watch compares what lines of output made of a listener with what can be seen
// of it.
type watch struct {
	state    *machine
	listener stoppable

	worked    time.Time // when a worker was seen last
	receiving time.Time // since when a message has been in flight; zero if none is
}

// correct ends a job that has no worker. Its end may not have been printed, or
// the name of another printed its start.
func (w *watch) correct(status control.Status) {
	if status.JobSince.IsZero() {
		return
	}
	now := time.Now()
	switch {
	case w.listener.hasWorker():
		w.worked = now
	case w.worked.After(status.JobSince) && now.Sub(w.worked) > endWait,
		now.Sub(status.JobSince) > startWait && now.Sub(w.worked) > endWait:
		w.state.endJob()
	}
}

// mayInterrupt reports whether a drain may interrupt the listener now, and
// whether that cancels a job.
func (w *watch) mayInterrupt(status control.Status) (now, cancels bool) {
	busy := !status.JobSince.IsZero() || w.listener.hasWorker()
	if deadline := status.Drain.Deadline; !deadline.IsZero() && !time.Now().Before(deadline) {
		return true, busy
	}
	if busy {
		return false, false
	}

	if !w.listener.receivesJob() {
		w.receiving = time.Time{}
		return true, false
	}
	if w.receiving.IsZero() {
		w.receiving = time.Now()
	}
	return time.Since(w.receiving) >= settleWait, false
}
