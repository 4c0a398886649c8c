package guests

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// TestEscapes are attempts of a job to get beyond its guest; rows G2, G3 and G5
// of the fault table.
func TestEscapes(t *testing.T) {
	l := newLab(t, "RUNNER_JOB_PIDS=300", "RUNNER_NSPAWN_BIND_RO=LAB/shown")
	if err := os.Mkdir(l.path("shown"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Run("BashOfTheJob", func(t *testing.T) { l.bashOfTheJob(t) })
	t.Run("Responses", func(t *testing.T) { l.responses(t) })
	t.Run("Probes", func(t *testing.T) { l.probes(t) })
	t.Run("Workspace", func(t *testing.T) { l.hostileWorkspace(t) })
	t.Run("ForkBomb", func(t *testing.T) { l.forkBomb(t) })
	t.Run("ManyFiles", func(t *testing.T) { l.manyFiles(t) })
	t.Run("IgnoresSignals", func(t *testing.T) { l.ignoresSignals(t) })
	t.Run("PowerOff", func(t *testing.T) { l.powerOff(t) })
}

// TestDiskLimit has a lab of its own: whatever else fills this disk counts.
func TestDiskLimit(t *testing.T) {
	l := newLab(t, "RUNNER_JOB_DISK=256M")
	l.fillDisk(t)
}

// bashOfTheJob: the runner looks for bash, which starts the next hook, in what
// the job has added to GITHUB_PATH. What it finds cannot be executed.
func (l *lab) bashOfTheJob(t *testing.T) {
	workspace := l.path("work/repo/repo")
	r := l.job(miniworker.Job{Name: "escape", Container: &miniworker.Container{Image: "debian:13"}, Steps: []miniworker.Step{
		{Name: "plant", Run: "printf '#!/bin/sh\\ntouch " + l.path("work/escaped") + "; echo escaped\\n' >bash; chmod 755 bash; cp bash node; echo " + workspace + " >>$GITHUB_PATH"},
		{Name: "victim", Run: "echo ran"},
	}})
	if step := r.Step("plant"); step.Conclusion != miniworker.Success {
		t.Fatal(step)
	}
	if _, err := os.Stat(l.path("work/escaped")); err == nil || strings.Contains(fmt.Sprint(r), "escaped") {
		t.Errorf("the job's bash ran on the host:\n%s", r)
	}
	if step := r.Step("victim"); !strings.Contains(strings.Join(step.Errors, "\n"), "permission denied") {
		t.Errorf("want the hook not to start: %v", step)
	}
	// The clean-up could not start either; the broker is told by the listener's
	// supervisor instead.
	if err := l.client.Reset(t.Context()); err != nil {
		t.Error(err)
	}
	l.noResidue()
}

// responses: a job sees no answer of the hook, and cannot put one there.
func (l *lab) responses(t *testing.T) {
	const dir = "/__w/_temp/_runner_hook_responses"
	r := l.job(miniworker.Job{Name: "responses", Container: &miniworker.Container{Image: "debian:13"}, Steps: []miniworker.Step{
		{Name: "forge", Run: "ls -A " + dir + "; touch " + dir + "/x 2>&1 | grep -o 'Read-only.*'; umount " + dir + " 2>&1 | grep -o 'not permitted\\|must be superuser.*\\|Invalid.*\\|not mounted' >/dev/null; ls -A " + dir +
			"; mkdir /tmp/other; mount --bind /__w/_temp /tmp/other 2>/dev/null && ls -A /tmp/other/_runner_hook_responses; mount -o remount,rw " + dir + " 2>/dev/null && echo remounted; true"},
	}})
	if got := strings.Join(r.Step("forge").Output, "\n"); got != "Read-only file system" {
		t.Errorf("got %q", got)
	}
	if step := r.Step("Stop containers"); step.Conclusion != miniworker.Success {
		t.Error(step)
	}
	l.noResidue()
}

// probes are single commands with what they must not print.
func (l *lab) probes(t *testing.T) {
	if err := os.WriteFile(l.path("shown/file"), []byte("shown"), 0o644); err != nil {
		t.Fatal(err)
	}
	secret := l.path("credentials")
	if err := os.WriteFile(secret, []byte("canary-of-the-host"), 0o644); err != nil {
		t.Fatal(err)
	}
	listener := l.listen("0.0.0.0:9999")
	defer listener.Close()
	job := l.prepare()
	gateway := "$(ip route show default | awk '{print $3}')"
	for script, want := range map[string]string{
		"cat " + secret + " /proc/1/root" + secret + " 2>&1 | grep canary":                                                                                  "",
		"mknod /tmp/disk b 254 0 2>&1 | grep -o 'not permitted'":                                                                                            "not permitted",
		"mount /dev/vda /mnt 2>&1 >/dev/null | head -c 6":                                                                                                   "mount:",
		"mount -o remount,rw /__e 2>/dev/null && touch /__e/x && echo written":                                                                              "",
		"mount -o remount,rw " + l.path("shown") + " 2>/dev/null; touch " + l.path("shown/x") + " 2>/dev/null && echo written; cat " + l.path("shown/file"): "shown",
		"unshare -U true 2>/dev/null; dmesg 2>&1 | grep -c canary":                                                                                          "0",
		"for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done 2>/dev/null | grep -c '[g]uests.test'":                                                    "0",
		"ls /var/run/docker.sock /run/docker.sock 2>/dev/null":                                                                                              "",
		"timeout 3 bash -c 'exec 3<>/dev/tcp/'" + gateway + "'/9999' 2>/dev/null && echo reached":                                                           "",
		"timeout 3 bash -c 'exec 3<>/dev/tcp/169.254.169.254/80' 2>/dev/null && echo reached":                                                               "",
		"sysctl -w kernel.core_pattern='|/bin/true' 2>&1 | grep -c 'core_pattern = '":                                                                       "0",
		"(echo b >/proc/sysrq-trigger) 2>/dev/null && echo written":                                                                                         "",
		"grep -E '^(Seccomp|CapBnd):' /proc/self/status | tr -d '\\n\\t'":                                                                                   "CapBnd:00000000fdecbfffSeccomp:2",
	} {
		if _, got := l.sh(job, script); got != want {
			t.Errorf("%s\nprinted %q, want %q", script, got, want)
		}
	}
	l.cleanup(job)
	l.noResidue()
}

// hostileWorkspace: what a job may leave in the work root does the host no harm
// and can be deleted by the runner.
func (l *lab) hostileWorkspace(t *testing.T) {
	r := l.job(miniworker.Job{Name: "hostile", Container: &miniworker.Container{Image: "debian:13"}, Steps: []miniworker.Step{
		{Name: "make", Run: "cp /bin/true setuid; chmod 4755 setuid; mkfifo fifo; ln -s /etc/passwd link; ln -s / dir; mkdir -p d/e; touch d/e/f; chmod 000 d; chown 77:88 d/e/f; ln setuid hard; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'"},
	}})
	if step := r.Step("make"); step.Conclusion != miniworker.Success {
		t.Fatal(step)
	}
	info, err := os.Stat(l.path("work/repo/repo/setuid"))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != runnerID {
		t.Errorf("a set-user-ID file is %v, %v: want it the runner's", info, err)
	}
	if passwd, err := os.Stat("/etc/passwd"); err != nil || passwd.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("/etc/passwd was given away: %v", err)
	}
	remove := l.command("setpriv", "--reuid", fmt.Sprint(runnerID), "--regid", fmt.Sprint(runnerID), "--clear-groups", "sh", "-c", "chmod -R u+rwx d; rm -r setuid hard fifo link dir d sock")
	remove.Dir = l.path("work/repo/repo")
	if out, err := remove.CombinedOutput(); err != nil {
		t.Errorf("the runner cannot delete what the job left: %v\n%s", err, out)
	}
	l.noResidue()
}

// forkBomb: the limit holds, and the job can still be ended at once.
func (l *lab) forkBomb(t *testing.T) {
	job := l.prepare()
	ctx := t.Context()
	go func() {
		_, _ = l.client.Exec(ctx, brokerapi.ExecRequest{Job: job, Argv: []string{"bash", "-c", "bomb() { bomb | bomb & }; bomb; sleep 100"}}, wire.Streams{Stdout: io.Discard, Stderr: io.Discard})
	}()
	time.Sleep(2 * time.Second)
	if n := l.guestProcesses(); n < 50 || n > 400 {
		t.Errorf("the guest has %d processes, want them near the limit of 300", n)
	}
	begin := time.Now()
	l.cleanup(job)
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v to end the job", d)
	}
	l.noResidue()
}

