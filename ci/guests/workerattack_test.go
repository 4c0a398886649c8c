package guests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// hostSecret is in a file of the host that everybody may read and write.
const hostSecret = "canary-of-the-host"

// workerAttack is a script that a step runs in the guest of its worker, where it
// may become root. Its output is not to have the host's secret.
type workerAttack struct {
	summary string
	script  string
	want    string // part of the output: the attack took place, and what it led to
}

// TestWorkerAttacks repeats the attacks of a review where a job's worker runs in a
// guest: nothing of the host is read or written, nothing is left, and the next job
// runs. Its last job tries all of them in a row.
func TestWorkerAttacks(t *testing.T) {
	l := newLab(t)
	l.plantVictim()
	attacks := l.workerAttacks()
	var all strings.Builder
	for _, a := range attacks {
		l.run(a.summary, func(l *lab) { l.attack(a) })
		fmt.Fprintf(&all, "(%s\n)\n", a.script)
	}
	l.run("All", func(l *lab) { l.attack(workerAttack{script: all.String() + "echo tried all", want: "tried all"}) })
	l.run("Ends", (*lab).workerEndsItself)
}

// TestWorkerCommands has a worker that follows the links of its job and starts
// programs of its job, as the actions runner does: it reaches its guest with that.
func TestWorkerCommands(t *testing.T) {
	l := newLab(t)
	l.serveGitHub()
	l.place = inGuest
	l.plantVictim()
	l.run("Files", (*lab).commandFiles)
	l.run("Programs", (*lab).plantedPrograms)
	l.run("Responses", (*lab).responses)
}

// commandFiles: links in the place of file commands lead to nothing of the host,
// be they read or written.
func (l *lab) commandFiles() {
	job := miniworker.Job{Name: "links", Steps: []miniworker.Step{
		{Name: "control", Run: "echo of the guest >/tmp/read; ln -sf /tmp/read $GITHUB_STEP_SUMMARY\n" +
			"echo old >/tmp/written; ln -s /tmp/written $GITHUB_STEP_SUMMARY-scrubbed"},
		{Name: "followed", Run: "cat /tmp/written"},
	}}
	for _, variable := range []string{
		"GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY",
	} {
		for _, to := range []string{
			l.path("victim/secret"), l.path("registered/.credentials"), "../../../victim/secret", "../../../../../victim/secret",
			"/proc/1/root" + l.path("victim/secret"), "/var/lib/runner/actions-runner/.credentials_rsaparams",
		} {
			job.Steps = append(job.Steps, miniworker.Step{
				Name: variable, Run: "ln -sf " + to + " $" + variable + "; cat $" + variable, ContinueOnError: true, If: "always",
			})
		}
	}
	for _, name := range []string{"secret", "made"} {
		job.Steps = append(job.Steps, miniworker.Step{
			Name: "write", If: "always", ContinueOnError: true,
			Run: "echo x >$GITHUB_STEP_SUMMARY; ln -s " + l.path("victim/"+name) + " $GITHUB_STEP_SUMMARY-scrubbed",
		})
	}

	r := l.job(job)
	if got := r.Step("control").Summary; got != "of the guest\n" {
		l.Errorf("the worker does not read through links, so that this proves nothing: %q", got)
	}
	if got := strings.Join(r.Step("followed").Output, "\n"); got != "of the guest" {
		l.Errorf("the worker does not write through links, so that this proves nothing: %q", got)
	}
	if len(r.Steps) < len(job.Steps) { // the worker adds some
		l.Errorf("%d steps ran, want %d", len(r.Steps), len(job.Steps))
	}
	for _, step := range r.Steps {
		if strings.HasPrefix(step.Name, "GITHUB_") && (step.Summary != "" || len(step.Outputs) > 0) {
			l.Errorf("the worker published a file of the host: %v", step)
		}
	}
	if text, err := json.Marshal(r); err != nil || strings.Contains(string(text), hostSecret) ||
		strings.Contains(string(text), "'secret'") {
		l.Errorf("the worker published a file of the host: %v, %s", err, text)
	}
	l.nextJobInGuest()
}

