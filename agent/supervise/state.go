package supervise

import (
	"sync"
	"time"

	"github.com/mkappliance/mkappliance/agent/control"
)

// event is what changes the state.
type event string

const (
	listenerStarted event = "started"
	listening       event = "listening" // it has a session
	jobStarted      event = "job started"
	jobEnded        event = "job ended"
	sessionConflict event = "conflict"
	listenerEnded   event = "ended"
	drainAsked      event = "drain"
	resumed         event = "resumed"           // the listener is not there, or will be started again
	resumedOnline   event = "resumed, online"   // it has a session still
	resumedBusy     event = "resumed, busy"     // and a job
	stopAsked       event = "stop"              // of the service
	tooOld          event = "too old"           // given up, StatusTooOld
	notRegistered   event = "not registered"    // given up, StatusNotRegistered
	gaveUp          event = "cannot be started" // the service failed
)

// transition is one row of the table.
type transition struct {
	from control.State
	on   event
	to   control.State
}

// transitions is the table; doc.go has the diagram. An event without a row for
// the present state changes nothing.
var transitions = []transition{
	{control.Starting, listening, control.Online},
	{control.Starting, sessionConflict, control.Conflict},
	{control.Starting, drainAsked, control.Draining},

	{control.Online, jobStarted, control.Busy},
	{control.Online, listenerEnded, control.Starting},
	{control.Online, drainAsked, control.Draining},

	{control.Busy, jobEnded, control.Online},
	{control.Busy, listenerEnded, control.Starting},
	{control.Busy, drainAsked, control.Draining},

	{control.Conflict, listenerStarted, control.Starting},
	{control.Conflict, listening, control.Online},
	{control.Conflict, listenerEnded, control.Starting},
	{control.Conflict, drainAsked, control.Draining},

	{control.Draining, listenerEnded, control.Drained},
	{control.Draining, resumed, control.Starting},
	{control.Draining, resumedOnline, control.Online},
	{control.Draining, resumedBusy, control.Busy},

	{control.Drained, resumed, control.Starting},

	{control.Starting, stopAsked, control.Stopped},
	{control.Online, stopAsked, control.Stopped},
	{control.Busy, stopAsked, control.Stopped},
	{control.Conflict, stopAsked, control.Stopped},
	{control.Draining, stopAsked, control.Stopped},
	{control.Drained, stopAsked, control.Stopped},

	{control.Starting, gaveUp, control.Stopped},
	{control.Starting, tooOld, control.Deprecated},
	{control.Starting, notRegistered, control.Removed},
	{control.Drained, tooOld, control.Deprecated},
	{control.Drained, notRegistered, control.Removed},
}

// next returns the state that an event leads to, and whether there is one.
func next(from control.State, on event) (to control.State, ok bool) {
	for _, t := range transitions {
		if t.from == from && t.on == on {
			return t.to, true
		}
	}
	return from, false
}

// machine is the state of the service. Its methods may be called at any time.
type machine struct {
	mu      sync.Mutex
	status  control.Status
	session bool // the listener under way has been listening
	leaving bool // and has been interrupted,
	exiting bool // and has noticed

	name  string    // of the last job that began,
	began time.Time // when it did,
	over  bool      // and its worker has ended, by the relay

	changed chan struct{} // closed and replaced at every change
	saved   func(control.Status)
}

func newMachine(saved func(control.Status)) *machine {
	return &machine{status: control.Status{State: control.Starting, Since: time.Now().UTC()},
		changed: make(chan struct{}), saved: saved}
}

// current returns the status, and a channel that is closed when it changes.
func (m *machine) current() (control.Status, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.copied(), m.changed
}

// copied returns a status that does not change. The caller holds mu.
func (m *machine) copied() control.Status {
	status := m.status
	if status.Drain != nil {
		drain := *status.Drain
		status.Drain = &drain
	}
	return status
}

// update changes the status in one step, and makes it known.
func (m *machine) update(change func(*control.Status)) control.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.status)
	status := m.copied()
	close(m.changed)
	m.changed = make(chan struct{})
	m.saved(status)
	return status
}

// fire makes the transition of an event, and reports whether there is one. The
// reason explains the new state where that is not plain.
func (m *machine) fire(on event, reason string) bool {
	fired := false
	m.update(func(s *control.Status) { fired = m.move(s, on, reason) })
	return fired
}

