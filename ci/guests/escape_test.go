package guests

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// TestEscapes are attempts of a job to get beyond its guest; rows G2, G3 and G5
// of the fault table.
func TestEscapes(t *testing.T) {
	l := newLab(t, fmt.Sprintf("RUNNER_JOB_PIDS=%d", pidsLimit), "RUNNER_NSPAWN_BIND_RO=LAB/shown")
	if err := os.Mkdir(l.path("shown"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.serveGitHub()
	l.run("BashOfTheJob", func(l *lab) { l.inBoth((*lab).bashOfTheJob) })
	l.run("Responses", func(l *lab) { l.inBoth((*lab).responses) })
	l.run("Probes", (*lab).probes)
	l.run("Processes", (*lab).processLimit)
	l.run("ForkBomb", (*lab).forkBomb)
	l.run("ManyFiles", (*lab).manyFiles)
	l.run("IgnoresSignals", (*lab).ignoresSignals)
	l.run("PowerOff", (*lab).powerOff)
}

// TestKeptWorkspace has a lab of its own: elsewhere workspaces go with their jobs.
func TestKeptWorkspace(t *testing.T) {
	newLab(t, "RUNNER_KEEP_WORK=true").hostileWorkspace()
}

// TestDiskLimit has a lab of its own: whatever else fills this disk counts.
func TestDiskLimit(t *testing.T) {
	l := newLab(t, "RUNNER_JOB_DISK=256M", "RUNNER_INSECURE_REGISTRIES="+internetAddr+":5000")
	l.run("Step", (*lab).fillDisk)
	l.run("ContainerStep", (*lab).fillDiskBeside)
	base := l.alpineOnInternet()
	l.serveGitHub()
	l.run("Guest", func(l *lab) { l.fillDiskOfWorker(base) })
}

// bashOfTheJob: the runner looks for bash, which starts the next hook, in what
// the job has added to GITHUB_PATH. The program it finds there cannot be executed.
func (l *lab) bashOfTheJob() {
	workspace := l.workDir() + "/repo/repo"
	r := l.job(miniworker.Job{Name: "escape", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{
			{Name: "plant", Run: "printf '#!/bin/sh\\ntouch " + l.workDir() +
				"/escaped; echo escaped\\n' >bash; chmod 755 bash; cp bash node; echo " + workspace + " >>$GITHUB_PATH"},
			{Name: "victim", Run: "echo ran"},
		}})
	if step := r.Step("plant"); step.Conclusion != miniworker.Success {
		l.Fatal(step)
	}
	if _, err := os.Stat(l.path("work/escaped")); err == nil ||
		l.place == onHost && strings.Contains(fmt.Sprint(r), "escaped") {
		l.Errorf("the job's bash ran on the host:\n%s", r)
	}
	if l.place == inGuest {
		// It replaces the hook of its own job alone, which goes with its guest.
		l.said(r, map[string]string{"victim": "escaped"})
		l.noResidue()
		return
	}
	if step := r.Step("victim"); !strings.Contains(strings.Join(step.Errors, "\n"), "permission denied") {
		l.Errorf("want the hook not to start: %v", step)
	}
	// The clean-up could not start either; the listener's supervisor resets the
	// broker instead.
	if err := l.client.Reset(l.Context()); err != nil {
		l.Error(err)
	}
	l.noResidue()
}

// responses: a job sees no answer of the hook, and cannot put one there.
func (l *lab) responses() {
	const dir = "/__w/_temp/_runner_hook_responses"
	r := l.job(miniworker.Job{Name: "responses", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{
			{Name: "forge", Run: "ls -A " + dir + "; touch " + dir + "/x 2>&1 | grep -o 'Read-only.*'; umount " + dir +
				" 2>&1 | grep -o 'not permitted\\|must be superuser.*\\|Invalid.*\\|not mounted' >/dev/null; ls -A " + dir +
				"; mkdir /tmp/other; mount --bind /__w/_temp /tmp/other 2>/dev/null && ls -A /tmp/other/_runner_hook_responses; " +
				"mount -o remount,rw " + dir + " 2>/dev/null && echo remounted; true"},
		}})
	if got := strings.Join(r.Step("forge").Output, "\n"); got != "Read-only file system" {
		l.Errorf("got %q", got)
	}
	if step := r.Step("Stop containers"); step.Conclusion != miniworker.Success {
		l.Error(step)
	}
	l.noResidue()
}

// hostileWorkspace: what a job may leave in the work root does the host no harm
// and can be deleted by the runner.
func (l *lab) hostileWorkspace() {
	r := l.job(miniworker.Job{Name: "hostile", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{
			{Name: "make", Run: "cp /bin/true setuid; chmod 4755 setuid; mkfifo fifo; ln -s /etc/passwd link; ln -s / dir; " +
				"mkdir -p d/e; touch d/e/f; chmod 000 d; chown 77:88 d/e/f; ln setuid hard; python3 -c 'import socket; " +
				"socket.socket(socket.AF_UNIX).bind(\"sock\")'"},
		}})
	if step := r.Step("make"); step.Conclusion != miniworker.Success {
		l.Fatal(step)
	}
	info, err := os.Stat(l.path("work/repo/repo/setuid"))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != runnerID {
		l.Errorf("a set-user-ID file is %v, %v: want it the runner's", info, err)
	}
	if passwd, err := os.Stat("/etc/passwd"); err != nil || passwd.Sys().(*syscall.Stat_t).Uid != 0 {
		l.Errorf("/etc/passwd was given away: %v", err)
	}
	remove := l.asRunner("sh", "-c", "chmod -R u+rwx d; rm -r setuid hard fifo link dir d sock")
	remove.Dir = l.path("work/repo/repo")
	if out, err := remove.CombinedOutput(); err != nil {
		l.Errorf("the runner cannot delete what the job left: %v\n%s", err, out)
	}
	l.noResidue()
}

// pidsLimit is RUNNER_JOB_PIDS of TestEscapes.
const pidsLimit = 300

// processLimit: a job reaches exactly its limit of processes, and never has more.
func (l *lab) processLimit() {
	job := l.prepare()
	ctx, cancel := context.WithCancel(l.Context())
	defer cancel()
	// Forks whenever there is room again, such as that of a thread that ended.
	const fill = `import os, time
while True:
    try:
        if os.fork() == 0:
            time.sleep(1000)
    except BlockingIOError:
        time.sleep(0.01)`
	l.background(ctx, job, "python3", "-c", fill)

	most := 0
	l.eventually("the guest is full", func() bool { most = max(most, l.counted()); return most >= pidsLimit })
	// There may be fewer for a moment, until the next fork.
	for range 20 {
		most = max(most, l.counted())
		time.Sleep(10 * time.Millisecond)
	}
	if most != pidsLimit {
		l.Errorf("%d processes and threads at a time, want exactly the limit of %d", most, pidsLimit)
	}
	l.cleanup(job)
	l.noResidue()
}

// counted counts the processes and threads that RUNNER_JOB_PIDS bounds: where
// there is a controller for processes, all in the broker's cgroup; where there
// is none, those of the guest's root, by RLIMIT_NPROC, getrlimit(2).
func (l *lab) counted() int {
	l.Helper()
	groups := l.guestCgroups()
	if len(groups) != 1 {
		l.Fatalf("the guests have cgroups %q, want one", groups)
	}
	if data, err := os.ReadFile(filepath.Join(filepath.Dir(groups[0]), "pids.current")); err == nil {
		n, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			l.Fatal(err)
		}
		return n
	}
	out, err := exec.Command("sh", "-c", "find "+groups[0]+" -name cgroup.threads -exec cat {} + | "+
		"sed 's,.*,/proc/&/status,' | xargs awk '/^Uid:/ {print $2}' 2>/dev/null").Output()
	if len(out) == 0 {
		l.Fatalf("no process of the guest was found: %v", err)
	}

	users := map[string]int{}
	for uid := range strings.FieldsSeq(string(out)) {
		users[uid]++
	}
	delete(users, "0") // nspawn's own
	most := 0
	for _, n := range users {
		most = max(most, n)
	}
	return most
}

// background starts a step that is not waited for.
func (l *lab) background(ctx context.Context, job string, argv ...string) {
	go func() {
		_, _ = l.client.Exec(ctx, brokerapi.ExecRequest{Job: job, Argv: argv},
			wire.Streams{Stdout: io.Discard, Stderr: io.Discard})
	}()
}

// forkBomb: a job whose processes never rest is ended at once all the same.
func (l *lab) forkBomb() {
	job := l.prepare()
	l.background(l.Context(), job, "bash", "-c", "bomb() { bomb | bomb & }; bomb; sleep 100")
	l.eventually("the bomb has gone off", func() bool { return l.counted() >= pidsLimit-50 })
	begin := time.Now()
	l.cleanup(job)
	if d := time.Since(begin); d > 10*time.Second {
		l.Errorf("it took %v to end the job", d)
	}
	l.noResidue()
}

// fillForever writes to a guest's root file system until it is ended.
const fillForever = "while :; do head -c 40m /dev/zero >>/fill; sync; sleep 0.1; done"

// fillDisk: the broker ends the job, and its step says why.
func (l *lab) fillDisk() {
	job := l.prepare()
	var out strings.Builder
	argv := []string{"sh", "-c", fillForever}
	_, err := l.client.Exec(l.Context(), brokerapi.ExecRequest{Job: job, Argv: argv},
		wire.Streams{Stdout: &out, Stderr: &out})
	want := "the job was ended: it wrote more than 256 MiB to disk (RUNNER_JOB_DISK in config.env)"
	if err == nil || err.Error() != want {
		l.Errorf("got %v, want %s", err, want)
	}
	_, err = l.exec(job, "true")
	if err == nil || err.Error() != want {
		l.Errorf("the next step: got %v, want %s", err, want)
	}
	l.cleanup(job)
	l.noResidue()
}

// fillDiskBeside: a step in a container of its own has the limit of its job, and
// so has one without a job.
func (l *lab) fillDiskBeside() {
	want := "the job was ended: it wrote more than 256 MiB to disk (RUNNER_JOB_DISK in config.env)"
	job := l.prepare()
	for _, of := range []string{job, ""} {
		r := brokerapi.ContainerRequest{Job: of, Container: brokerapi.Container{
			Image: "debian:13", Args: []string{"sh", "-c", fillForever}}}
		_, err := l.client.Container(l.Context(), r, wire.Streams{Stdout: io.Discard, Stderr: io.Discard})
		if err == nil || err.Error() != want {
			l.Errorf("job %q: got %v, want %s", of, err, want)
		}
	}
	l.cleanup(job)
	l.noResidue()
}

// fillDiskOfWorker: what a worker's guest and the others of its job write counts
// together, and the relay reports why the job ended.
func (l *lab) fillDiskOfWorker(base string) {
	debian := &miniworker.Container{Image: "debian:13"}
	fill := miniworker.Step{Name: "fill", Run: strings.ReplaceAll(fillForever, "/fill", "fill")}
	for _, test := range []struct {
		summary string
		job     miniworker.Job
	}{
		{summary: "Step", job: miniworker.Job{Steps: []miniworker.Step{fill}}},
		{summary: "Root", job: miniworker.Job{Steps: []miniworker.Step{{Run: "sudo sh -c '" + fillForever + "'"}}}},
		{summary: "Container", job: miniworker.Job{Container: debian, Steps: []miniworker.Step{{Run: fillForever}}}},
		{summary: "ContainerStep", job: miniworker.Job{Steps: []miniworker.Step{{Uses: &miniworker.Container{
			Image: "debian:13", Entrypoint: "sh", Command: `-c "` + fillForever + `"`}}}}},
		{summary: "Service", job: miniworker.Job{
			Services: []miniworker.Container{{Image: "debian:13", Entrypoint: "sh", Command: `-c "` + fillForever + `"`}},
			Steps:    []miniworker.Step{{Run: "sleep 60"}}}},
		{summary: "Build", job: miniworker.Job{Steps: []miniworker.Step{
			{Run: "printf 'FROM " + base + "\nRUN " + fillForever + "\n' >Dockerfile"},
			{Uses: &miniworker.Container{Dockerfile: layout.WorkerWork + "/repo/repo/Dockerfile"}}}}},
		{summary: "Together", job: miniworker.Job{Container: debian,
			Services: []miniworker.Container{{Image: "debian:13", Entrypoint: "sh", Command: "-c " +
				`"head -c 100M /dev/zero >/a; sync; sleep 1000"`}},
			Steps: []miniworker.Step{
				{Run: "head -c 100M /dev/zero >/a; head -c 100M /dev/zero >a; sync; sleep 60"},
			}}},
	} {
		l.run(test.summary, func(l *lab) {
			test.job.Name = test.summary
			job := l.startJob(test.job)
			status := job.wait()
			want := "the job was ended: it wrote more than 256 MiB to disk (RUNNER_JOB_DISK in config.env)"
			if out := job.out.text.String(); status != 1 || !strings.Contains(out, want) || strings.Count(out, "\n") != 1 {
				l.Errorf("the relay ended with %d, want 1, and printed\n%s\nwant one line with %s", status, out, want)
			}
			l.noResidue()
		})
	}
}

func (l *lab) manyFiles() {
	job := l.prepare()
	if _, out := l.sh(job, "mkdir /many; cd /many; seq 50000 | xargs touch; ls | wc -l; for i in $(seq 200); "+
		"do (sleep 0 &) ; done"); out != "50000" {
		l.Errorf("got %q", out)
	}
	begin := time.Now()
	l.cleanup(job)
	if d := time.Since(begin); d > 10*time.Second {
		l.Errorf("it took %v to end the job", d)
	}
	l.noResidue()
}

// ignoresSignals: a cancelled step that ignores its signals is gone before the
// runner kills the hook.
func (l *lab) ignoresSignals() {
	job := l.prepare()
	hook := l.stepProcess(job, "trap ': >/tmp/interrupted' INT; trap '' TERM; sleep 4321 & sleep 4321 & "+
		"while :; do wait; done")
	begin := time.Now()
	_ = hook.Process.Signal(syscall.SIGINT)
	l.eventually("the step is interrupted", func() bool {
		status, _ := l.sh(job, "test -e /tmp/interrupted")
		return status == 0
	})
	_ = hook.Process.Signal(syscall.SIGTERM) // the runner waits for 7.5 s before
	if err := hook.Wait(); exitStatus(err) != 137 {
		l.Errorf("the hook ended with %v, want the status of a killed step", err)
	}
	l.eventually("the step is gone", func() bool { return l.sleepers(job) == 0 }) // killed processes take a moment
	if d := time.Since(begin); d > 5*time.Second {
		l.Errorf("it took %v to end the step", d)
	}

	// One that ends by itself leaves nothing in the background either.
	hook = l.stepProcess(job, "trap 'exit 9' INT; sleep 4321 & setsid sleep 4321 & wait")
	_ = hook.Process.Signal(syscall.SIGINT)
	if err := hook.Wait(); exitStatus(err) != 9 {
		l.Errorf("the hook ended with %v, want 9", err)
	}
	l.eventually("the step is gone", func() bool { return l.sleepers(job) == 0 })
	l.cleanup(job)
	l.noResidue()
}

// powerOff: a guest that ends itself fails its step and nothing else.
func (l *lab) powerOff() {
	for _, script := range []string{"systemctl poweroff; sleep 20", "systemctl reboot; sleep 20", "kill -9 -1; sleep 20"} {
		job := l.prepare()
		// An init system that still starts may forget what it is asked.
		script = "systemctl is-system-running --wait; " + script
		status, err := l.exec(job, "sh", "-c", script)
		// The status of its killed processes may arrive before the guest's end.
		if err == nil && status == 0 {
			l.Errorf("%s: the step did not fail", script)
		}
		l.cleanup(job)
		l.noResidue()
	}
}

// canaries are files by which a job could say something to the next one.
const canaries = "/tmp/canary /root/canary /etc/profile.d/canary /usr/bin/canary /var/spool/cron/canary " +
	"/github/home/.gitconfig /__w/_tool/canary /__w/repo/repo/.git/hooks/canary /__w/other/canary " +
	"/__w/_temp/canary /__w/_actions/canary /dev/shm/canary /run/canary"

// lookForCanaries prints what there is of them, and of other traces of a job.
const lookForCanaries = "set +e; ls -d " + canaries + " 2>/dev/null; " +
	"pgrep -x sleep >/dev/null && echo process sleep; env | grep CANARY; " +
	"hostname | grep -x canary | sed 's/^/host /'; ip link | grep canary; " +
	"grep -rl canary / --include='canary*' 2>/dev/null | sed 's/^/found /'; true"

// TestCanaries: two jobs one after the other leave nothing to each other.
func TestCanaries(t *testing.T) {
	for _, spare := range []string{"false", "true"} {
		t.Run("Spare="+spare, func(t *testing.T) {
			l := newLab(t)
			if spare == "true" {
				if err := os.WriteFile(l.path("config.env"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				l.stop()
				l.start()
			}

			r := l.job(miniworker.Job{Name: "first", Container: &miniworker.Container{Image: "debian:13"},
				Steps: []miniworker.Step{
					{Name: "plant", Run: "for f in " + canaries + "; do mkdir -p $(dirname $f); echo canary >$f; done; " +
						"setsid sleep 4321 >/dev/null 2>&1 & echo CANARY=1 >>$GITHUB_ENV; hostname canary; " +
						"ip link add canary type bridge"},
					{Name: "look", Run: lookForCanaries},
				}})
			if step := r.Step("plant"); step.Conclusion != miniworker.Success || r.Orphans != 0 {
				t.Fatal(r)
			}
			// Looking finds each of them where they are.
			found := strings.Join(r.Step("look").Output, "\n")
			for _, want := range append(strings.Fields(canaries), "CANARY=1", "process sleep", "host canary", ": canary:",
				"found /tmp/canary") {
				if !strings.Contains(found, want) {
					t.Errorf("the first job does not find its own %q:\n%s", want, found)
				}
			}

			r = l.job(miniworker.Job{Name: "second", Container: &miniworker.Container{Image: "debian:13"},
				Steps: []miniworker.Step{
					{Name: "look", Run: lookForCanaries},
				}})
			step := r.Step("look")
			if step.Conclusion != miniworker.Success || len(step.Output) != 0 {
				t.Errorf("the second job found: %v", step)
			}
		})
	}
}
