package supervise

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/control"
)

// TestDrainWaitsForAMoment: the listener is interrupted when no job is under way
// and none can be.
func TestDrainWaitsForAMoment(t *testing.T) {
	tests := []struct {
		summary string
		limit   time.Duration
		script  func(m *machine, f *fakeListener) // begins with the drain
		after   time.Duration                     // from the drain to the interrupt
		cancel  bool
	}{
		{
			summary: "idle",
			script:  func(*machine, *fakeListener) {},
			after:   0,
		},
		{
			summary: "a job ends",
			script: func(m *machine, f *fakeListener) {
				m.startJob("build")
				f.worker.Store(true)
				time.Sleep(time.Hour)
				f.worker.Store(false)
				m.endJob()
			},
			after: time.Hour,
		},
		{
			summary: "the end of a job is not printed",
			script: func(m *machine, f *fakeListener) {
				m.startJob("build")
				f.worker.Store(true)
				time.Sleep(time.Hour)
				f.worker.Store(false)
			},
			after: time.Hour + endWait,
		},
		{
			summary: "a worker whose start is not printed",
			script: func(m *machine, f *fakeListener) {
				f.worker.Store(true)
				time.Sleep(time.Minute)
				f.worker.Store(false)
				m.endJob()
			},
			after: time.Minute,
		},
		{
			summary: "a job that gets no worker",
			script:  func(m *machine, _ *fakeListener) { m.startJob("build") },
			after:   startWait,
		},
		{
			summary: "a message becomes a job",
			script: func(m *machine, f *fakeListener) {
				f.messages.Store("5")
				time.Sleep(3 * time.Second)
				m.startJob("build")
				f.worker.Store(true)
				time.Sleep(time.Minute)
				f.worker.Store(false)
				m.endJob()
			},
			after: time.Minute + 3*time.Second,
		},
		{
			summary: "a message right after a job",
			script: func(m *machine, f *fakeListener) {
				f.messages.Store("5")
				m.startJob("build")
				f.worker.Store(true)
				time.Sleep(time.Minute)
				f.worker.Store(false)
				f.messages.Store("6")
				m.endJob()
				time.Sleep(3 * time.Second)
				m.startJob("next")
				f.worker.Store(true)
				time.Sleep(time.Minute)
				f.worker.Store(false)
				m.endJob()
			},
			after: 2*time.Minute + 3*time.Second,
		},
		{
			summary: "a message that becomes nothing",
			script:  func(_ *machine, f *fakeListener) { f.messages.Store("5") },
			after:   settleWait,
		},
		{
			summary: "the deadline passes during a job",
			limit:   10 * time.Minute,
			script: func(m *machine, f *fakeListener) {
				m.startJob("build")
				f.worker.Store(true)
			},
			after: 10 * time.Minute, cancel: true,
		},
		{
			summary: "a job ends before the deadline",
			limit:   10 * time.Minute,
			script: func(m *machine, f *fakeListener) {
				m.startJob("build")
				f.worker.Store(true)
				time.Sleep(9 * time.Minute)
				f.worker.Store(false)
				m.endJob()
			},
			after: 9 * time.Minute,
		},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Supervisor{Log: io.Discard, Notify: func(string) {}, state: newMachine(ignore)}
				s.state.fire(listening, "")
				listener := newFakeListener(0)
				stopped := make(chan time.Duration)
				started := time.Now()
				go func() {
					drained := s.forwardStop(t.Context(), listener)
					if !drained {
						t.Error("not reported as drained")
					}
					stopped <- time.Since(started)
				}()
				go func() {
					// A job that began before the drain is one that is under way.
					tt.script(s.state, listener)
				}()
				synctest.Wait()
				if _, err := (handler{s.state}).Drain(tt.limit); err != nil {
					t.Error(err)
				}

				after := <-stopped
				if after < tt.after || after > tt.after+2*lookEvery {
					t.Errorf("interrupted after %s, want %s", after, tt.after)
				}
				status, _ := s.state.current()
				if status.Drain.Cancelled != tt.cancel {
					t.Errorf("cancelled: %t, want %t", status.Drain.Cancelled, tt.cancel)
				}
				if listener.interrupts != 1 || listener.kills != 0 {
					t.Errorf("%d interrupts and %d kills, want 1 and 0", listener.interrupts, listener.kills)
				}
			})
		})
	}
}