// plantedPrograms: the worker starts a step's own bash in the place of the
// system's, which harms that job alone. One that works is of no harm to it.
func (l *lab) plantedPrograms() {
	const dir = layout.WorkerWork + "/repo/repo/planted"
	plant := func(script string) miniworker.Job {
		return miniworker.Job{Name: "planted", Container: &miniworker.Container{Image: "debian:13"},
			Steps: []miniworker.Step{
				{Name: "plant", Run: "mkdir planted; printf '#!/bin/sh\n" + script + "\n' >planted/bash; chmod 755 planted/bash\n" +
					"for name in sh node docker; do cp planted/bash planted/$name; done; echo " + dir + " >>$GITHUB_PATH"},
				{Name: "victim", Run: "echo ran"},
			}}
	}

	r := l.job(plant("echo wrapped >>" + dir + "/log; exec /bin/bash \"$@\""))
	for _, name := range []string{"plant", "victim", "Stop containers"} {
		if step := r.Step(name); step.Conclusion != miniworker.Success {
			l.Errorf("with a bash that works: %v", step)
		}
	}
	l.nextJobInGuest()

	r = l.job(plant("echo x >" + l.path("victim/made") + "; exit 7"))
	if step := r.Step("plant"); step.Conclusion != miniworker.Success {
		l.Error(step)
	}
	for _, name := range []string{"victim", "Stop containers"} {
		if step := r.Step(name); step.Exit != 7 {
			l.Errorf("the planted bash was not started, so that this proves nothing: %v", step)
		}
	}
	l.nextJobInGuest()
}

// nextJobInGuest is nextWork for a job with all of the actions runner's files.
func (l *lab) nextJobInGuest() {
	l.Helper()
	l.noResidue()
	l.checkVictim()
	l.checkLogs()
	r := l.job(miniworker.Job{Name: "next", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{{Name: "look", Run: "ls -A; ls -A /__w | grep -v '^_'; which bash"}}})
	const want = "repo\n/usr/bin/bash"
	if got := strings.Join(r.Step("look").Output, "\n"); r.Conclusion != miniworker.Success || got != want {
		l.Errorf("the next job found %q, want %q: %v", got, want, r)
	}
	l.noResidue()
}

