package guests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// scriptWorker stands for the worker: it runs the script that comes where the
// listener's messages do, as steps run.
const scriptWorker = `#!/bin/bash
test "$*" = "spawnclient 3 4" || exit 1
eval "$(cat <&3)"
`

// makeActionsRunner makes what the broker shows of the actions runner to workers.
func (l *lab) makeActionsRunner() error {
	return errors.Join(
		os.MkdirAll(l.path("runner/bin"), 0o755),
		os.MkdirAll(l.path("runner/externals"), 0o755),
		os.WriteFile(l.path("runner/bin/Runner.Worker"), []byte(scriptWorker), 0o755),
		os.Mkdir(l.path("registered"), 0o755),
		os.WriteFile(l.path("registered/.runner"), []byte("\ufeff{\"agentName\":\"a\",\"workFolder\":\"_work\"}"), 0o644),
		os.WriteFile(l.path("registered/.credentials"), []byte("secret"), 0o644),
	)
}

// workerJob is a job whose worker runs a script in a guest.
type workerJob struct {
	info   brokerapi.JobInfo
	env    map[string]string
	stdout io.Writer // "" collects the output
}

// run runs the job and returns the worker's status and what it wrote.
func (w workerJob) run(ctx context.Context, l *lab, script string) (status int, output string, err error) {
	described := make(chan brokerapi.JobInfo, 1)
	described <- w.info
	var out bytes.Buffer
	stdout := io.Writer(&out)
	if w.stdout != nil {
		stdout = w.stdout
	}
	status, err = l.client.Worker(ctx, brokerapi.WorkerRequest{Env: w.env}, described,
		wire.Streams{Stdin: strings.NewReader(script), Stdout: stdout, Stderr: stdout})
	return status, strings.TrimSpace(out.String()), err
}

// work runs a job whose worker runs a script, and leaves nothing.
func (l *lab) work(script string) (status int, output string) {
	l.Helper()
	status, output, err := workerJob{}.run(l.Context(), l, script)
	if err != nil {
		l.Fatalf("%v\n%s", err, output)
	}
	l.noResidue()
	return status, output
}

// TestWorkerGuest looks at the guest of a worker, from inside.
func TestWorkerGuest(t *testing.T) {
	l := newLab(t)
	l.run("Status", (*lab).workerStatus)
	l.run("User", (*lab).workerUser)
	l.run("Files", (*lab).workerFiles)
	l.run("System", (*lab).workerSystem)
	l.run("FreeSpace", (*lab).workerFreeSpace)
	l.run("Log", (*lab).workerLog)
	l.run("Fresh", (*lab).workerFresh)
}

func (l *lab) workerStatus() {
	for _, want := range []int{100, 101, 102, 103, 104, 105, 0, 1} {
		if status, out := l.work(fmt.Sprintf("exit %d", want)); status != want {
			l.Errorf("got status %d, want %d: %s", status, want, out)
		}
	}
}

// workerUser: steps are who they are on GitHub's own machines.
func (l *lab) workerUser() {
	_, out := l.work(`id; echo $USER $HOME $SHELL $PWD; hostname; sudo id -u; sudo -n -u '#7' id -u
		touch $HOME/x /var/lib/runner/work/x && echo written
		cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status`)
	for _, want := range []string{
		"uid=1001(runner) gid=1001(runner) groups=1001(runner),4(adm),100(users),999(systemd-journal)\n",
		"runner /home/runner /bin/bash /var/lib/runner/actions-runner/bin\nrunner\n0\n7\nwritten\n500\nNoNewPrivs:\t0",
	} {
		if !strings.Contains(out, want) {
			l.Errorf("no %q in\n%s", want, out)
		}
	}
}