// guestProcesses counts the processes in this broker's guests.
func (l *lab) guestProcesses() int {
	count := 0
	for _, group := range l.guestCgroups() {
		out, _ := exec.Command("sh", "-c", "find "+group+" -name cgroup.procs -exec cat {} + | wc -l").Output()
		var n int
		_, _ = fmt.Sscan(string(out), &n)
		count += n
	}
	return count
}

// fillDisk: the broker ends the job, and its step says why.
func (l *lab) fillDisk(t *testing.T) {
	job := l.prepare()
	var out strings.Builder
	_, err := l.client.Exec(t.Context(), brokerapi.ExecRequest{Job: job, Argv: []string{"sh", "-c", "while :; do head -c 40M /dev/zero >>/fill; sync; sleep 0.1; done"}}, wire.Streams{Stdout: &out, Stderr: &out})
	want := "the job was ended: it wrote more than 256 MiB to disk (RUNNER_JOB_DISK in config.env)"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	_, err = l.client.Exec(t.Context(), brokerapi.ExecRequest{Job: job, Argv: []string{"true"}}, wire.Streams{Stdout: io.Discard, Stderr: io.Discard})
	if err == nil || err.Error() != want {
		t.Errorf("the next step: got %v, want %s", err, want)
	}
	l.cleanup(job)
	l.noResidue()
}

