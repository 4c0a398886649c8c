package guests

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// TestGuestJob is one job as the runner would run it, through the hook.
func TestGuestJob(t *testing.T) {
	l := newLab(t, "RUNNER_KEEP_WORK=true") // whose files are looked at afterwards
	l.serveGitHub()
	l.inBoth(func(l *lab) {
		l.guestJob()
		if l.place == onHost {
			l.filesOfGuestJob()
		}
		l.noResidue()
	})
}

func (l *lab) guestJob() {
	result := l.job(miniworker.Job{Name: "build",
		Container: &miniworker.Container{Image: "debian:13", Env: map[string]string{"MODE": "ci"}},
		Steps: []miniworker.Step{
			{Name: "write", Run: "echo hello >file; echo state >/tmp/state; echo result=7 >>$GITHUB_OUTPUT"},
			{Name: "state", Run: "cat /tmp/state; pwd; id -u; echo $MODE $CI $GITHUB_ACTIONS $HOME"},
			{Name: "look", Run: "ps -eo comm=; test ! -e /usr/lib/runner/base; ls " + l.dir + " 2>&1 || true"},
			{Name: "env", Run: `printf '<%s>' "$ODD"`, Env: map[string]string{"ODD": "a\nb 'c' \"d\" $HOME ${HOME} $(id)"}},
			{Name: "others", Run: "chown 5:5 file; mkdir -m 777 open; " +
				"setpriv --reuid 7 --clear-groups sh -c 'mkdir open/dir; echo x >open/dir/f'"},
			{Name: "fail", Run: "exit 7"},
		}})
	for _, step := range result.Steps {
		l.Log(step)
	}

	l.said(result, map[string]string{
		"state": "state\n/__w/repo/repo\n0\nci true true /github/home",
		"env":   "<a\nb 'c' \"d\" $HOME ${HOME} $(id)>",
	})
	if got := result.Step("write").Outputs["result"]; got != "7" {
		l.Errorf("output is %q, want 7", got)
	}

	look := result.Step("look").Output
	if !slices.Contains(look, "runner-shim") || slices.Contains(look, "guests.test") ||
		!strings.Contains(strings.Join(look, "\n"), "No such file or directory") {
		l.Errorf("the step saw %q", look)
	}
	for _, name := range []string{"write", "state", "look", "env", "others", "Initialize containers", "Stop containers"} {
		if step := result.Step(name); step.Conclusion != miniworker.Success {
			l.Errorf("step %v", step)
		}
	}

	if step := result.Step("fail"); step.Exit != 7 {
		l.Errorf("step fail exited %d, want 7", step.Exit)
	}
}

// filesOfGuestJob: what the container wrote on the host is the runner's.
func (l *lab) filesOfGuestJob() {
	for _, name := range []string{"file", "open", "open/dir", "open/dir/f"} {
		info, err := os.Stat(filepath.Join(l.path("work/repo/repo"), name))
		if err != nil {
			l.Fatal(err)
		}
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != runnerID || stat.Gid != runnerID {
			l.Errorf("%s belongs to %d:%d, want the runner", name, stat.Uid, stat.Gid)
		}
	}
}

// request asks for a container just as it is.
func (l *lab) request(c brokerapi.Container) (*brokerapi.PrepareReply, error) {
	return l.client.Prepare(l.Context(), brokerapi.PrepareRequest{Container: &c}, io.Discard)
}

// mount asks for a container with a directory of the host at /x.
func (l *lab) mount(source string) error {
	_, err := l.request(brokerapi.Container{
		Image: "debian:13", Mounts: []brokerapi.Mount{{Target: "/x", Source: source}},
	})
	return err
}

// TestGuestRequests are single requests to one broker.
func TestGuestRequests(t *testing.T) {
	l := newLab(t)
	l.run("UnknownImage", (*lab).unknownImage)
	l.run("ExecWithoutPrepare", (*lab).execWithoutPrepare)
	l.run("CleanupOfNothing", func(l *lab) { l.cleanup("none"); l.noResidue() })
	l.run("PrepareTwice", (*lab).prepareTwice)
	l.run("LinkInWorkRoot", (*lab).linkInWorkRoot)
	l.run("VolumeNotAllowed", (*lab).volumeNotAllowed)
	l.run("OtherUser", (*lab).otherUser)
	l.run("HostileClients", (*lab).hostileClients)
	l.run("RunByHand", (*lab).runByHand)
}

