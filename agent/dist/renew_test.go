package dist

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mkappliance/mkappliance/agent/control"
)

// TestRenew: the service is online with the image's copy, and there is 2.338.0.
func TestRenew(t *testing.T) {
	tests := []struct {
		summary string
		prepare func(*fakeService, *fakeOrigin)
		version string
		want    Outcome
		starts  []string // of the service, by the renewal
		state   State
	}{
		{
			summary: "a newer one",
			want:    Outcome{Running: "2.338.0", Version: "2.338.0", From: "fake", Renewed: true},
			starts:  []string{"2.338.0"},
			state:   State{Current: "2.338.0"},
		},
		{
			summary: "a newer one, after a job",
			prepare: func(f *fakeService, _ *fakeOrigin) { f.busy = 5 * time.Hour },
			want:    Outcome{Running: "2.338.0", Version: "2.338.0", From: "fake", Renewed: true},
			starts:  []string{"2.338.0"},
			state:   State{Current: "2.338.0"},
		},
		{
			summary: "none",
			prepare: func(_ *fakeService, o *fakeOrigin) { o.newest = baked },
			want:    Outcome{Running: baked},
		},
		{
			summary: "an older one than the image's",
			prepare: func(_ *fakeService, o *fakeOrigin) { o.newest = "2.335.0" },
			want:    Outcome{Running: baked},
		},
		{
			summary: "not online",
			prepare: func(f *fakeService, _ *fakeOrigin) { f.acts["2.338.0"] = "offline" },
			want: Outcome{Running: baked, Version: "2.338.0", From: "fake",
				Failed: "the runner was not online within 10m0s, but starting"},
			starts: []string{"2.338.0", baked},
			state: State{Failed: []Failure{{Version: "2.338.0",
				Reason: "the runner was not online within 10m0s, but starting"}}},
		},
		{
			summary: "GitHub refuses it",
			prepare: func(f *fakeService, _ *fakeOrigin) { f.acts["2.338.0"] = "deprecated" },
			want: Outcome{Running: baked, Version: "2.338.0", From: "fake",
				Failed: "GitHub does not serve it"},
			starts: []string{"2.338.0", baked},
			state:  State{Failed: []Failure{{Version: "2.338.0", Reason: "GitHub does not serve it"}}},
		},
		{
			summary: "it is another than its archive's name says",
			prepare: func(f *fakeService, _ *fakeOrigin) { f.acts["2.338.0"] = "another" },
			want: Outcome{Running: baked, Version: "2.338.0", From: "fake",
				Failed: "the runner came online with version 2.400.0"},
			starts: []string{"2.338.0", baked},
			state: State{Failed: []Failure{{Version: "2.338.0",
				Reason: "the runner came online with version 2.400.0"}}},
		},
		{
			summary: "GitHub cannot be reached after the restart",
			prepare: func(f *fakeService, _ *fakeOrigin) { f.acts["2.338.0"], f.acts[baked] = "offline", "offline" },
			want: Outcome{Running: baked, Version: "2.338.0", From: "fake",
				Failed: "the runner was not online within 10m0s, but starting; nor is the runner online with version " +
					baked + ", so 2.338.0 will be tried again"},
			starts: []string{"2.338.0", baked},
		},
		{
			summary: "GitHub has stopped to serve the image's",
			prepare: func(f *fakeService, _ *fakeOrigin) { f.set(control.Deprecated) },
			want:    Outcome{Running: "2.338.0", Version: "2.338.0", From: "fake", Renewed: true},
			starts:  []string{"2.338.0"},
			state:   State{Current: "2.338.0"},
		},
		{
			summary: "the service was stopped",
			prepare: func(f *fakeService, _ *fakeOrigin) { f.set(control.Stopped) },
			want: Outcome{Running: baked, Version: "2.338.0", From: "fake",
				WaitsFor: "the next start of runner.service"},
			state: State{Trial: &Trial{Version: "2.338.0", Starts: 1}},
		},
		{
			summary: "drained by somebody",
			prepare: func(f *fakeService, _ *fakeOrigin) {
				f.set(control.Drained)
				f.status.Drain = &control.Drain{}
			},
			want: Outcome{Running: baked, Version: "2.338.0", From: "fake",
				WaitsFor: "runner-agent resume, as the runner is drained"},
			starts: []string{"2.338.0"},
			state:  State{Trial: &Trial{Version: "2.338.0", Starts: 1}},
		},
		{
			summary: "a certain one",
			version: "2.337.1",
			want:    Outcome{Running: "2.337.1", Version: "2.337.1", From: "fake", Renewed: true},
			starts:  []string{"2.337.1"},
			state:   State{Current: "2.337.1"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, f, o := newRenewer(t)
				if tt.prepare != nil {
					tt.prepare(f, o)
				}
				outcome, err := r.Renew(t.Context(), tt.version)
				if err != nil {
					t.Fatal(err)
				}
				check(t, r, f, outcome, tt.want, tt.starts, tt.state)
			})
		})
	}
}