// TestTwoDrains: of two deadlines the earlier counts, whichever comes first.
func TestTwoDrains(t *testing.T) {
	early := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	late := early.Add(time.Hour)
	never := time.Time{}
	tests := []struct {
		summary string
		asked   [2]time.Time
		want    time.Time
	}{
		{summary: "later", asked: [2]time.Time{early, late}, want: early},
		{summary: "earlier", asked: [2]time.Time{late, early}, want: early},
		{summary: "with and without", asked: [2]time.Time{late, never}, want: late},
		{summary: "without and with", asked: [2]time.Time{never, late}, want: late},
	}
	for _, tt := range tests {
		m := newMachine(ignore)
		first := m.drain(tt.asked[0])
		second := m.drain(tt.asked[1])
		if !second.Drain.Deadline.Equal(tt.want) {
			t.Errorf("%s: deadline %s, want %s", tt.summary, second.Drain.Deadline, tt.want)
		}
		if !second.Drain.Since.Equal(first.Drain.Since) || second.State != control.Draining {
			t.Errorf("%s: the second drain is another one: %+v", tt.summary, second)
		}
	}
}

// serviceListener serves until it is interrupted, and counts its starts.
const serviceListener = `echo x >> starts
echo "Current runner version: '2.336.0'"
trap 'echo "Exiting..."; exit 0' INT
echo "2026-11-24 08:22:20Z: Listening for Jobs"
while :; do sleep 0.02; done`

// runService runs a service in the background, and returns its client. At the
// end of the test it is stopped.
func runService(t *testing.T, s *Supervisor) (c *control.Client, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return &control.Client{Dir: s.ControlDir}, stop
}

func waitState(t *testing.T, c *control.Client, want control.State) control.Status {
	t.Helper()
	var got control.Status
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var err error
		if got, err = c.Status(t.Context()); err == nil && got.State == want {
			return got
		}
	}
	t.Fatalf("the service is %+v, want %s", got, want)
	return got
}

func starts(s *Supervisor) int {
	data, _ := os.ReadFile(filepath.Join(s.Config.ActionsRunnerDir, "starts"))
	return strings.Count(string(data), "x")
}