func (l *lab) unknownImage() {
	_, err := l.request(brokerapi.Container{Image: "127.0.0.1:1/node:22"})
	if err == nil || !strings.HasPrefix(err.Error(), "cannot pull 127.0.0.1:1/node:22: ") {
		l.Errorf("got %v", err)
	}
}

func (l *lab) execWithoutPrepare() {
	_, err := l.exec("none", "true")
	want := "cannot run step: the guest of this job is gone; it was ended, or never started"
	if err == nil || err.Error() != want {
		l.Errorf("got %v\nwant %s", err, want)
	}
}

// prepareTwice: the guest of a job that was not cleaned up makes room for the next.
func (l *lab) prepareTwice() {
	first := l.prepare()
	second := l.prepare()
	if _, err := l.exec(first, "true"); err == nil {
		l.Error("the first job still has a guest")
	}
	if children := l.children(); len(children) != 1 {
		l.Errorf("%d guests run, want 1", len(children))
	}
	l.cleanup(second)
	l.cleanup(second)
	l.noResidue()
}

// linkInWorkRoot: a job may leave a link where the next job has a volume.
func (l *lab) linkInWorkRoot() {
	canary := l.TempDir()
	link := l.path("work/_temp/link") // elsewhere it would be removed
	if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(canary, link)); err != nil {
		l.Fatal(err)
	}
	defer os.Remove(link)
	for _, name := range []string{"_temp/link", "_temp/link/sub"} {
		err := l.mount(l.path("work/" + name))
		if err == nil || !strings.HasPrefix(err.Error(), "cannot mount /x: cannot open ") {
			l.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if left, _ := os.ReadDir(canary); len(left) != 0 {
		l.Errorf("something was written through the link: %v", left)
	}
	l.noResidue()
}

func (l *lab) volumeNotAllowed() {
	const outside = " is not allowed: " +
		"it is not beneath a directory of RUNNER_NSPAWN_BIND or RUNNER_NSPAWN_BIND_RO in config.env"
	const hidden = "_temp/_runner_hook_responses/x"
	for _, test := range []struct{ source, want string }{
		{source: "/etc", want: "volume /etc" + outside},
		{source: l.path("work/../etc"), want: "volume " + l.path("work/../etc") + outside},
		{source: l.path("work/_update"), want: "_update belongs to the runner"},
		{source: l.path("work/" + hidden), want: hidden + " belongs to the runner"},
	} {
		err := l.mount(test.source)
		if want := "cannot mount /x: " + test.want; err == nil || err.Error() != want {
			l.Errorf("got %v\nwant %s", err, want)
		}
	}
}

// otherUser: the broker checks its clients also where the mode of its socket does not.
func (l *lab) otherUser() {
	if err := os.Chmod(l.client.Socket, 0o666); err != nil {
		l.Fatal(err)
	}
	for _, test := range []struct {
		summary string
		user    int
		status  int
		in      bool
	}{
		{summary: "the runner", user: runnerID, status: 0, in: true},
		{summary: "somebody else", user: 12345, status: 125, in: false},
	} {
		out, err := exec.Command("setpriv", "--reuid", strconv.Itoa(test.user), "--clear-groups",
			l.agent, "run", "--socket", l.client.Socket, "--", "echo", "in").CombinedOutput()
		if status := exitStatus(err); status != test.status || (string(out) == "in\n") != test.in {
			l.Errorf("%s: status %d, %s", test.summary, status, out)
		}
	}
	l.noResidue()
}

// hostileClients: whatever a client sends, others are served.
func (l *lab) hostileClients() {
	for _, input := range []string{"garbage", "q\xff\xff\xff\xff", "q\x00\x00\x00\x02[]", "q\x00\x00\x00\x02{}", ""} {
		conn, err := net.Dial("unix", l.client.Socket)
		if err != nil {
			l.Fatal(err)
		}
		_, _ = io.WriteString(conn, input)
		defer conn.Close() // slow: still open while others are served
	}
	if err := l.client.Reset(l.Context()); err != nil {
		l.Error(err)
	}
}

func (l *lab) runByHand() {
	out, err := exec.Command(l.agent, "run", "--socket", l.client.Socket, "--cwd", "/tmp", "--env", "A=b c", "--",
		"sh", "-c", `pwd; echo "$A"; exit 3`).Output()
	if status := exitStatus(err); string(out) != "/tmp\nb c\n" || status != 3 {
		l.Errorf("got %q, status %d", out, status)
	}
	l.noResidue()
}

func exitStatus(err error) int {
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return 0
}

// TestGuestSteps are steps in the guest of one job.
func TestGuestSteps(t *testing.T) {
	l := newLab(t)
	job := l.prepare()
	l.run("Status", func(l *lab) { l.stepStatus(job) })
	l.run("NotStarted", func(l *lab) { l.stepNotStarted(job) })
	l.run("BigOutput", func(l *lab) { l.bigOutput(job) })
	l.run("BackgroundChild", func(l *lab) { l.backgroundChild(job) })
	l.run("Parallel", func(l *lab) { l.parallelSteps(job) })
	l.run("ManyWithoutGrowth", func(l *lab) { l.manySteps(job) })
	l.run("HookKilled", func(l *lab) { l.hookKilled(job) })
	l.run("Signal", func(l *lab) { l.stepSignal(job) })
	l.run("Isolation", func(l *lab) { l.stepIsolation(job) })
	l.cleanup(job)
	l.noResidue()
}

func (l *lab) stepStatus(job string) {
	for _, test := range []struct {
		script string
		want   int
	}{
		{script: "exit 0", want: 0}, {script: "exit 7", want: 7}, {script: "exit 255", want: 255},
		{script: "kill -TERM $$", want: 143},
	} {
		if status, _ := l.sh(job, test.script); status != test.want {
			l.Errorf("%q ended with %d, want %d", test.script, status, test.want)
		}
	}
}

func (l *lab) stepNotStarted(job string) {
	for _, test := range []struct {
		request brokerapi.ExecRequest
		want    string
	}{
		{
			request: brokerapi.ExecRequest{Job: job, Argv: []string{"true"}, Dir: "/foo/bar"},
			want:    "cannot start process: working directory /foo/bar does not exist in the guest",
		},
		{
			request: brokerapi.ExecRequest{Job: job, Argv: []string{"nosuch"}},
			want:    `cannot start process: command "nosuch" is not in the guest's PATH (` + layout.Path + ")",
		},
		{
			request: brokerapi.ExecRequest{Job: job},
			want:    "cannot start process: no command given",
		},
	} {
		_, err := l.client.Exec(l.Context(), test.request, wire.Streams{})
		if err == nil || err.Error() != test.want {
			l.Errorf("got %v\nwant %s", err, test.want)
		}
	}
}

// bigOutput: no byte of a large output is lost or changed.
func (l *lab) bigOutput(job string) {
	var out bytes.Buffer
	script := "head -c 20000000 /dev/urandom | tee /tmp/big; printf partial"
	_, err := l.client.Exec(l.Context(), brokerapi.ExecRequest{Job: job, Argv: []string{"sh", "-c", script}},
		wire.Streams{Stdout: &out, Stderr: io.Discard})
	if err != nil {
		l.Fatal(err)
	}
	data, ok := bytes.CutSuffix(out.Bytes(), []byte("partial"))
	_, want := l.sh(job, "sha256sum </tmp/big")
	if got := fmt.Sprintf("%x  -", sha256.Sum256(data)); !ok || got != want {
		l.Errorf("got %d bytes with hash %s, want %s", len(data), got, want)
	}
}

// backgroundChild: a step ends with its process, whatever that leaves running.
func (l *lab) backgroundChild(job string) {
	begin := time.Now()
	if _, out := l.sh(job, "sleep 60 & echo complete"); out != "complete" {
		l.Errorf("got %q", out)
	}
	if d := time.Since(begin); d > 2*time.Second {
		l.Errorf("the child in the background held the step up for %v", d)
	}
	if n := l.sleepers(job); n != 1 {
		l.Errorf("%d children in the background, want it to live on", n)
	}
	l.sh(job, "pkill -x sleep")
}

func (l *lab) parallelSteps(job string) {
	var steps sync.WaitGroup
	for i := range 10 {
		steps.Go(func() {
			status, out, err := l.output(job, fmt.Sprintf("sleep 0.2; echo %d; exit %d", i, i))
			if err != nil || status != i || out != fmt.Sprint(i) {
				l.Errorf("step %d ended with %d, %v, %q", i, status, err, out)
			}
		})
	}
	steps.Wait()
}

// manySteps: steps leave neither descriptors nor cgroups behind.
func (l *lab) manySteps(job string) {
	count := func() (fds, groups int) {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", l.broker.Process.Pid))
		if err != nil {
			l.Fatal(err)
		}
		_, out := l.sh(job, "ls -d /sys/fs/cgroup/runner/step-* | wc -l; ls /proc/$(pgrep -o -x runner-shim)/fd | wc -l")
		var agent int
		if _, err := fmt.Sscan(out, &groups, &agent); err != nil {
			l.Fatal(err)
		}
		return len(open) + agent, groups
	}
	fds, groups := count()
	for range 100 {
		l.sh(job, "true")
	}
	if f, g := count(); f > fds+2 || g > groups {
		l.Errorf("after 100 steps %d descriptors and %d cgroups, before %d and %d", f, g, fds, groups)
	}
}

func (l *lab) hookKilled(job string) {
	l.killedStep(job, syscall.SIGKILL)
}

func (l *lab) stepSignal(job string) {
	signals := make(chan os.Signal, 1)
	out := &notifyWriter{seen: make(chan struct{})}
	go func() {
		<-out.seen
		signals <- syscall.SIGINT
	}()
	const script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done"
	status, err := l.client.Exec(l.Context(), brokerapi.ExecRequest{Job: job, Argv: []string{"sh", "-c", script}},
		wire.Streams{Stdout: out, Stderr: io.Discard, Signals: signals})
	if err != nil || status != 5 || out.String() != "ready\ncaught\n" {
		l.Errorf("got %d, %v, %q", status, err, out.String())
	}
}

func (l *lab) stepIsolation(job string) {
	_, out := l.sh(job, "awk '{print $1, $2 != 0, $3}' /proc/self/uid_map; "+
		"grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; ls /sys/class/net; ls -A /__e; touch /__e/x 2>&1; "+
		"mount -t tmpfs x /mnt 2>&1 && echo mounted")
	for _, want := range []string{"0 1 65536", "Seccomp:\t2", "\neth0\nlo\n", "Read-only file system", "mounted"} {
		if !strings.Contains(out, want) {
			l.Errorf("no %q in\n%s", want, out)
		}
	}
}

// killedStep starts a step whose caller is then killed: within five seconds
// nothing of the step runs any more.
func (l *lab) killedStep(job string, sig syscall.Signal) {
	l.Helper()
	hook := l.stepProcess(job, "sleep 4321 & sleep 4321")
	begin := time.Now()
	_ = hook.Process.Signal(sig)
	_ = hook.Wait()
	l.eventually("the step is gone", func() bool { return l.sleepers(job) == 0 })
	if d := time.Since(begin); d > 5*time.Second {
		l.Errorf("it took %v to end the step", d)
	}
}

// stepProcess starts a hook whose step runs a script with two processes named
// sleep, and waits for these.
func (l *lab) stepProcess(job, script string) *exec.Cmd {
	l.Helper()
	payload := fmt.Sprintf(`{"command":"run_script_step","responseFile":%q,"args":{`+
		`"entryPoint":"sh","entryPointArgs":["-c",%q],"environmentVariables":{},"prependPath":[],`+
		`"workingDirectory":"/"},"state":{"job":%q}}`+"\n", l.path("response"), `"`+script+`"`, job)
	hook := exec.Command("bash", "-e", l.path("hook.sh"))
	hook.Stdin = strings.NewReader(payload)
	if err := hook.Start(); err != nil {
		l.Fatal(err)
	}
	l.eventually("the step runs", func() bool { return l.sleepers(job) == 2 })
	return hook
}

// sleepers counts the guest's processes named sleep.
func (l *lab) sleepers(job string) int {
	l.Helper()
	_, out := l.sh(job, "pgrep -c -x sleep")
	n, err := strconv.Atoi(out)
	if err != nil {
		l.Fatal(err)
	}
	return n
}

// notifyWriter keeps its input, and closes seen at the first piece of it.
type notifyWriter struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	seen chan struct{}
}

