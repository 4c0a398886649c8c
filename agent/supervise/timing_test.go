package supervise

import (
	"context"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mkappliance/mkappliance/agent/control"
)

func TestBackoff(t *testing.T) {
	tests := []struct {
		summary  string
		failures int
		want     time.Duration
	}{
		{summary: "first", failures: 0, want: 5 * time.Second},
		{summary: "second", failures: 1, want: 10 * time.Second},
		{summary: "last before the bound", failures: 5, want: 160 * time.Second},
		{summary: "at the bound", failures: 6, want: 5 * time.Minute},
		{summary: "far beyond", failures: 1000, want: 5 * time.Minute},
	}
	for _, tt := range tests {
		if got := Backoff(tt.failures); got != tt.want {
			t.Errorf("%s: Backoff(%d) = %s, want %s", tt.summary, tt.failures, got, tt.want)
		}
	}
}

// TestDelaysGrowUntilASoundRun starts a listener that fails at once six times,
// then runs for ten minutes before it fails, and then is too old.
func TestDelaysGrowUntilASoundRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := []time.Duration{0, 0, 0, 0, 0, soundRun - time.Second, soundRun, 0}
		var delays []time.Duration
		ended := time.Now()
		listen := func(context.Context) (outcome, error) {
			delays = append(delays, time.Since(ended))
			if len(delays) > len(runs) {
				return outcome{status: 7, registered: true}, nil
			}
			time.Sleep(runs[len(delays)-1])
			ended = time.Now()
			return outcome{status: 2, registered: true}, nil
		}

		s := &Supervisor{Log: io.Discard, Notify: func(string) {}, Delay: Backoff, state: newMachine(ignore)}
		if err := s.supervise(t.Context(), listen); err == nil {
			t.Error("does not end with the listener that is too old")
		}
		want := []time.Duration{
			0, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second,
			160 * time.Second, // the sixth run ended a second too early
			5 * time.Second,
			10 * time.Second,
		}
		if !slices.Equal(delays, want) {
			t.Errorf("waited\n%s, want\n%s", delays, want)
		}
	})
}

// TestStopDuringDelay: a stop does not wait for the next start.
func TestStopDuringDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s := &Supervisor{Log: io.Discard, Notify: func(string) {}, Delay: Backoff, state: newMachine(ignore)}
		started := time.Now()
		err := s.supervise(ctx, func(context.Context) (outcome, error) {
			return outcome{status: 2, registered: true}, nil
		})
		if took := time.Since(started); err != nil || took != time.Second {
			t.Errorf("returned %v after %s", err, took)
		}
	})
}

// fakeListener ends at a time after the interrupt, or when it is killed.
type fakeListener struct {
	takes             time.Duration
	done              chan struct{}
	interrupts, kills int
	worker            atomic.Bool
	messages          atomic.Value // what message returns
}

func newFakeListener(takes time.Duration) *fakeListener {
	f := &fakeListener{takes: takes, done: make(chan struct{})}
	f.messages.Store("")
	return f
}

func (f *fakeListener) interrupt() {
	f.interrupts++
	time.AfterFunc(f.takes, func() {
		if f.kills == 0 {
			close(f.done)
		}
	})
}

func (f *fakeListener) kill() {
	f.kills++
	close(f.done)
}

func (f *fakeListener) hasWorker() bool { return f.worker.Load() }
func (f *fakeListener) message() string { return f.messages.Load().(string) }

func ignore(control.Status) {}

func (f *fakeListener) Done() <-chan struct{} { return f.done }

func TestForwardStop(t *testing.T) {
	tests := []struct {
		summary string
		takes   time.Duration // to end after the interrupt
		kills   int
		after   time.Duration // until forwardStop returns
	}{
		{summary: "ends in time", takes: stopWait - time.Second, after: stopWait - time.Second},
		{summary: "does not end in time", takes: stopWait + time.Second, kills: 1, after: stopWait},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				listener := newFakeListener(tt.takes)
				started := time.Now()
				s := &Supervisor{Log: io.Discard, Notify: func(string) {}, state: newMachine(ignore)}
				s.forwardStop(ctx, listener)

				if after := time.Since(started); after != tt.after {
					t.Errorf("returned after %s, want %s", after, tt.after)
				}
				if listener.interrupts != 1 || listener.kills != tt.kills {
					t.Errorf("%d interrupts and %d kills, want 1 and %d", listener.interrupts, listener.kills, tt.kills)
				}
			})
		})
	}
}