// newRenewer returns a renewer of a service that is online with the image's copy.
func newRenewer(t *testing.T) (*Renewer, *fakeService, *fakeOrigin) {
	t.Helper()
	store := newStore(t)
	f := &fakeService{store: store, acts: map[string]string{}}
	if err := f.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.status.RunnerVersion = baked
	f.set(control.Online)
	time.Sleep(time.Hour)
	o := &fakeOrigin{t: t, newest: "2.338.0"}
	return &Renewer{Store: store, Origin: o, Runner: f, Restart: f.start, Bound: 10 * time.Minute,
		Now: time.Now, Log: io.Discard}, f, o
}

func check(t *testing.T, r *Renewer, f *fakeService, got, want Outcome, starts []string, state State) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcome: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(starts, f.starts[1:], cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("starts: -want +got:\n%s", diff)
	}
	after, err := LoadState(r.Store.Dir)
	if err != nil {
		t.Fatal(err)
	}
	state.Schema = stateSchema
	ignore := []cmp.Option{cmpopts.IgnoreFields(State{}, "Copies", "Checked"),
		cmpopts.IgnoreFields(Failure{}, "Time"), cmpopts.IgnoreFields(Trial{}, "Since"), cmpopts.EquateEmpty()}
	if diff := cmp.Diff(state, *after, ignore...); diff != "" {
		t.Errorf("state: -want +got:\n%s", diff)
	}
}

// TestRenewAgain: a version that failed is tried on request alone, and then may
// succeed; --to leads to the image's.
func TestRenewAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f, o := newRenewer(t)
		f.acts["2.338.0"] = "offline"
		if _, err := r.Renew(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		f.starts = f.starts[:1]

		outcome, err := r.Renew(t.Context(), "")
		if err != nil || outcome.Version != "" || !strings.HasPrefix(outcome.Failed, "version 2.338.0 failed before: ") {
			t.Errorf("got %+v, %v", outcome, err)
		}
		if len(f.starts) != 1 {
			t.Errorf("started %q", f.starts[1:])
		}

		delete(f.acts, "2.338.0")
		asked := o.asked
		outcome, err = r.Renew(t.Context(), "2.338.0")
		if err != nil || !outcome.Renewed || f.running() != "2.338.0" {
			t.Errorf("on request: got %+v, %v", outcome, err)
		}

		outcome, err = r.Renew(t.Context(), baked)
		want := Outcome{Running: baked, Version: baked, From: "the image", Renewed: true}
		if err != nil || outcome != want || f.running() != baked {
			t.Errorf("back to the image's: got %+v, %v", outcome, err)
		}
		if _, err := r.Renew(t.Context(), "2.335.0"); err == nil ||
			err.Error() != "refused: version 2.335.0 is older than the image's, 2.336.0" {
			t.Errorf("older than the image's: got %v", err)
		}
		if o.asked > asked+1 {
			t.Errorf("asked %d times for what is there", o.asked-asked)
		}
	})
}

