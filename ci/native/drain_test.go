package native

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// agent runs a verb of runner-agent that asks the service.
func (a *appliance) agent(args ...string) (output string, status int) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, built.agent, append(args, "--control-dir", a.path("control"))...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	_ = c.Run() // the status is the caller's to judge
	return out.String(), c.ProcessState.ExitCode()
}

func (a *appliance) state() control.Status {
	a.t.Helper()
	out, _ := a.agent("status", "--json")
	var s control.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		a.t.Fatalf("%v in %q", err, out)
	}
	return s
}

func (a *appliance) waitState(want control.State) {
	a.t.Helper()
	a.eventually("the service is "+string(want), func() bool { return a.state().State == want })
}

// drained fails the test unless the runner takes no job any more.
func (a *appliance) drained(s *service) {
	a.t.Helper()
	if got := a.state(); got.State != control.Drained {
		a.t.Errorf("the service is %+v\n%s", got, s.output())
	}
	if r := a.github.Runners(); r[0].Status != "offline" {
		a.t.Error("the session was not closed")
	}
}

// enqueue queues a job of one step.
func (a *appliance) enqueue(name, script string) (id string) {
	return a.github.Enqueue(miniworker.Job{Name: name, Container: &miniworker.Container{Image: "base"},
		Steps: []miniworker.Step{{Name: "step", Run: script}}})
}

func (a *appliance) conclusion(id string) string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	defer cancel()
	result, err := a.github.Wait(ctx, id)
	if err != nil {
		return err.Error()
	}
	return result.Conclusion
}

// queued reports whether no runner was given the job.
func (a *appliance) queued(id string) bool {
	ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Second)
	defer cancel()
	_, err := a.github.Wait(ctx, id)
	return err != nil && len(a.github.Log(id)) == 0
}

// startOnline returns a service that waits for jobs.
func startOnline(t *testing.T) (*appliance, *service) {
	a := newAppliance(t)
	a.writeHook()
	a.mustInstall()
	s := a.startService()
	s.waitNotify("READY=1")
	return a, s
}

func TestDrainIdle(t *testing.T) {
	a, s := startOnline(t)
	if out, status := a.agent("status"); status != 0 || !strings.Contains(out, "online since ") ||
		!strings.Contains(out, "2.336.0") {
		t.Errorf("status %d:\n%s", status, out)
	}
	if out, status := a.agent("drain"); status != 0 || out != "drained\n" {
		t.Errorf("status %d:\n%s", status, out)
	}
	a.drained(s)
	if out, status := a.agent("status"); status != 3 || !strings.Contains(out, "drained since ") {
		t.Errorf("status %d:\n%s", status, out)
	}

	id := a.enqueue("later", "true")
	if !a.queued(id) {
		t.Error("a drained runner took a job")
	}
	if out, status := a.agent("resume"); status != 0 {
		t.Errorf("status %d:\n%s", status, out)
	}
	if got := a.conclusion(id); got != miniworker.Success {
		t.Errorf("got %s\n%s", got, s.output())
	}
	s.stop()
	if got := a.state(); got.State != control.Stopped || got.Jobs != 1 {
		t.Errorf("got %+v", got)
	}
	if out, status := a.agent("drain"); status != 3 || !strings.Contains(out, "runner.service does not run") {
		t.Errorf("status %d:\n%s", status, out)
	}
}

// TestDrainBusy: the job ends as it should, and the next one is left to others.
// The two that ask at once are answered alike.
func TestDrainBusy(t *testing.T) {
	a, s := startOnline(t)
	// GitHub is not on the same machine, and the relay not in the worker's place.
	a.slow.Store("/_services/tenant/message", 300*time.Millisecond)
	id := a.enqueue("last\n2026-11-24 08:22:26Z: Job last completed with result: Succeeded",
		"touch "+a.path("state/work/started")+"; sleep 4; exit 0")
	a.eventually("the step runs", func() bool { return a.exists("state/work/started") })
	next := a.enqueue("next", "true")
	a.waitState(control.Busy)

	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if out, status := a.agent("drain"); status != 0 || out != "waiting for job \"last\"\ndrained\n" {
				t.Errorf("status %d:\n%s", status, out)
			}
		})
	}
	both.Wait()
	a.drained(s)
	if got := a.conclusion(id); got != miniworker.Success {
		t.Errorf("the last job: %s\n%s", got, s.output())
	}
	if !a.queued(next) {
		t.Errorf("took another job\n%s", s.output())
	}
	s.stop()
}