func (w *notifyWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buf.Len() == 0 {
		close(w.seen)
	}
	return w.buf.Write(p)
}

func (w *notifyWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// TestGuestKilled kills a process that keeps a guest alive while a step runs:
// the guest leaves nothing.
func TestGuestKilled(t *testing.T) {
	t.Run("Nspawn", nspawnKilled)
	t.Run("Init", initKilled)
	t.Run("BrokerWithSpare", brokerWithSpareKilled)
	t.Run("Broker", brokerKilled)
}

func nspawnKilled(t *testing.T) {
	l := newLab(t)
	job := l.prepare()
	out := &notifyWriter{seen: make(chan struct{})}
	go func() {
		<-out.seen
		for _, pid := range l.children() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}()
	argv := []string{"sh", "-c", "echo on; sleep 4321"}
	_, err := l.client.Exec(t.Context(), brokerapi.ExecRequest{Job: job, Argv: argv},
		wire.Streams{Stdout: out, Stderr: io.Discard})
	if err == nil || !strings.HasPrefix(err.Error(), "cannot go on with the step: the guest ended") {
		t.Errorf("got %v", err)
	}
	l.cleanup(job)
	l.noResidue()
	l.cleanup(l.prepare())
}

func initKilled(t *testing.T) {
	l := newLab(t)
	job := l.prepare()
	for _, nspawn := range l.children() {
		for _, init := range childrenOf(t, nspawn) {
			_ = syscall.Kill(init, syscall.SIGKILL)
		}
	}
	if _, err := l.exec(job, "sleep", "4321"); err == nil {
		t.Error("a step ran in a guest without init")
	}
	l.cleanup(job)
	l.noResidue()
}

func brokerWithSpareKilled(t *testing.T) {
	l := newLab(t, "RUNNER_JOB_PIDS=1000")
	if err := os.WriteFile(l.path("config.env"), []byte("RUNNER_SPARE_GUEST=true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.stop()
	l.start()
	l.eventually("a spare guest waits", func() bool { return len(l.children()) == 1 })
	job := l.prepare()
	if status, _ := l.sh(job, "test $(hostname) != localhost; exit 4"); status != 4 {
		t.Errorf("a step ended with %d, want 4", status)
	}
	_ = l.broker.Process.Kill()
	_ = l.broker.Wait()
	if err := os.WriteFile(l.path("config.env"), []byte("RUNNER_SPARE_GUEST=false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.start()
	l.noResidue()
}

func brokerKilled(t *testing.T) {
	l := newLab(t)
	l.prepare()
	nspawn := l.children()
	if len(nspawn) != 1 {
		t.Fatalf("the broker has children %v, want one", nspawn)
	}
	_ = l.broker.Process.Kill()
	_ = l.broker.Wait()
	l.eventually("nspawn is gone", func() bool { return syscall.Kill(nspawn[0], 0) != nil })
	l.start()
	l.noResidue()
	job := l.prepare()
	if status, _ := l.sh(job, "exit 4"); status != 4 {
		t.Errorf("a step of the next broker ended with %d, want 4", status)
	}
	l.cleanup(job)
	l.noResidue()
}