// TestForwardStopReturnsWithTheListener: without a stop nothing is sent.
func TestForwardStopReturnsWithTheListener(t *testing.T) {
	listener := newFakeListener(0)
	close(listener.done)
	s := &Supervisor{Log: io.Discard, Notify: func(string) {}, state: newMachine(ignore)}
	s.forwardStop(t.Context(), listener)
	if listener.interrupts != 0 || listener.kills != 0 {
		t.Errorf("%d interrupts and %d kills, want none", listener.interrupts, listener.kills)
	}
}

// TestDrain: a process that the listener left behind may hold its output open.
func TestDrain(t *testing.T) {
	tests := []struct {
		summary string
		open    time.Duration // how long output stays open
		after   time.Duration // until drain returns
	}{
		{summary: "closed in time", open: time.Second, after: time.Second},
		{summary: "held open", open: time.Hour, after: drainWait},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				output, write := io.Pipe()
				time.AfterFunc(tt.open, func() { _ = write.Close() })
				read := make(chan struct{})
				go func() {
					defer close(read)
					_, _ = io.Copy(io.Discard, output)
				}()

				started := time.Now()
				drain(output, read)
				if after := time.Since(started); after != tt.after {
					t.Errorf("returned after %s, want %s", after, tt.after)
				}
			})
		})
	}
}

// TestPause: a drain of a caller that does not restart the service ends by itself,
// unless somebody drains meanwhile.
func TestPause(t *testing.T) {
	tests := []struct {
		summary string
		drained bool // by somebody, after the pause
		online  time.Duration
	}{
		{summary: "the caller is gone", online: pauseWait},
		{summary: "drained meanwhile", drained: true, online: time.Hour},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			s := &Supervisor{Log: io.Discard, Notify: func(string) {}, Delay: Backoff, state: newMachine(ignore)}
			ctx, cancel := context.WithCancel(t.Context())
			s.state.pause()
			began := time.Now()
			go func() {
				if tt.drained {
					time.Sleep(time.Second)
					s.state.drain(time.Time{})
					time.Sleep(time.Hour - time.Second)
					s.state.resume()
				}
			}()

			err := s.supervise(ctx, func(context.Context) (outcome, error) {
				cancel()
				return outcome{}, nil
			})
			if took := time.Since(began); err != nil || took != tt.online {
				t.Errorf("%s: started the listener after %s, want %s; %v", tt.summary, took, tt.online, err)
			}
		})
	}
}

// TestPauseIsNotRestored: it ends with a restart of the service, and a drain that
// somebody asked for does not.
func TestPauseIsNotRestored(t *testing.T) {
	tests := []struct {
		summary string
		ask     func(*machine)
		want    bool // the drain holds
	}{
		{summary: "paused", ask: func(m *machine) { m.pause() }},
		{summary: "drained, then paused", ask: func(m *machine) { m.drain(time.Time{}); m.pause() }, want: true},
		{summary: "paused, then drained", ask: func(m *machine) { m.pause(); m.drain(time.Time{}) }, want: true},
	}
	for _, tt := range tests {
		before := &Supervisor{Log: io.Discard, ControlDir: t.TempDir()}
		before.state = newMachine(before.save)
		tt.ask(before.state)

		after := &Supervisor{Log: io.Discard, ControlDir: before.ControlDir}
		after.state = newMachine(after.save)
		server, err := after.openControl()
		if err != nil {
			t.Fatal(err)
		}
		_ = server.Close()
		if status, _ := after.state.current(); (status.Drain != nil) != tt.want {
			t.Errorf("%s: after the restart the drain is %+v", tt.summary, status.Drain)
		}
	}
}