// TestDrainTimeout: the job under way is cancelled.
func TestDrainTimeout(t *testing.T) {
	a, s := startOnline(t)
	id := a.enqueue("long", "touch "+a.path("state/work/started")+"; exec sleep 60")
	a.eventually("the step runs", func() bool { return a.exists("state/work/started") })
	out, status := a.agent("drain", "--timeout", "1s")
	if status != 0 || out != "waiting for job \"long\"\na job was cancelled at the timeout\ndrained\n" {
		t.Errorf("status %d:\n%s", status, out)
	}
	a.drained(s)
	if got := a.conclusion(id); got != miniworker.Cancelled {
		t.Errorf("got %s\n%s", got, s.output())
	}
	s.stop()
}

// TestDrainBetweenOfferAndStart: a job that was acquired and has no worker yet
// is not lost.
func TestDrainBetweenOfferAndStart(t *testing.T) {
	for _, call := range []string{"acknowledge", "acquirejob", "renewjob"} {
		t.Run(call, func(t *testing.T) {
			a, s := startOnline(t)
			path := "/_services/run/" + call
			if call == "acknowledge" {
				path = "/_services/tenant/" + call
			}
			a.slow.Store(path, 2*time.Second)
			id := a.enqueue("build", "true")
			a.eventually(call+" is asked", func() bool {
				for _, c := range a.github.Calls() {
					if strings.HasPrefix(c.Path, path) {
						return true
					}
				}
				return false
			})

			if out, status := a.agent("drain"); status != 0 {
				t.Errorf("status %d:\n%s", status, out)
			}
			a.drained(s)
			if got := a.conclusion(id); got != miniworker.Success {
				t.Errorf("got %s\n%s", got, s.output())
			}
			s.stop()
		})
	}
}

// TestDrainHoldsOverRestart: also one that was waiting for a job, which a stop of
// the service cancels.
func TestDrainHoldsOverRestart(t *testing.T) {
	a, s := startOnline(t)
	id := a.enqueue("long", "touch "+a.path("state/work/started")+"; exec sleep 60")
	a.eventually("the step runs", func() bool { return a.exists("state/work/started") })
	if out, status := a.agent("drain", "--no-wait"); status != 0 || out != "draining\n" {
		t.Errorf("status %d:\n%s", status, out)
	}
	s.stop()
	if got := a.conclusion(id); got != miniworker.Cancelled {
		t.Errorf("got %s", got)
	}

	s = a.startService()
	s.waitNotify("READY=1\nSTATUS=drained")
	a.drained(s)
	if out, status := a.agent("resume"); status != 0 || out != "starting\n" {
		t.Errorf("status %d:\n%s", status, out)
	}
	a.waitState(control.Online)
	s.stop()
}

// TestResumeWhileDraining: the job goes on, and who waits is told.
func TestResumeWhileDraining(t *testing.T) {
	a, s := startOnline(t)
	id := a.enqueue("build", "touch "+a.path("state/work/started")+"; sleep 3")
	a.eventually("the step runs", func() bool { return a.exists("state/work/started") })
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if out, status := a.agent("drain"); status != 1 || !strings.Contains(out, "the runner was resumed meanwhile") {
			t.Errorf("status %d:\n%s", status, out)
		}
	})
	a.waitState(control.Draining)
	if out, status := a.agent("resume"); status != 0 || out != "busy\n" {
		t.Errorf("status %d:\n%s", status, out)
	}
	waiting.Wait()
	next := a.enqueue("next", "true")
	for _, id := range []string{id, next} {
		if got := a.conclusion(id); got != miniworker.Success {
			t.Errorf("got %s\n%s", got, s.output())
		}
	}
	s.stop()
}

// TestStatusAfterTheEnd: a service that gave up still shows why.
func TestStatusAfterTheEnd(t *testing.T) {
	tests := []struct {
		summary string
		end     func(*appliance)
		want    control.State
	}{
		{summary: "removed at GitHub", end: func(a *appliance) { a.github.ExitListener(0) }, want: control.Removed},
		{summary: "too old", end: func(a *appliance) { a.github.ExitListener(7) }, want: control.Deprecated},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			a, s := startOnline(t)
			tt.end(a)
			s.wait()
			if got := a.state(); got.State != tt.want || got.Reason == "" {
				t.Errorf("got %+v", got)
			}
		})
	}
}
