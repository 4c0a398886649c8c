package dist

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mkappliance/mkappliance/agent/control"
)

// settle finishes what an interrupted renewal left: a trial is tried out, and a version
// that has failed is replaced if it still runs. It reports whether nothing is left.
func (r *Renewer) settle(ctx context.Context, state *State) (Outcome, bool, error) {
	outcome := Outcome{Running: r.running(state)}
	if t := state.Trial; t != nil && r.Store.usable(t.Version) {
		outcome.Version, outcome.From = t.Version, state.Copy(t.Version).From
		outcome, err := r.tryOut(ctx, state, outcome)
		return outcome, outcome.Renewed, err
	}

	state.Trial = nil
	if r.Store.Active() == "" || outcome.Running == r.Store.Active() {
		return outcome, true, nil
	}
	if err := state.save(r.Store.Dir); err != nil {
		return outcome, false, err
	}
	return outcome, true, r.restart(ctx)
}

// change has the service run a version that is there.
func (r *Renewer) change(ctx context.Context, state *State, outcome Outcome) (Outcome, error) {
	state.try(outcome.Version, r.Now())
	if outcome.Version == r.Store.Version {
		state.Trial, state.Current = nil, ""
	}
	if err := state.save(r.Store.Dir); err != nil {
		return outcome, err
	}
	return r.tryOut(ctx, state, outcome)
}

// tryOut restarts the service, and goes back if the runner is not online then.
func (r *Renewer) tryOut(ctx context.Context, state *State, outcome Outcome) (Outcome, error) {
	status, err := r.Runner.Status(ctx)
	if err != nil {
		return outcome, err
	}
	if status.State == control.Stopped || status.State == control.Removed {
		// The registration too is made with the chosen copy.
		outcome.WaitsFor = "the next start of runner.service"
		_, err := r.Store.Select(r.Now())
		return outcome, err
	}

	began := r.Now()
	if !r.runs(status, outcome.Version) {
		if err := r.restart(ctx); err != nil {
			return outcome, err
		}
	}
	end, err := r.await(ctx, outcome.Version, began)
	switch {
	case err != nil:
		return outcome, err
	case end.undecided != "":
		outcome.WaitsFor = end.undecided
		return outcome, nil
	case end.online:
		return r.accept(state, outcome)
	}
	return r.goBack(ctx, state, outcome, end.reason)
}

// runs reports whether the runner is online with a version.
func (r *Renewer) runs(status control.Status, version string) bool {
	return (status.State == control.Online || status.State == control.Busy) && status.RunnerVersion == version
}

// accept notes that the runner is online with a version, and removes older ones but
// for that before it, to which --to leads back.
func (r *Renewer) accept(state *State, outcome Outcome) (Outcome, error) {
	// Select has counted the start meanwhile.
	fresh, err := LoadState(r.Store.Dir)
	if err != nil {
		return outcome, err
	}
	before := fresh.Current
	if fresh.Trial != nil && fresh.Trial.Version == outcome.Version {
		fresh.prove()
	}
	outcome.Running, outcome.Renewed = outcome.Version, true
	err = errors.Join(r.Store.prune(fresh, before), fresh.save(r.Store.Dir))
	*state = *fresh
	return outcome, err
}

// goBack has the service run the version before, and notes that one has failed, unless
// the version before does not come online either.
func (r *Renewer) goBack(ctx context.Context, state *State, outcome Outcome, reason string) (Outcome, error) {
	outcome.Failed = reason
	if state.Trial == nil { // it is the image's: there is none before
		return outcome, nil
	}
	state.fail(reason, r.Now())
	if err := state.save(r.Store.Dir); err != nil {
		return outcome, err
	}
	fmt.Fprintf(r.Log, "going back to actions runner %s: %s\n", outcome.Running, reason)

	began := r.Now()
	if err := r.restart(ctx); err != nil {
		return outcome, err
	}
	end, err := r.await(ctx, outcome.Running, began)
	if err != nil || end.online || end.undecided != "" {
		return outcome, err
	}
	state.forgive(outcome.Version)
	outcome.Failed += "; nor is the runner online with version " + outcome.Running + ", so " + outcome.Version +
		" will be tried again"
	return outcome, state.save(r.Store.Dir)
}

// restart has the service start again with the chosen copy once no job runs. One that
// does not run is left so.
func (r *Renewer) restart(ctx context.Context) error {
	status, err := r.Runner.Status(ctx)
	if err != nil {
		return err
	}
	switch status.State {
	case control.Stopped:
		return nil
	case control.Drained, control.Deprecated, control.Removed:
		return r.Restart(ctx)
	}

	_, err = r.Runner.Pause(ctx)
	if err == nil {
		_, err = r.Runner.Wait(ctx, func(s control.Status) {
			if s.State == control.Draining && !s.JobSince.IsZero() {
				fmt.Fprintf(r.Log, "waiting for job %.80q\n", s.Job)
			}
		})
	}
	if errors.Is(err, control.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot restart runner.service: %w; its next start uses the other actions runner", err)
	}
	return r.Restart(ctx)
}

// verdict is how a restart ended.
type verdict struct {
	online    bool
	undecided string // why nothing can be said; empty if something can
	reason    string // why it is not online
}

const pollEvery = time.Second

// await waits until the runner is online with a version, or cannot be, or the time is
// over. States from before began are those of the version before.
func (r *Renewer) await(ctx context.Context, version string, began time.Time) (verdict, error) {
	fmt.Fprintf(r.Log, "waiting until the runner is online with actions runner %s\n", version)
	timeout := time.After(r.Bound)
	for {
		status, err := r.Runner.Status(ctx)
		if err != nil {
			return verdict{}, err
		}
		fresh := status.Since.After(began)
		switch {
		case r.runs(status, version):
			return verdict{online: true}, nil
		case fresh && status.State == control.Drained && status.Drain != nil && !status.Drain.Brief:
			return verdict{undecided: "runner-agent resume, as the runner is drained"}, nil
		case fresh && status.State == control.Deprecated:
			return verdict{reason: "GitHub does not serve it"}, nil
		case fresh && status.State == control.Removed:
			return verdict{reason: status.Reason}, nil
		case fresh && r.runs(status, status.RunnerVersion) && status.RunnerVersion != "":
			return verdict{reason: "the runner came online with version " + status.RunnerVersion}, nil
		}

		select {
		case <-ctx.Done():
			return verdict{}, ctx.Err()
		case <-timeout:
			return verdict{reason: describeEnd(status, r.Bound)}, nil
		case <-time.After(pollEvery):
		}
	}
}

func describeEnd(status control.Status, bound time.Duration) string {
	reason := fmt.Sprintf("the runner was not online within %s, but %s", bound, status.State)
	if status.RunnerVersion != "" {
		reason += " with version " + status.RunnerVersion
	}
	if status.Reason != "" {
		reason += fmt.Sprintf(" (%.200q)", status.Reason)
	}
	return reason
}