// TestWorkerProbes tries to get from the guest of a worker, as its root, to the
// host: the probes of TestEscapes in another guest.
func TestWorkerProbes(t *testing.T) {
	l := newLab(t, "RUNNER_NSPAWN_BIND_RO=LAB/shown")
	if err := os.Mkdir(l.path("shown"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.plantFiles()
	l.plantDockerSocket()
	l.plantListeners()

	var probes []probe
	script := connect(internetAddr, 80) + "\n"
	const end = "the end of a probe"
	for _, p := range append(l.hostProbes(), l.networkProbes("")...) {
		switch p.summary {
		case "answers of the hook":
			continue // they are this guest's own
		case "a port of the host":
			continue // the host's address is gone with the job, before the control; see TestEscapes
		case "the runner's externals":
			p.guest = "target=" + layout.WorkerRunner + "/externals\n"
		}
		probes = append(probes, p)
		script += "echo " + quote(end) + "; sudo sh -c " + quote(p.guest+p.script) + "\n"
	}
	_, out := l.work(script)
	printed := strings.Split(out, end)
	if len(printed) != len(probes)+1 || strings.TrimSpace(printed[0]) != "reached" {
		t.Fatalf("the probes did not all run, or the guest does not reach the internet:\n%s", out)
	}
	for i, p := range probes {
		l.run(p.summary, func(l *lab) { l.probe(p, strings.TrimSpace(printed[i+1])) })
	}
}

// plantVictim makes what no job is to find: a directory of the host in which
// everybody may write.
func (l *lab) plantVictim() {
	l.Helper()
	victim := l.path("victim")
	if err := errors.Join(
		os.Mkdir(victim, 0o777), os.Chmod(victim, 0o777),
		os.WriteFile(filepath.Join(victim, "secret"), []byte(hostSecret+"\n"), 0o666),
		os.Chmod(filepath.Join(victim, "secret"), 0o666),
	); err != nil {
		l.Fatal(err)
	}
}

// checkVictim: no job has written to the host.
func (l *lab) checkVictim() {
	l.Helper()
	victim := l.path("victim")
	entries, err := os.ReadDir(victim)
	if err != nil || len(entries) != 1 {
		l.Errorf("in the directory of the host are %v, %v, want its secret alone", entries, err)
	}
	if data, err := os.ReadFile(filepath.Join(victim, "secret")); err != nil || string(data) != hostSecret+"\n" {
		l.Errorf("the file of the host has %.80q, %v", data, err)
	}
}

// checkLogs: what the broker keeps of jobs is theirs, and has a bound.
func (l *lab) checkLogs() {
	l.Helper()
	err := filepath.WalkDir(l.path("worker-logs"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > 8<<20 {
			return fmt.Errorf("%s is %v, %w", path, info, err)
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), hostSecret) {
			return fmt.Errorf("%s has the secret of the host", path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.Error(err)
	}
}

// attack runs a job and looks at what it changed.
func (l *lab) attack(a workerAttack) {
	l.limitFiles()
	status, out, err := workerJob{}.run(l.Context(), l, hookScript+a.script+"\nexit 100")
	l.Logf("the job ended with %d, %v:\n%s", status, err, out)
	if err != nil || status != 100 || !strings.Contains(out, a.want) {
		l.Errorf("want status 100 and %q", a.want)
	}
	if strings.Contains(out, hostSecret) {
		l.Error("the job has read a file of the host")
	}
	l.nextWork()
}

// nextWork: the job has left nothing to the host, and nothing to the next job.
func (l *lab) nextWork() {
	l.Helper()
	l.noResidue()
	l.checkVictim()
	l.checkLogs()
	status, out := l.work(`ls -A /var/lib/runner/work ../_diag; cat ../.runner
		test -f /etc/hosts -a ! -L /etc/hosts || ls -l /etc/hosts; exit 100`)
	want := "../_diag:\n\n/var/lib/runner/work:\n" + `{"agentName":"a","workFolder":"/var/lib/runner/work"}`
	if status != 100 || out != want {
		l.Errorf("the next job got status %d and found\n%s\nwant\n%s", status, out, want)
	}
}

// workerEndsItself: a guest that a step ends fails its job and nothing else.
func (l *lab) workerEndsItself() {
	for _, script := range []string{
		"sudo sh -c 'kill -9 -1'; sleep 20", "sudo systemctl poweroff --force --force; sleep 20",
		"sudo rm -rf --one-file-system /usr /etc 2>/dev/null; exit 100",
	} {
		status, out, err := workerJob{}.run(l.Context(), l, script)
		l.Logf("%s: the job ended with %d, %v:\n%.400s", script, status, err, out)
		l.nextWork()
	}
}

// workerAttacks returns the attacks. A job knows where its directories lie on the
// host, and names files there by absolute links and by relative ones.
func (l *lab) workerAttacks() []workerAttack {
	secrets := fmt.Sprintf("%s ../../../victim/secret /proc/1/root%[1]s ../../../registered/.credentials",
		l.path("victim/secret"))
	volume := func(source string) string {
		return quote(payload("run_container_step", map[string]any{
			"image": "debian:13", "entryPoint": "sh",
			"entryPointArgs":     []string{"-c", `"cat /github/workspace/secret; echo x >/github/workspace/made"`},
			"systemMountVolumes": []any{volume(source, "/github/workspace")},
		}, ""))
	}
	build := quote(payload("run_container_step", map[string]any{
		"dockerfile": layout.WorkerWork + "/repo/repo/action/Dockerfile",
	}, ""))

	return []workerAttack{
		{
			// The broker copies the logs out as root, the last four of them.
			summary: "LogLinks", want: "planted",
			script: `cd /var/lib/runner/actions-runner/_diag; i=0
				for to in ` + secrets + `; do
					ln -s $to Worker_20260101-00000$i-utc.log; i=$((i+1)); ln -s $to log$i; cat log$i
				done
				ln -s ` + l.path("victim") + ` pages; echo planted`,
		},
		{
			summary: "LogFiles", want: "planted",
			script: `cd /var/lib/runner/actions-runner/_diag
				mkfifo Worker_20260101-000005-utc.log; mkdir Worker_20260101-000006-utc.log
				sudo mknod Worker_20260101-000007-utc.log c 0 0
				truncate -s 8T Worker_20260101-000008-utc.log; chmod 0 Worker_20260101-000008-utc.log; echo planted`,
		},
		{
			// The broker opens and makes as root what requests name.
			summary: "VolumeLinks", want: "cannot mount /github/workspace",
			script: `for to in ` + l.path("victim") + ` ../../../victim ../../../../victim; do
					ln -sfn $to _link; hook ` + volume(layout.WorkerWork+"/repo/repo/_link") + `
					hook ` + volume(layout.WorkerWork+"/repo/repo/_link/made") + `
				done
				hook ` + volume(layout.WorkerWork+"/../../../victim") + `
				hook ` + volume(l.path("victim")),
		},
		{
			// The broker reads the directory of a Dockerfile as root.
			summary: "Context", want: "the directory of the Dockerfile is too large",
			script: `mkdir action; echo 'FROM debian:13' >action/Dockerfile; truncate -s 8T action/sparse
				hook ` + build + `; rm action/sparse
				mkfifo action/fifo; ln -s ` + l.path("victim") + ` action/link; ln -s ../../../../../victim/secret action/secret
				rm action/Dockerfile; ln -s ` + l.path("victim/secret") + ` action/Dockerfile; hook ` + build + `
				rm -r action; ln -s ` + l.path("victim") + ` action; hook ` + build,
		},
		{
			// The worker, its hook and the guest agent follow links, in their own guest.
			summary: "FileLinks", want: "planted",
			script: `sudo chmod 777 /etc; cd /var/lib/runner/actions-runner; i=0
				for to in ` + secrets + `; do
					for file in ../work/_temp/command$i .setup_info .runner .credentials /etc/hosts /etc/resolv.conf; do
						ln -sfn $to $file; cat $file; echo x >>$file
					done
					ln -sfn $to /var/lib/runner/work/r; i=$((i+1))
					hook ` + quote(payload("prepare_job", map[string]any{"services": []any{
				map[string]any{"image": "debian:13", "entryPoint": "sleep", "entryPointArgs": []string{"60"}},
			}}, "")) + `
					hook ` + quote(payload("cleanup_job", map[string]any{}, `"STATE"`)) + `
				done
				rm /etc/hosts /var/lib/runner/work/r; echo 127.0.0.1 localhost runner >/etc/hosts; echo planted`,
		},
		{
			// More levels than the broker has descriptors, a path has bytes.
			summary: "Deep", want: "nested",
			script: fmt.Sprintf(`cat >/tmp/nest.py <<'END'
import os, sys
os.chdir(sys.argv[1])
try:
    for _ in range(%d):
        os.mkdir(sys.argv[2]); os.chdir(sys.argv[2])
except OSError as e:
    print(sys.argv[1], e.strerror)
END
				for dir in / /var/lib/runner/work /var/lib/runner/actions-runner/_diag; do
					sudo python3 /tmp/nest.py $dir d
				done
				sudo python3 /tmp/nest.py /sys/fs/cgroup $(printf 'c%%.0s' $(seq 250))
				echo nested`, 4*fewFiles),
		},
		{
			// The work directory is removed with what says where a repository lies.
			summary: "Residue", want: "planted",
			script: `cd /var/lib/runner/work; mkdir -p _PipelineMapping/org/victim _evil/.git/hooks _tool/node _aside
				echo '{"WorkspaceDirectory":"_evil"}' >_PipelineMapping/org/victim/PipelineFolder.json
				echo hook >_evil/.git/hooks/post-checkout; sudo chown -R 12345:54321 _evil _tool ../actions-runner/_diag
				sudo chmod 0 _evil . ../actions-runner/_diag; echo planted; sudo chmod 777 .`,
		},
		{
			// All that the hook, the guest agent and the end of a job could start.
			summary: "Programs", want: "planted",
			script: `for name in bash sh node docker systemctl; do
					printf '#!/bin/sh\necho x >` + l.path("victim/made") + `; exit 1\n' >/tmp/$name; chmod 755 /tmp/$name
				done
				hook ` + quote(payload("prepare_job", map[string]any{"container": map[string]any{"image": "debian:13"}}, "")) + `
				echo planted
				sudo /bin/sh -c 'for name in node docker systemctl bash sh; do
					mount --bind /tmp/$name /usr/bin/$name 2>/dev/null || cp /tmp/$name /usr/local/bin/; done'
				export PATH=/tmp:$PATH
				hook ` + quote(payload("cleanup_job", map[string]any{}, `"STATE"`)),
		},
		{
			// The runner's own directories, and those that the host shows.
			summary: "RunnerDirs", want: "planted",
			script: `cd /var/lib/runner/work
				for dir in _temp _actions _tool _update _PipelineMapping repo; do
					rm -rf $dir; ln -s ` + l.path("victim") + ` $dir
				done
				hook ` + volume(layout.WorkerWork+"/_temp/_github_home") + `
				cd /var/lib/runner/actions-runner
				for dir in _diag bin externals ../work /run/runner/job; do
					sudo umount -l $dir; sudo mv $dir $dir-old; sudo ln -sfnT ` + l.path("victim") + ` $dir
				done; echo planted`,
		},
	}
}