// TestDrainHoldsUntilResume: also over a restart of the service, and with more
// than one that asks.
func TestDrainHoldsUntilResume(t *testing.T) {
	s, l := newSupervisor(t, serviceListener)
	s.ControlDir = t.TempDir()
	c, stop := runService(t, s)
	if got := waitState(t, c, control.Online); got.RunnerVersion != "2.336.0" {
		t.Errorf("actions runner %q", got.RunnerVersion)
	}

	for range 2 {
		if _, err := c.Drain(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := c.Wait(t.Context(), nil); err != nil || got.State != control.Drained {
		t.Fatalf("got %+v, %v", got, err)
	}
	stop()
	if got := waitState(t, c, control.Stopped); got.Drain == nil {
		t.Errorf("stopped, the drain is forgotten: %+v", got)
	}

	again, _ := newSupervisor(t, serviceListener)
	again.ControlDir, again.Config = s.ControlDir, s.Config
	again.Notify = l.notify
	c, _ = runService(t, again)
	waitState(t, c, control.Drained)
	if n := starts(s); n != 1 {
		t.Errorf("the listener was started %d times, want once", n)
	}
	if !strings.Contains(l.String(), "(READY=1, STATUS=drained;") {
		t.Errorf("a drained service does not become ready:\n%s", l)
	}

	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := waitState(t, c, control.Online); got.Drain != nil {
		t.Errorf("resumed, but %+v", got.Drain)
	}
	if n := starts(s); n != 2 {
		t.Errorf("the listener was started %d times, want twice", n)
	}
}

// TestDrainWhileWaitingToStart: a drain does not wait for the next start.
func TestDrainWhileWaitingToStart(t *testing.T) {
	s, _ := newSupervisor(t, "echo x >> starts; exit 2")
	s.ControlDir = t.TempDir()
	s.Delay = func(int) time.Duration { return time.Hour }
	c, _ := runService(t, s)
	waitState(t, c, control.Starting)
	for starts(s) == 0 {
		time.Sleep(time.Millisecond)
	}
	if _, err := c.Drain(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	waitState(t, c, control.Drained)
}

// TestResumeDuringJob: the job goes on, and the listener with it.
func TestResumeDuringJob(t *testing.T) {
	s, _ := newSupervisor(t, "cp /bin/sleep bin/Runner.Worker\n"+`trap 'exit 0' INT
echo x >> starts
echo "2026-11-24 08:22:20Z: Listening for Jobs"
echo "2026-11-24 08:22:21Z: Running job: build"
bin/Runner.Worker 30 & worker=$!
until [ -e end ]; do sleep 0.02; done
kill $worker; wait $worker
echo "2026-11-24 08:22:26Z: Job build completed with result: Succeeded"
while :; do sleep 0.02; done`)
	s.ControlDir = t.TempDir()
	c, _ := runService(t, s)
	if got := waitState(t, c, control.Busy); got.Job != "build" {
		t.Errorf("job %q", got.Job)
	}
	if _, err := c.Drain(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := waitState(t, c, control.Draining); got.Job != "build" {
		t.Errorf("job %q", got.Job)
	}
	if got, err := c.Resume(t.Context()); err != nil || got.State != control.Busy {
		t.Errorf("got %+v, %v", got, err)
	}

	if err := os.WriteFile(filepath.Join(s.Config.ActionsRunnerDir, "end"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := waitState(t, c, control.Online); got.Jobs != 1 || starts(s) != 1 {
		t.Errorf("got %+v, %d starts", got, starts(s))
	}
}

// TestNameDoesNotEndADrain: a job whose name reads like the end of a job, with
// its worker still there, is waited for.
func TestNameDoesNotEndADrain(t *testing.T) {
	s, l := newSupervisor(t, "")
	const name = "x\n2026-11-24 08:22:26Z: Job x completed with result: Succeeded\n"
	worker := true
	s.follow(strings.NewReader("2026-11-24 08:22:20Z: Listening for Jobs\n2026-11-24 08:22:24Z: Running job: "+name+"\n"),
		func() bool { return worker })
	if got, _ := s.state.current(); got.State != control.Busy || got.Job != "x" {
		t.Errorf("got %+v", got)
	}
	if strings.Contains(l.String(), "(guests reset)") {
		t.Errorf("the guests were reset:\n%s", l)
	}

	worker = false
	// Its end comes before its worker: the look at the worker shows it again.
	s.follow(readerOf("2026-11-24 08:22:24Z: Running job: "+name+"\n"), noWorker)
	listener := newFakeListener(0)
	listener.worker.Store(true)
	w := watch{state: s.state, listener: listener}
	status, _ := s.state.current()
	if status.State != control.Online {
		t.Errorf("got %+v", status)
	}
	w.correct(status)
	if got, _ := s.state.current(); got.State != control.Busy || got.Job != "x" {
		t.Errorf("got %+v", got)
	}

	s.follow(strings.NewReader("2026-11-24 08:22:26Z: Job "+name+" completed with result: Succeeded\n"), noWorker)
	if got, _ := s.state.current(); got.State != control.Online || got.Job != "" {
		t.Errorf("got %+v", got)
	}
}

func TestJobNamesAreBounded(t *testing.T) {
	s, _ := newSupervisor(t, "")
	s.follow(strings.NewReader("2026-11-24 08:22:24Z: Running job: "+strings.Repeat("ä", 1000)+"\n"), noWorker)
	status, _ := s.state.current()
	if diff := cmp.Diff(strings.Repeat("ä", maxJobName/2), status.Job); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestRelayHoldsTheEnd: with the relay there is no moment between two jobs in
// which the listener could take another, however quick GitHub is.
func TestRelayHoldsTheEnd(t *testing.T) {
	// The relay is this test, and bin/Runner.Worker its process.
	s, l := newSupervisor(t, "cp /bin/sleep bin/Runner.Worker\n"+`trap 'echo "Exiting..."; interrupted=1' INT
echo "2026-11-24 08:22:20Z: Listening for Jobs"
echo "2026-11-24 08:22:21Z: Running job: build"
bin/Runner.Worker 30 & worker=$!
until [ -e end ]; do sleep 0.02; done
kill $worker; wait $worker
[ -z "$interrupted" ] || { echo "2026-11-24 08:22:26Z: Job build completed with result: Canceled"; exit 0; }
echo "2026-11-24 08:22:26Z: Job build completed with result: Succeeded"
echo "2026-11-24 08:22:26Z: Running job: next"
sleep 30`)
	s.ControlDir = t.TempDir()
	c, _ := runService(t, s)
	waitState(t, c, control.Busy)

	started := time.Now()
	if err := c.JobEnded(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(started); took > control.HoldTime/2 {
		t.Errorf("held for %s without a drain", took)
	}
	if got := waitState(t, c, control.Busy); got.Jobs != 0 {
		t.Errorf("got %+v", got)
	}

	if _, err := c.Drain(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	waitState(t, c, control.Draining)
	if err := c.JobEnded(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(started); took > control.HoldTime {
		t.Errorf("held for %s", took)
	}
	if !strings.Contains(l.String(), "runner: Exiting...") {
		t.Errorf("released before the listener was interrupted:\n%s", l)
	}
	if err := os.WriteFile(filepath.Join(s.Config.ActionsRunnerDir, "end"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := waitState(t, c, control.Drained); got.Jobs != 1 || got.Drain.Cancelled {
		t.Errorf("got %+v", got)
	}
	if strings.Contains(l.String(), "Running job: next") {
		t.Errorf("took another job:\n%s", l)
	}
}