func (l *lab) manyFiles(t *testing.T) {
	job := l.prepare()
	if _, out := l.sh(job, "mkdir /many; cd /many; seq 50000 | xargs touch; ls | wc -l; for i in $(seq 200); do (sleep 0 &) ; done"); out != "50000" {
		t.Errorf("got %q", out)
	}
	begin := time.Now()
	l.cleanup(job)
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v to end the job", d)
	}
	l.noResidue()
}

// ignoresSignals: a cancelled step that does not listen is gone within the time
// the runner gives its hook.
func (l *lab) ignoresSignals(t *testing.T) {
	job := l.prepare()
	hook := l.stepProcess(job, "trap '' INT TERM; sleep 4321 & sleep 4321")
	begin := time.Now()
	_ = hook.Process.Signal(syscall.SIGINT)
	time.Sleep(time.Second) // the runner waits for 7.5 s
	_ = hook.Process.Signal(syscall.SIGTERM)
	if err := hook.Wait(); exitStatus(err) != 137 {
		t.Errorf("the hook ended with %v, want the status of a killed step", err)
	}
	if _, out := l.sh(job, "pgrep -c -x sleep"); out != "0" {
		t.Errorf("%s processes of the step are left", out)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v to end the step", d)
	}
	// One that ends by itself leaves nothing in the background either.
	hook = l.stepProcess(job, "trap 'exit 9' INT; sleep 4321 & setsid sleep 4321 & wait")
	_ = hook.Process.Signal(syscall.SIGINT)
	if err := hook.Wait(); exitStatus(err) != 9 {
		t.Errorf("the hook ended with %v, want 9", err)
	}
	if _, out := l.sh(job, "pgrep -c -x sleep"); out != "0" {
		t.Errorf("%s processes of the step are left", out)
	}
	l.cleanup(job)
	l.noResidue()
}

// powerOff: a guest that ends itself fails its step and nothing else.
func (l *lab) powerOff(t *testing.T) {
	for _, script := range []string{"systemctl poweroff; sleep 20", "systemctl reboot; sleep 20", "kill -9 -1; sleep 20"} {
		job := l.prepare()
		// An init system that still starts may forget what it is asked.
		script = "systemctl is-system-running --wait; " + script
		status, err := l.client.Exec(t.Context(), brokerapi.ExecRequest{Job: job, Argv: []string{"sh", "-c", script}}, wire.Streams{Stdout: io.Discard, Stderr: io.Discard})
		// It may be told how its processes were ended before it goes.
		if err == nil && status == 0 {
			t.Errorf("%s: the step did not fail", script)
		}
		l.cleanup(job)
		l.noResidue()
	}
}

// TestCanaries: two jobs one after the other leave nothing to each other.
func TestCanaries(t *testing.T) {
	for _, spare := range []string{"false", "true"} {
		t.Run("Spare="+spare, func(t *testing.T) {
			l := newLab(t)
			if spare == "true" {
				if err := errors.Join(os.WriteFile(l.path("config.env"), nil, 0o600)); err != nil {
					t.Fatal(err)
				}
				l.stop()
				l.start()
			}
			places := "/tmp/canary /root/canary /etc/profile.d/canary /usr/bin/canary /var/spool/cron/canary /github/home/.gitconfig /__w/_tool/canary /__w/repo/repo/.git/hooks/canary /__w/other/canary /__w/_temp/canary /__w/_actions/canary /dev/shm/canary /run/canary"
			r := l.job(miniworker.Job{Name: "first", Container: &miniworker.Container{Image: "debian:13"}, Steps: []miniworker.Step{
				{Name: "plant", Run: "for f in " + places + "; do mkdir -p $(dirname $f); echo canary >$f; done; setsid sleep 4321 >/dev/null 2>&1 & echo CANARY=1 >>$GITHUB_ENV; hostname canary; ip link add canary type bridge"},
			}})
			if step := r.Step("plant"); step.Conclusion != miniworker.Success || r.Orphans != 0 {
				t.Fatal(r)
			}
			r = l.job(miniworker.Job{Name: "second", Container: &miniworker.Container{Image: "debian:13"}, Steps: []miniworker.Step{
				{Name: "look", Run: "set +e; ls -d " + places + " 2>/dev/null; pgrep -x sleep; env | grep CANARY; hostname | grep canary; ip link | grep canary; grep -rl canary / --include='canary*' 2>/dev/null; true"},
			}})
			step := r.Step("look")
			if step.Conclusion != miniworker.Success || len(step.Output) != 0 {
				t.Errorf("the second job found: %v", step)
			}
		})
	}
}
