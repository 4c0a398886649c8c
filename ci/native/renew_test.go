package native

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/agent/dist"
	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/stubrunner"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/release"
)

// TestRenew: the actions runner is replaced after the job under way. The version after
// that does not come online, and is replaced by the one before.
func TestRenew(t *testing.T) {
	a, s := startOnline(t)
	channel := a.path("channel")
	a.run("mkdir", channel)
	key, err := stubrunner.BuildChannel(t.Context(), channel, "2.338.0", "2.339.0")
	if err != nil {
		t.Fatal(err)
	}
	copies := &dist.Store{Dir: a.path("dist"), Baked: a.path("runner.image"), Version: stubrunner.Version,
		Link: a.path("run/actions-runner")}
	a.run("cp", "-a", a.path("runner"), copies.Baked)
	r := &dist.Renewer{
		Store: copies, Origin: dist.Channel{Source: channel, Keys: []release.PublicKey{key}, Arch: arch.AMD64()},
		Runner: &control.Client{Dir: a.path("control")}, Bound: 15 * time.Second, Now: time.Now, Log: t.Output(),
		Restart: func(context.Context) error {
			s.stop()
			s = a.startChosen(copies)
			return nil
		},
	}

	id := a.enqueue("last", "touch "+a.path("state/work/started")+"; sleep 3")
	a.eventually("the step runs", func() bool { return a.exists("state/work/started") })
	got, err := r.Renew(t.Context(), "2.338.0")
	if err != nil || !got.Renewed || got.Running != "2.338.0" {
		t.Fatalf("got %+v, %v\n%s", got, err, s.output())
	}
	if got := a.conclusion(id); got != miniworker.Success {
		t.Errorf("the job under way: %s", got)
	}

	a.github.RefuseVersion("2.339.0", http.StatusServiceUnavailable)
	got, err = r.Renew(t.Context(), "")
	const reason = "the runner was not online within 15s, but "
	if err != nil || got.Renewed || got.Running != "2.338.0" || !strings.HasPrefix(got.Failed, reason) {
		t.Fatalf("got %+v, %v\n%s", got, err, s.output())
	}
	if status := a.state(); status.RunnerVersion != "2.338.0" || status.State != control.Online {
		t.Errorf("the service is %+v", status)
	}
	if got := a.conclusion(a.enqueue("next", "true")); got != miniworker.Success {
		t.Errorf("the next job: %s\n%s", got, s.output())
	}
	if out, _ := a.agent("status", "--copies", copies.Dir); !strings.Contains(out, "2.338.0 from "+channel) ||
		!strings.Contains(out, "actions runner 2.339.0 failed, noted ") || !strings.Contains(out, reason) {
		t.Errorf("status prints\n%s", out)
	}
	s.stop()
}

// startChosen starts the service with the copy that it chooses, as its unit does: a
// copy of files takes the place of mounts.
func (a *appliance) startChosen(copies *dist.Store) *service {
	a.t.Helper()
	if _, err := copies.Select(time.Now()); err != nil {
		a.t.Fatal(err)
	}
	a.run("rm", "-rf", a.path("runner/bin"))
	a.run("cp", "-r", copies.Link+"/bin", a.path("runner/bin"))
	return a.startService("RUNNER_GITHUB_URL=" + a.scheme + "://" + a.addr + "/acme")
}

func (a *appliance) run(args ...string) {
	a.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		a.t.Fatalf("%s: %v\n%s", args[0], err, out)
	}
}