// TestInterrupted: a renewal that was killed is finished by the next one.
func TestInterrupted(t *testing.T) {
	tests := []struct {
		summary string
		act     string
		want    Outcome
	}{
		{summary: "online", want: Outcome{Running: "2.338.0"}},
		{summary: "offline", act: "offline", want: Outcome{Running: baked, Version: "2.338.0", From: "fake",
			Failed: "the runner was not online within 10m0s, but starting"}},
	}
	for _, tt := range tests {
		for _, after := range []time.Duration{0, time.Second, 3 * time.Second, 6 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				r, f, _ := newRenewer(t)
				f.acts["2.338.0"] = tt.act
				f.busy = 2 * time.Second
				ctx, cancel := context.WithTimeout(t.Context(), after)
				defer cancel()
				_, first := r.Renew(ctx, "")

				outcome, err := r.Renew(t.Context(), "")
				if first == nil {
					t.Fatalf("%s: not interrupted", tt.summary)
				}
				if err != nil || outcome != tt.want {
					t.Errorf("%s, interrupted after %s (%v): got %+v, %v", tt.summary, after, first, outcome, err)
				}
				want := tt.want.Running
				if f.running() != want {
					t.Errorf("%s, interrupted after %s: %s runs, want %s", tt.summary, after, f.running(), want)
				}
			})
		}
	}
}

// TestNewImage: the image's own copy is newer than the one that ran.
func TestNewImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f, o := newRenewer(t)
		if _, err := r.Renew(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		r.Store.Version = "2.339.0"
		if err := f.start(t.Context()); err != nil || f.running() != "2.339.0" {
			t.Errorf("%s runs, %v", f.running(), err)
		}

		// That image is left for the one before.
		r.Store.Version = baked
		if err := f.start(t.Context()); err != nil || f.running() != "2.338.0" {
			t.Errorf("after a rollback %s runs, %v", f.running(), err)
		}
		r.Store.Version = "2.339.0"
		if err := f.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		o.newest = "2.339.0"
		outcome, err := r.Renew(t.Context(), "")
		if err != nil || outcome != (Outcome{Running: "2.339.0"}) {
			t.Errorf("got %+v, %v", outcome, err)
		}
		if left := copies(t, r.Store); len(left) != 0 {
			t.Errorf("left %q", left)
		}
		state, err := LoadState(r.Store.Dir)
		if err != nil || state.Copy("2.339.0").Published.Year() != 1999 {
			t.Errorf("of the image's copy is known %+v, %v", state.Copy("2.339.0"), err)
		}
	})
}

func TestCheckChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f, _ := newRenewer(t)
		outcome, err := r.Find(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		check(t, r, f, outcome, Outcome{Running: baked, Version: "2.338.0", From: "fake"}, nil, State{})
		if left := copies(t, r.Store); len(left) != 0 {
			t.Errorf("left %q", left)
		}
	})
}

// TestNoRoom: nothing is downloaded that /var has no room for.
func TestNoRoom(t *testing.T) {
	s := newStore(t)
	if err := s.checkRoom(1); err != nil {
		t.Skip(err)
	}
	err := s.checkRoom(1 << 50)
	if err == nil || !strings.Contains(err.Error(), "make room there") {
		t.Errorf("got %v", err)
	}
}

// TestLog: each step has a line.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f, _ := newRenewer(t)
		f.acts["2.338.0"] = "deprecated"
		var log bytes.Buffer
		r.Log = &log
		if _, err := r.Renew(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		want := `downloading actions runner 2.338.0 from fake
unpacking actions runner 2.338.0
waiting until the runner is online with actions runner 2.338.0
going back to actions runner 2.336.0: GitHub does not serve it
waiting until the runner is online with actions runner 2.336.0
`
		if diff := cmp.Diff(want, log.String()); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}