// workerFiles: the guest has what the worker needs of the actions runner, which it
// cannot change, and nothing of the registration.
func (l *lab) workerFiles() {
	_, out := l.work(`cd /var/lib/runner/actions-runner
		cat .runner .credentials; ls -A
		sudo touch bin/x externals/x 2>&1; sudo rm -f bin/Runner.Worker 2>&1
		stat -c '%U %a' ../work _diag . /run/runner/job/guest.sock
		grep -c runner/actions-runner/bin /proc/self/mountinfo
		sudo grep -rl secret . 2>/dev/null`)
	for _, want := range []string{
		`{"agentName":"a","workFolder":"/var/lib/runner/work"}`,
		"\n.credentials\n.runner\n.setup_info\n_diag\nbin\nexternals\n",
		"bin/x': Read-only file system", "externals/x': Read-only file system", "Runner.Worker': Read-only file system",
		"runner 755\nrunner 755\nrunner 755\nroot 666\n",
	} {
		if !strings.Contains(out, want) {
			l.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.HasSuffix(out, "secret") || strings.Contains(out, "./") {
		l.Errorf("the guest has something of the registration:\n%s", out)
	}
}

// workerSystem: systemd runs, and steps use it.
func (l *lab) workerSystem() {
	status, out := l.work(`set -e
		sudo systemctl daemon-reload
		until test -S /run/dbus/system_bus_socket; do sleep 0.05; done # the guest has just begun to boot
		sudo systemd-run --quiet --wait --unit=probe touch /run/probe
		test -e /run/probe
		sudo systemctl list-units --failed --no-legend
		sudo systemctl daemon-reload
		journalctl --quiet --unit=probe --output=cat | head -3
		sudo apt-get --version | head -1
		exit 100`)
	if status != 100 {
		l.Errorf("got status %d: %s", status, out)
	}
	if strings.Contains(out, "failed") {
		l.Errorf("units failed:\n%s", out)
	}
}

// workerFreeSpace: the worker warns in every job if the root of its work
// directory, "/", looks full.
func (l *lab) workerFreeSpace() {
	_, out := l.work("for dir in / /var/lib/runner/work; do stat -f -c '%a %S' $dir; done")
	var stat unix.Statfs_t
	if err := unix.Statfs(l.path("jobs"), &stat); err != nil {
		l.Fatal(err)
	}
	host := int64(stat.Bavail) * stat.Bsize
	for line := range strings.Lines(out) {
		var blocks, size int64
		if _, err := fmt.Sscan(line, &blocks, &size); err != nil {
			l.Fatalf("%v in %q", err, out)
		}
		const difference = 1 << 30 // others write, too
		if free := blocks * size; free < host-difference || free > host+difference || free < 100<<20 {
			l.Errorf("the guest sees %d bytes free, the host %d", free, host)
		}
	}
}

// workerLog: what the worker logged is kept, and nothing that a job puts in its
// place.
func (l *lab) workerLog() {
	secret := l.path("registered/.credentials")
	l.work(`cd /var/lib/runner/actions-runner/_diag
		echo logged >Worker_20260101-000000-utc.log
		ln -s ` + secret + ` Worker_20260101-000001-utc.log
		mkdir pages; echo page >pages/1`)
	kept, err := os.ReadDir(l.path("worker-logs"))
	if err != nil || len(kept) != 1 {
		l.Fatalf("kept %v, %v, want one log", kept, err)
	}
	data, err := os.ReadFile(filepath.Join(l.path("worker-logs"), kept[0].Name()))
	if err != nil || string(data) != "logged\n" {
		l.Errorf("kept %q, %v", data, err)
	}
}

// workerFresh: nothing of a job reaches the next, nor the host.
func (l *lab) workerFresh() {
	l.work(`sudo touch /etc/left /home/runner/left
		mkdir -p /var/lib/runner/work/repo; touch /var/lib/runner/work/repo/left`)
	_, out := l.work("ls -A /var/lib/runner/work; ls -d /etc/left /home/runner/left 2>&1 | grep -v cannot")
	if out != "" {
		l.Errorf("the next job sees %q", out)
	}
	if left, err := os.ReadDir(l.path("work")); err != nil || len(left) != 0 {
		l.Errorf("on the host are %v, %v", left, err)
	}
}

// payload is a request of the runner to the hook, whose response goes to the file
// r in the work directory.
func payload(command string, args any, state string) string {
	request := map[string]any{"command": command, "responseFile": "/var/lib/runner/work/r", "args": args}
	if state != "" {
		request["state"] = json.RawMessage(state)
	}
	data, err := json.Marshal(request)
	if err != nil {
		panic(err) // a table of this file
	}
	return string(data)
}

// volume is one that the runner mounts into each container.
func volume(source, target string) map[string]any {
	return map[string]any{"sourceVolumePath": source, "targetVolumePath": target, "readOnly": false}
}

// hookScript calls the hook as the worker does. The function hook takes a payload;
// STATE in it stands for the state of the last answer.
const hookScript = `
hook() {
	: >/var/lib/runner/work/r
	state=null; test -s /tmp/state && state=$(cat /tmp/state)
	echo "${1//\"STATE\"/$state}" | bash -e $ACTIONS_RUNNER_CONTAINER_HOOKS || return
	if test -s /var/lib/runner/work/r; then jq -c .state /var/lib/runner/work/r >/tmp/state; fi
}
mkdir -p /var/lib/runner/work/repo/repo /var/lib/runner/work/_temp
cd /var/lib/runner/work/repo/repo
`

// quote quotes a word for a shell.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// TestWorkerHook is a job with containers in the guest of its worker.
func TestWorkerHook(t *testing.T) {
	l := newLab(t)
	l.run("Services", (*lab).workerServices)
	l.run("Container", (*lab).workerContainer)
	l.run("ContainerStep", (*lab).workerContainerStep)
	l.run("OtherJob", (*lab).workerOtherJob)
}

// webServer is a service that serves the files of /srv at a port.
func webServer(image, port string) map[string]any {
	return map[string]any{
		"image": image, "portMappings": []string{port},
		"entryPoint":     "python3",
		"entryPointArgs": []string{"-m", "http.server", "--directory", "/srv", "8000"},
		"createOptions":  `--health-cmd "curl -fsS -o /dev/null http://localhost:8000/"`,
	}
}

// workerServices: steps reach services at localhost by port, in both address
// families, and by the workflow's own name; services reach a step.
func (l *lab) workerServices() {
	prepare := payload("prepare_job", map[string]any{"services": []any{
		webServer("debian:13", "8000"), webServer("debian:13-slim", "8080:8000"),
	}}, "")
	script := hookScript + "hook " + quote(prepare) + ` || exit 1
		jq -c '.context.services[].ports' /var/lib/runner/work/r
		port=$(jq -r '.context.services[0].ports["8000"]' /var/lib/runner/work/r)
		for url in 127.0.0.1:$port "[::1]:$port" localhost:$port localhost:8080 web:8000 other:8000; do
			curl -fsS -m 5 -o /dev/null "http://$url/" && echo "reached ${url/$port/PORT}"
		done
		sudo python3 -m http.server --directory /tmp 9000 >/dev/null 2>&1 &
		hook ` + quote(payload("run_container_step", map[string]any{
		"image": "debian:13", "entryPoint": "curl", "entryPointArgs": []string{
			"-fsS", "-m", "5", "-o", "/dev/null", "--retry-connrefused", "--retry", "3", "http://runner:9000/",
		},
	}, `"STATE"`)) + ` && echo reached back
		hook ` + quote(payload("cleanup_job", map[string]any{}, `"STATE"`)) + `
		curl -s -m 5 -o /dev/null http://localhost:$port/ || echo closed
		getent hosts web || echo forgotten
		exit 100`
	info := brokerapi.JobInfo{Name: "build", Services: []brokerapi.ServiceInfo{{Key: "web"}, {Key: "other"}}}
	status, out, err := workerJob{info: info}.run(l.Context(), l, script)
	if err != nil || status != 100 {
		l.Errorf("got status %d, %v", status, err)
	}
	for _, want := range []string{
		"reached 127.0.0.1:PORT", "reached [::1]:PORT", "reached localhost:PORT", "reached localhost:8080",
		"reached web:8000", "reached other:8000", "reached back", "closed", "forgotten",
	} {
		if !strings.Contains(out, want) {
			l.Errorf("no %q in\n%s", want, out)
		}
	}
	l.noResidue()
}

// workerContainer: a job container sees the job's files, as the runner's and as
// root's.
func (l *lab) workerContainer() {
	const work = "/var/lib/runner/work"
	container := map[string]any{"image": "debian:13", "systemMountVolumes": []any{
		volume(work, "/__w"), volume(work+"/_temp", "/__w/_temp"),
	}}
	step := payload("run_script_step", map[string]any{
		"entryPoint": "sh", "entryPointArgs": []string{"-c", `"cat file && echo more >>file && mkdir made && ` +
			`echo x >>ofroot && stat -c %u ofroot; ls /run/runner/job /var/lib/runner/work 2>&1; id -u; exit 7"`},
		"environmentVariables": map[string]string{}, "prependPath": []string{}, "workingDirectory": "/__w/repo/repo",
	}, `"STATE"`)
	status, out := l.work(hookScript + `echo hello >file; sudo sh -c "echo root >ofroot"; stat -c %u ofroot
		hook ` + quote(payload("prepare_job", map[string]any{"container": container}, "")) + ` || exit 1
		hook ` + quote(step) + `; echo "status $?"
		cat file; stat -c %U made; rmdir made
		exit 100`) // without cleaning up: that goes with the job
	if status != 100 {
		l.Errorf("got status %d", status)
	}
	for _, want := range []string{"0\nhello\n1001\n", "\n0\n", "status 7\nhello\nmore\nrunner"} {
		if !strings.Contains(out, want) {
			l.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "guest.sock") {
		l.Errorf("a container sees the socket of the job:\n%s", out)
	}
}

// workerContainerStep: a docker:// step of a job that has no other containers.
func (l *lab) workerContainerStep() {
	step := payload("run_container_step", map[string]any{
		"image": "debian:13", "entryPoint": "sh",
		"entryPointArgs": []string{"-c", `"cat /github/workspace/file; echo x >/github/workspace/made; exit 9"`},
		"systemMountVolumes": []any{
			volume("/var/lib/runner/work/repo/repo", "/github/workspace"),
		},
	}, "")
	_, out := l.work(hookScript + `echo hello >file
		hook ` + quote(step) + `; echo "status $?"; cat made; stat -c %U made; rm made && echo removed`)
	if !strings.Contains(out, "hello\n") || !strings.HasSuffix(out, "status 9\nx\nrunner\nremoved") {
		l.Errorf("got\n%s", out)
	}
}

// workerOtherJob: the socket of a job answers neither for another one nor outside
// of the job's guest.
func (l *lab) workerOtherJob() {
	step := payload("run_script_step", map[string]any{
		"entryPoint": "true", "entryPointArgs": []string{},
		"environmentVariables": map[string]string{}, "prependPath": []string{}, "workingDirectory": "/",
	}, `{"job":"0123456789abcdef0123456789abcdef"}`)
	var host error
	out := &notifyWriter{seen: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-out.seen
		sockets, _ := filepath.Glob(l.path("jobs/w-*/socket/guest.sock"))
		for _, socket := range sockets {
			host = (&brokerapi.Client{Socket: socket}).Cleanup(l.Context(), "x")
		}
	}()
	_, _, err := workerJob{stdout: out}.run(l.Context(), l, hookScript+`echo started; sleep 1
		hook `+quote(step)+`; echo "status $?"`)
	if err != nil {
		l.Fatal(err)
	}
	<-done
	if host == nil {
		l.Error("a process of the host was answered at the socket of a job")
	}
	if !strings.Contains(out.String(), "the guest of this job is gone") || !strings.Contains(out.String(), "status 125") {
		l.Errorf("got\n%s", out.String())
	}
	l.noResidue()
}

// TestWorkerKilled kills what a job hangs on, while its worker, a service and a
// step of a container run: nothing is left, and the next job runs.
func TestWorkerKilled(t *testing.T) {
	for _, test := range []struct {
		summary string
		kill    func(l *lab, hangUp context.CancelFunc)
	}{
		{summary: "Relay", kill: func(_ *lab, hangUp context.CancelFunc) { hangUp() }},
		{summary: "Nspawn", kill: func(l *lab, _ context.CancelFunc) {
			for _, pid := range l.children() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}},
		{summary: "Init", kill: func(l *lab, _ context.CancelFunc) {
			for _, nspawn := range l.children() {
				for _, init := range childrenOf(l.T, nspawn) {
					_ = syscall.Kill(init, syscall.SIGKILL)
				}
			}
		}},
		{summary: "Broker", kill: func(l *lab, _ context.CancelFunc) {
			_ = l.broker.Process.Kill()
			_ = l.broker.Wait()
			l.start()
		}},
		{summary: "Reset", kill: func(l *lab, _ context.CancelFunc) {
			if err := l.client.Reset(l.Context()); err != nil {
				l.Error(err)
			}
		}},
		{summary: "Timeout", kill: func(*lab, context.CancelFunc) {}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var config []string
			if test.summary == "Timeout" {
				config = []string{"RUNNER_JOB_TIMEOUT_S=4"}
			}
			l := newLab(t, config...)
			l.killWorker(test.kill)
			if test.summary != "Timeout" {
				if status, out := l.work("exit 100"); status != 100 {
					t.Errorf("the next job ended with %d: %s", status, out)
				}
			}
		})
	}
}

// killWorker starts a job with everything that one can have, and kills.
func (l *lab) killWorker(kill func(l *lab, hangUp context.CancelFunc)) {
	l.Helper()
	prepare := payload("prepare_job", map[string]any{
		"container": map[string]any{"image": "debian:13"}, "services": []any{webServer("debian:13-slim", "8000")},
	}, "")
	step := payload("run_script_step", map[string]any{
		"entryPoint": "sleep", "entryPointArgs": []string{"4321"},
		"environmentVariables": map[string]string{}, "prependPath": []string{}, "workingDirectory": "/",
	}, `"STATE"`)
	script := hookScript + "hook " + quote(prepare) + ` || exit 1
		sudo setsid -f sleep 4321
		hook ` + quote(step) + ` &
		hook ` + quote(payload("run_container_step", map[string]any{
		"image": "debian:13", "entryPoint": "sleep", "entryPointArgs": []string{"4321"},
	}, `"STATE"`)) + ` &
		while test $(pgrep -c -f 'sleep 4321') -lt 1; do sleep 0.1; done
		sleep 1; echo ready; sleep 4321`

	ctx, hangUp := context.WithCancel(l.Context())
	defer hangUp()
	out := &markWriter{mark: "ready", seen: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		_, _, err := workerJob{stdout: out}.run(ctx, l, script)
		ended <- err
	}()
	select {
	case <-out.seen:
	case err := <-ended:
		l.Fatalf("the job ended: %v\n%s", err, out.text.String())
	}
	kill(l, hangUp)
	select {
	case err := <-ended:
		l.Logf("the relay was told: %v", err)
	case <-time.After(30 * time.Second):
		l.Fatal("the worker goes on")
	}
	l.eventually("the broker is done", func() bool { left, _ := os.ReadDir(l.path("jobs")); return len(left) == 0 })
	l.noResidue()
	l.noSleepers()
}

// noSleepers: no process of a killed job is left anywhere.
func (l *lab) noSleepers() {
	l.Helper()
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range commands {
		data, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(data, []byte("sleep\x004321\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			l.Errorf("process %d of a killed job is left, in %s", pid, cgroup)
		}
	}
}

// markWriter closes seen once its input has the mark.
type markWriter struct {
	mark string
	text bytes.Buffer
	seen chan struct{}
}

func (w *markWriter) Write(p []byte) (int, error) {
	before := strings.Contains(w.text.String(), w.mark)
	n, err := w.text.Write(p)
	if !before && strings.Contains(w.text.String(), w.mark) {
		close(w.seen)
	}
	return n, err
}
