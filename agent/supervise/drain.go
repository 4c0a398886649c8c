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
	if last.Drain != nil && !last.Drain.Brief {
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

// Pause implements control.Handler.
func (h handler) Pause() (control.Status, error) { return h.state.pause(), nil }

// Resume implements control.Handler.
func (h handler) Resume() (control.Status, error) { return h.state.resume(), nil }

// JobEnded implements control.Handler.
func (h handler) JobEnded() (control.Status, error) {
	status := h.state.reportEnd()
	timeout := time.After(control.HoldTime)
	for {
		held, changed := h.state.held()
		if !held {
			return status, nil
		}
		select {
		case <-changed:
		case <-timeout:
			return status, nil
		}
	}
}

// pauseWait is how long a brief drain holds once the runner is drained: whoever
// asked for it restarts the service at once, or has failed.
const pauseWait = time.Minute

// awaitResume waits until no drain is asked for.
func (s *Supervisor) awaitResume(ctx context.Context) {
	status, changed := s.state.current()
	if status.Drain == nil || ctx.Err() != nil {
		return
	}

	s.state.fire(listenerEnded, "") // where none was running
	s.Notify("READY=1\nSTATUS=drained; runner-agent resume ends this")
	s.logf("drained")
	timeout := time.After(pauseWait)
	for status.Drain != nil {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-timeout:
			s.state.endPause()
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
	lookEvery      = time.Second           // at a worker
	lookEveryDrain = 50 * time.Millisecond // at worker and log during a drain
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
		w.noteJob(status)
		w.correct(status)
		if status, _ = s.state.current(); status.State == control.Draining {
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

	worked  time.Time // when a worker was seen last
	since   time.Time // when the job began that runs, or ran last,
	job     string    // and its message, see pendingMessage
	waiting time.Time // since when another message has been in flight; zero if none is
}

// correct ends a job that has no worker, since its end may not have been printed,
// or the name of another printed its start. It starts again a job that has one,
// since its own name may have printed its end before.
func (w *watch) correct(status control.Status) {
	name, began, over := w.state.lastJob()
	now := time.Now()
	if over || status.JobSince.IsZero() && status.Drain == nil && now.Sub(began) > startWait {
		return // only the relay is left, or it is idle: looking costs something
	}

	working := w.listener.hasWorker()
	switch {
	case working:
		w.worked = now
		if status.JobSince.IsZero() {
			w.state.startJob(name)
		}
	case status.JobSince.IsZero():
		return
	case w.worked.After(status.JobSince) && now.Sub(w.worked) > endWait,
		now.Sub(status.JobSince) > startWait && now.Sub(w.worked) > endWait:
		w.state.endJob()
	}
}

// noteJob notes the message of a job that has begun.
func (w *watch) noteJob(status control.Status) {
	if status.JobSince.IsZero() || status.JobSince.Equal(w.since) {
		return
	}
	message := w.listener.message()
	// If the job has ended by now, the message may be the next one.
	if now, _ := w.state.current(); now.JobSince.Equal(status.JobSince) {
		w.since, w.job = status.JobSince, message
	}
}

// mayInterrupt reports whether a drain may interrupt the listener now, and
// whether that cancels a job.
func (w *watch) mayInterrupt(status control.Status) (now, cancels bool) {
	busy := !status.JobSince.IsZero()
	if deadline := status.Drain.Deadline; !deadline.IsZero() && !time.Now().Before(deadline) {
		return true, busy
	}
	if busy {
		return false, false
	}

	// While the listener waits for the relay it asks for no job. And the message of
	// a job that has just ended may still look as if it were worked on.
	if _, _, over := w.state.lastJob(); over {
		return true, false
	}
	if m := w.listener.message(); m == "" || m == w.job {
		w.waiting = time.Time{}
		return true, false
	}
	if w.waiting.IsZero() {
		w.waiting = time.Now()
	}
	return time.Since(w.waiting) >= settleWait, false
}