// move is fire, in an update.
func (m *machine) move(s *control.Status, on event, reason string) bool {
	switch on {
	case listenerStarted:
		m.session, m.leaving, m.exiting, m.over = false, false, false, false
	case listening:
		m.session = true
	case listenerEnded:
		m.session = false
		s.Job, s.JobSince = "", time.Time{}
	}

	to, ok := next(s.State, on)
	if !ok {
		return false
	}
	s.State, s.Since, s.Reason = to, time.Now().UTC(), reason
	return true
}

// startJob notes a job that begins.
func (m *machine) startJob(name string) {
	m.update(func(s *control.Status) {
		m.name, m.began, m.over = name, time.Now().UTC(), false
		s.Job, s.JobSince = m.name, m.began
		m.move(s, jobStarted, "")
	})
}

// lastJob returns the name of the last job that began, when it did, and whether
// its worker is known to have ended, though the relay is still there.
func (m *machine) lastJob() (name string, began time.Time, over bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.name, m.began, m.over
}

// reportEnd ends the job under way, as the relay reports it, if that is for a
// drain.
func (m *machine) reportEnd() control.Status {
	return m.update(func(s *control.Status) {
		if s.State == control.Draining && !s.JobSince.IsZero() {
			m.over = true
			m.finish(s)
		}
	})
}

// noteExit notes that the listener has noticed an interrupt.
func (m *machine) noteExit() {
	m.update(func(*control.Status) { m.exiting = m.leaving })
}

// held reports whether the relay of an ended job is to wait.
func (m *machine) held() (held bool, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status.State == control.Draining && m.over && !m.exiting, m.changed
}

// endJob notes that no job runs any more.
func (m *machine) endJob() {
	m.update(m.finish)
}

// finish is endJob, in an update.
func (m *machine) finish(s *control.Status) {
	if !s.JobSince.IsZero() {
		s.Jobs++
	}
	s.Job, s.JobSince = "", time.Time{}
	m.move(s, jobEnded, "")
}

// drain notes a drain; of two deadlines the earlier counts.
func (m *machine) drain(deadline time.Time) control.Status {
	return m.update(func(s *control.Status) {
		if s.Drain == nil {
			s.Drain = &control.Drain{Since: time.Now().UTC()}
		}
		s.Drain.Brief = false
		if !deadline.IsZero() && (s.Drain.Deadline.IsZero() || deadline.Before(s.Drain.Deadline)) {
			s.Drain.Deadline = deadline
		}
		m.move(s, drainAsked, "")
	})
}

// pause notes a drain that ends by itself, unless there is one.
func (m *machine) pause() control.Status {
	return m.update(func(s *control.Status) {
		if s.Drain == nil {
			s.Drain = &control.Drain{Since: time.Now().UTC(), Brief: true}
		}
		m.move(s, drainAsked, "")
	})
}

// endPause is resume, if the drain is brief still.
func (m *machine) endPause() {
	m.update(func(s *control.Status) {
		if s.Drain != nil && s.Drain.Brief {
			m.endDrain(s)
		}
	})
}

// restore continues a drain from before the service started.
func (m *machine) restore(d *control.Drain) {
	m.update(func(s *control.Status) {
		s.Drain = d
		m.move(s, drainAsked, "")
	})
}

// interrupt notes that the listener is interrupted for a drain, unless the
// status is no longer the one that was looked at.
func (m *machine) interrupt(seen control.Status, cancelled bool) bool {
	done := false
	m.update(func(s *control.Status) {
		if s.State != control.Draining || !s.JobSince.Equal(seen.JobSince) {
			return
		}
		s.Drain.Cancelled = s.Drain.Cancelled || cancelled
		m.leaving, done = true, true
	})
	return done
}

// resume ends a drain.
func (m *machine) resume() control.Status {
	return m.update(m.endDrain)
}

// endDrain is resume, in an update.
func (m *machine) endDrain(s *control.Status) {
	s.Drain = nil
	switch {
	case m.leaving || !m.session:
		m.move(s, resumed, "")
	case s.JobSince.IsZero():
		m.move(s, resumedOnline, "")
	default:
		m.move(s, resumedBusy, "")
	}
}
