package guests

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// How long the tests of endurance are: a minute together unless ci/test-slow asks
// for more.
var (
	soakJobs  = flag.Int("soak.jobs", 20, "`number` of jobs that TestSoak runs in a row")
	soakKills = flag.Int("soak.kills", 10, "`number` of kills of TestKills")
	soakSeed  = flag.Uint64("soak.seed", 1, "`seed` of the kills, 0 for a new one")
)

// jobLimit is how long a job of these tests may take, on a busy machine.
const jobLimit = 30 * time.Second

// TestSoak runs jobs in a row, the whole way from the listener on. The number of things
// that the broker holds does not grow.
func TestSoak(t *testing.T) {
	e := newEndurance(t)
	for n := range 4 * len(soakScripts(0)) { // each in each of the few ranges of ids
		e.soakJob(-1 - n)
	}
	want, memory := e.rest(), e.status("VmRSS")
	t.Logf("before: %+v", want)
	t.Log("  jobs   seconds  median    p95    max   VmRSS   VmHWM  threads  maps  logs")

	begin := time.Now()
	part := max(1, *soakJobs/10)
	var took []time.Duration
	for n := range *soakJobs {
		took = append(took, e.soakJob(n))
		if (n+1)%part != 0 {
			continue
		}
		e.settles(fmt.Sprintf("after %d jobs", n+1), want)
		slices.Sort(took)
		t.Logf("%6d %9.1f  %.3f  %.3f  %.3f  %6d  %6d  %7d  %4d  %4d", n+1, time.Since(begin).Seconds(),
			took[len(took)/2].Seconds(), took[len(took)*95/100].Seconds(), took[len(took)-1].Seconds(),
			e.status("VmRSS"), e.status("VmHWM"), e.status("Threads"), e.keptMaps(), entries(e.path("worker-logs")))
		took = nil
	}

	const slack = 6 << 10 // KiB: the collector's pace
	if now := e.status("VmRSS"); now > memory+slack {
		t.Errorf("the broker has grown from %d to %d KiB", memory, now)
	}
	e.end()
	e.nothingLeft()
}

// soakJob runs the job of a number and returns how long it took.
func (e *endurance) soakJob(n int) time.Duration {
	e.Helper()
	scripts := soakScripts(n)
	script := scripts[0]
	if n < 0 {
		script = scripts[-n%len(scripts)]
	} else if n%10 == 9 { // every tenth has containers
		script = scripts[1+n/10%(len(scripts)-1)]
	}
	want := 100 + max(0, n)%3
	j := e.listenFor(fmt.Sprintf("%s\nexit %d", script, want))
	status, err := j.wait(jobLimit)
	if err != nil {
		e.Fatalf("job %d: %v", n, err)
	}
	if out := j.out.String(); status != want || !strings.Contains(out, "ready\n") {
		e.Fatalf("job %d ended with status %d, want %d:\n%s\nthe broker's log:\n%s", n, status, want, out, e.log())
	}
	return j.took
}

// soakScripts returns the steps of a plain job, and of jobs with a container, a
// service and a container step. Each leaves files, a log and a process.
func soakScripts(n int) []string {
	plain := fmt.Sprintf(`echo log >../_diag/Worker_20260101-%06d-utc.log
		mkdir -p /var/lib/runner/work/repo/repo; echo x >/var/lib/runner/work/repo/file
		setsid -f sleep 4321; echo ready`, max(0, n))
	hooked := plain + "\n" + hookScript
	prepare := func(args map[string]any) string {
		return "\nhook " + quote(payload("prepare_job", args, "")) + " || exit 1\n"
	}
	step := "hook " + quote(payload("run_script_step", map[string]any{
		"entryPoint": "true", "entryPointArgs": []string{},
		"environmentVariables": map[string]string{}, "prependPath": []string{}, "workingDirectory": "/",
	}, `"STATE"`)) + " || exit 2\n"
	cleanup := "hook " + quote(payload("cleanup_job", map[string]any{}, `"STATE"`)) + " || exit 3\n"

	return []string{
		plain,
		hooked + prepare(map[string]any{"container": map[string]any{"image": "debian:13"}}) + step + cleanup,
		// Its end is the job's.
		hooked + prepare(map[string]any{"services": []any{webServer("debian:13-slim", "8000")}}),
		hooked + "hook " + quote(payload("run_container_step", map[string]any{
			"image": "debian:13", "entryPoint": "true", "entryPointArgs": []string{},
		}, "")) + " || exit 4\n",
	}
}

// keptMaps counts the user namespaces that the broker keeps for their maps.
func (e *endurance) keptMaps() int {
	count := 0
	for _, target := range e.descriptors() {
		if strings.HasPrefix(target, "user:") {
			count++
		}
	}
	return count
}

// nothingLeft: the broker has ended, and nothing is left of it.
func (e *endurance) nothingLeft() {
	e.Helper()
	want := footprint{Links: 1, Images: entries(e.path("images"))} // loopback
	e.settles("without a broker", want)
	e.noSleepers()
}
