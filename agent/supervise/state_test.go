package supervise

import (
	"testing"

	"github.com/mkappliance/mkappliance/agent/control"
)

// TestTransitions: each state can be reached, each pair of state and event leads
// to one state, and the last three states are left by nothing.
func TestTransitions(t *testing.T) {
	reached := map[control.State]bool{control.Starting: true}
	type key struct {
		from control.State
		on   event
	}
	seen := map[key]bool{}

	for _, row := range transitions {
		reached[row.to] = true
		if k := (key{row.from, row.on}); seen[k] {
			t.Errorf("two rows for %s in state %s", row.on, row.from)
		} else {
			seen[k] = true
		}
		switch row.from {
		case control.Stopped, control.Deprecated, control.Removed:
			t.Errorf("%s leads out of %s", row.on, row.from)
		}
		if row.from == row.to {
			t.Errorf("%s does not change %s", row.on, row.from)
		}
	}

	for _, s := range []control.State{control.Starting, control.Online, control.Busy, control.Draining, control.Drained,
		control.Conflict, control.Stopped, control.Deprecated, control.Removed} {
		if !reached[s] {
			t.Errorf("nothing leads to %s", s)
		}
	}
}

// TestLives follows a service through sequences of events.
func TestLives(t *testing.T) {
	tests := []struct {
		summary string
		events  []event
		want    control.State
	}{
		{summary: "a job", events: []event{listenerStarted, listening, jobStarted, jobEnded}, want: control.Online},
		{summary: "restart during a job", events: []event{listening, jobStarted, listenerEnded}, want: control.Starting},
		{summary: "no job without a session", events: []event{jobStarted}, want: control.Starting},
		{summary: "another session", events: []event{listenerEnded, sessionConflict}, want: control.Conflict},
		{summary: "the other session ends", events: []event{sessionConflict, listening}, want: control.Online},
		{summary: "an end by itself while draining", events: []event{listening, drainAsked, listenerEnded},
			want: control.Drained},
		{summary: "no session while drained", events: []event{drainAsked, listenerEnded, listening}, want: control.Drained},
		{summary: "too old while draining", events: []event{drainAsked, listenerEnded, tooOld}, want: control.Deprecated},
		{summary: "removed", events: []event{listening, listenerEnded, notRegistered}, want: control.Removed},
		{summary: "a stop is the end", events: []event{listening, stopAsked, listening, drainAsked}, want: control.Stopped},
	}
	for _, tt := range tests {
		m := newMachine(ignore)
		for _, e := range tt.events {
			m.fire(e, "")
		}
		if got, _ := m.current(); got.State != tt.want {
			t.Errorf("%s: state %s, want %s", tt.summary, got.State, tt.want)
		}
	}
}

// TestResume: where it leads depends on the listener.
func TestResume(t *testing.T) {
	tests := []struct {
		summary string
		before  func(*machine)
		want    control.State
	}{
		{summary: "with a session", before: func(m *machine) { m.fire(listening, "") }, want: control.Online},
		{summary: "with a job", before: func(m *machine) { m.fire(listening, ""); m.startJob("x") }, want: control.Busy},
		{summary: "without a session", before: func(*machine) {}, want: control.Starting},
		{summary: "interrupted already", before: func(m *machine) {
			m.fire(listening, "")
			status := handlerDrain(m)
			if !m.interrupt(status, false) {
				t.Error("not interrupted")
			}
		}, want: control.Starting},
		{summary: "drained", before: func(m *machine) { handlerDrain(m); m.fire(listenerEnded, "") }, want: control.Starting},
	}
	for _, tt := range tests {
		m := newMachine(ignore)
		tt.before(m)
		handlerDrain(m)
		if got := m.resume(); got.State != tt.want || got.Drain != nil {
			t.Errorf("%s: got %+v, want %s", tt.summary, got, tt.want)
		}
	}
}

func handlerDrain(m *machine) control.Status {
	status, _ := handler{m}.Drain(0)
	return status
}

// TestNoInterruptAfterResume: who looked before the resume does not interrupt.
func TestNoInterruptAfterResume(t *testing.T) {
	m := newMachine(ignore)
	seen := handlerDrain(m)
	m.resume()
	if m.interrupt(seen, false) {
		t.Error("interrupted a listener that is to go on")
	}
}

// TestNoInterruptOfANewJob: a job that starts between look and interrupt is
// waited for.
func TestNoInterruptOfANewJob(t *testing.T) {
	m := newMachine(ignore)
	m.fire(listening, "")
	seen := handlerDrain(m)
	m.startJob("x")
	if m.interrupt(seen, false) {
		t.Error("interrupted a job")
	}
}
