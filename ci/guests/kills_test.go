package guests

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killLimit is how long listener and relay may go on when any process of a job was
// killed.
const killLimit = 10 * time.Second

// target is a process of ours, of which there may be several at a time, or none.
type target struct {
	name string
	of   func(k *kill, all []process) []int
}

// targets lists what is killed.
func targets() []target {
	matching := func(match func(k *kill, p process) bool) func(*kill, []process) []int {
		return func(k *kill, all []process) []int {
			var pids []int
			for _, p := range all {
				if match(k, p) {
					pids = append(pids, p.pid)
				}
			}
			return pids
		}
	}
	return []target{
		{"listener", matching(func(k *kill, p process) bool { return p.pid == k.job.cmd.Process.Pid })},
		{"relay", matching(func(k *kill, p process) bool {
			return p.parent == k.job.cmd.Process.Pid && p.name == "Runner.Worker"
		})},
		{"broker", matching(func(k *kill, p process) bool { return p.pid == k.pid() })},
		{"nspawn", matching(func(k *kill, p process) bool { return p.parent == k.pid() && p.name == "systemd-nspawn" })},
		{"init", func(k *kill, all []process) []int {
			var pids []int
			for _, nspawn := range all {
				for _, p := range all {
					if nspawn.parent == k.pid() && p.parent == nspawn.pid {
						pids = append(pids, p.pid)
					}
				}
			}
			return pids
		}},
		{"agent", matching(func(_ *kill, p process) bool {
			return p.guest != "" && strings.Contains(p.args, "guest-init") && !strings.Contains(p.args, "-become-init")
		})},
		{"worker", matching(func(_ *kill, p process) bool {
			return p.guest != "" && strings.Contains(p.args, "Runner.Worker spawnclient")
		})},
		{"steps", matching(func(_ *kill, p process) bool { return p.guest != "" && strings.HasPrefix(p.args, "bash -c ") })},
		{"hook", matching(func(_ *kill, p process) bool {
			return p.guest != "" && p.name == "runner-shim" && strings.Contains(p.args, " hook")
		})},
		{"container", matching(func(_ *kill, p process) bool { return p.guest != "" && p.args == "sleep 0.2" })},
	}
}

// kill is one of a schedule: what is killed, in which job, and when.
type kill struct {
	*endurance
	target target
	hooked bool    // the job has a container
	moment float64 // in the usual time of such a job
	choice float64 // which of several processes
	job    *listened
	when   time.Time // of the kill
}

// killScript returns the steps of the job, which leave a process behind.
func killScript(hooked bool) string {
	script := "setsid -f sleep 4321; "
	if !hooked {
		return script + "sleep 0.2; echo ready; exit 100"
	}
	prepare := payload("prepare_job", map[string]any{"container": map[string]any{"image": "debian:13"}}, "")
	step := payload("run_script_step", map[string]any{
		"entryPoint": "sleep", "entryPointArgs": []string{"0.2"},
		"environmentVariables": map[string]string{}, "prependPath": []string{}, "workingDirectory": "/",
	}, `"STATE"`)
	return script + hookScript + "hook " + quote(prepare) + "; hook " + quote(step) + "; echo ready; exit 100"
}

// nextKill carries out the nth kill of a schedule. Each target has its turn, in an
// order that the seed decides. A moment at which there is no such process is
// replaced by another.
func (e *endurance) nextKill(seed uint64, n int, usual map[bool]time.Duration) *kill {
	e.Helper()
	all := targets()
	order := rand.New(rand.NewPCG(seed, uint64(n/len(all)))).Perm(len(all))
	random := rand.New(rand.NewPCG(seed, uint64(n)<<32))
	for range 20 {
		k := &kill{
			endurance: e, target: all[order[n%len(all)]], hooked: random.IntN(2) == 0,
			moment: 1.1 * random.Float64(), choice: random.Float64(),
		}
		switch k.target.name {
		case "hook", "container":
			k.hooked = true
		case "worker": // soon becomes its steps
			k.moment /= 4
		}
		if k.carryOut(usual[k.hooked]) {
			return k
		}
	}
	e.Fatal("no moment was found to kill a " + all[order[n%len(all)]].name)
	return nil
}

// carryOut starts the job and kills, at the moment or as soon after it as there is
// something to kill. It reports whether there was before the job had ended.
func (k *kill) carryOut(usual time.Duration) bool {
	k.job = k.listenFor(killScript(k.hooked))
	time.Sleep(time.Duration(k.moment * float64(usual)))
	for {
		if pids := k.target.of(k, k.processes()); len(pids) > 0 {
			pid := pids[int(k.choice*float64(len(pids)))]
			k.when = time.Now()
			_ = syscall.Kill(pid, syscall.SIGKILL)
			// It may take a while to end. A guest that lives is rightly used.
			k.eventually("it ends", func() bool { return syscall.Kill(pid, 0) != nil || isZombie(pid) })
			return true
		}
		select {
		case <-k.job.ended:
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// isZombie reports whether a process has ended and is not waited for yet,
// proc_pid_stat(5).
func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

// recovers waits for the end of the job, runs another, and returns how long the
// listener lived on.
func (k *kill) recovers() time.Duration {
	k.Helper()
	status, err := k.job.wait(killLimit)
	after := time.Since(k.when)
	if err != nil {
		k.Errorf("%v: %v", k, err)
		return after
	}
	next := k.undisturbed(false)
	k.Logf("%v: status %d after %.3f s, the next job in %.3f s", k, status, after.Seconds(), next.Seconds())
	return after
}

// String describes the kill.
func (k *kill) String() string {
	job := "a job"
	if k.hooked {
		job = "a job with a container"
	}
	return fmt.Sprintf("%s killed %.3f s after the start of %s", k.target.name, k.when.Sub(k.job.begin).Seconds(), job)
}

// undisturbed runs a job that nothing is killed in and returns how long it took.
func (e *endurance) undisturbed(hooked bool) time.Duration {
	e.Helper()
	j := e.listenFor(killScript(hooked))
	status, err := j.wait(jobLimit)
	if err != nil {
		e.Fatal(err)
	}
	if out := j.out.String(); status != 100 || !strings.HasSuffix(out, "ready\n") {
		e.Errorf("a job ended with status %d:\n%s\nthe broker's log:\n%s", status, out, e.log())
	}
	return j.took
}

// TestKills kills processes of ours at random moments of jobs. Each time the
// listener learns of it soon, the next job runs, and in the end nothing is left.
func TestKills(t *testing.T) {
	seed := cmp.Or(*soakSeed, uint64(time.Now().UnixNano()))
	t.Logf("-soak.seed=%d", seed)

	e := newEndurance(t)
	usual := map[bool]time.Duration{}
	for range 6 {
		for _, hooked := range []bool{false, true} {
			usual[hooked] = e.undisturbed(hooked)
		}
	}
	want := e.rest()
	t.Logf("before: %+v; a job takes %v, with a container %v", want, usual[false], usual[true])

	hits, limit := map[string]int{}, time.Duration(0)
	for n := 0; n < *soakKills && !t.Failed(); n++ {
		k := e.nextKill(seed, n, usual)
		hits[k.target.name]++
		limit = max(limit, k.recovers())
		e.settles(k.String(), want)
	}
	t.Logf("kills: %v; the longest that a listener lived on: %v", hits, limit)
	e.end()
	e.nothingLeft()
}
