package native

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// service is a running `runner-agent service`.
type service struct {
	t      *testing.T
	cmd    *exec.Cmd
	notify *net.UnixConn

	mu  sync.Mutex
	out bytes.Buffer
}

func (s *service) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *service) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// startService runs the service as runner.service would: as the runner's user,
// with what config.env says in the environment, but for the token.
func (a *appliance) startService(more ...string) *service {
	a.t.Helper()
	s := &service{t: a.t}
	socket := a.path("notify")
	_ = os.Remove(socket) // of a service before this one
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		a.t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		a.t.Fatal(err)
	}
	s.notify = conn

	s.cmd = exec.Command(built.agent, "service", "--baked-dir", a.path("none"), "--socket", "",
		"--control-dir", a.path("control"))
	s.cmd.Env = append([]string{
		"PATH=/usr/bin:/bin", "HOME=" + a.path("state"), "NOTIFY_SOCKET=" + socket, "RUNNER_NAME=rack-4",
		"RUNNER_ACTIONS_RUNNER_DIR=" + a.path("runner"), "RUNNER_HOOKS_DIR=" + a.path("hooks"),
	}, more...)
	s.cmd.Stdout, s.cmd.Stderr = s, s
	if os.Geteuid() == 0 {
		u, err := user.Lookup(runnerUser)
		if err != nil {
			a.t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}

	if err := s.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = s.cmd.Process.Kill(); _ = conn.Close(); _ = os.Remove(socket) })
	return s
}

// waitNotify waits for a notification that holds want.
func (s *service) waitNotify(want string) {
	s.t.Helper()
	buf := make([]byte, 4096)
	if err := s.notify.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	for {
		n, err := s.notify.Read(buf)
		if err != nil {
			s.t.Fatalf("no %s: %v\n%s", want, err, s.output())
		}
		if strings.Contains(string(buf[:n]), want) {
			return
		}
	}
}

func (s *service) wait() int {
	s.t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); _ = s.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		s.t.Fatalf("the service does not end\n%s", s.output())
	}
	return s.cmd.ProcessState.ExitCode()
}

func (s *service) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	if status := s.wait(); status != 0 {
		s.t.Errorf("stopped with status %d\n%s", status, s.output())
	}
}

// writeHook installs a hook that answers prepare_job and runs scripts here.
func (a *appliance) writeHook() {
	a.t.Helper()
	hook := `#!/bin/bash
read -r request
response=$(printf '%s' "$request" | sed 's/.*"responseFile":"\([^"]*\)".*/\1/')
case $request in
*'"command":"prepare_job"'*) echo '{"isAlpine":false,"state":{"id":"1"}}' > "$response" ;;
*'"command":"run_script_step"'*)
  script=$(printf '%s' "$request" | grep -o '/__w/_temp/[^"]*\.sh' | tail -1)
  exec sh -e "${GITHUB_WORKSPACE%/*/*}/${script#/__w/}" ;;
esac
`
	if err := os.WriteFile(a.path("hooks/container-hooks.sh"), []byte(hook), 0o755); err != nil {
		a.t.Fatal(err)
	}
}

func TestServiceRunsJob(t *testing.T) {
	a := newAppliance(t)
	a.writeHook()
	a.mustInstall()
	s := a.startService()
	s.waitNotify("READY=1")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id := a.github.Enqueue(miniworker.Job{Name: "build", Container: &miniworker.Container{Image: "base"},
		Steps: []miniworker.Step{
			{Name: "good", Run: "echo hello; echo to stderr >&2"},
			{Name: "bad", Run: "exit 7", ContinueOnError: true},
			{Name: "env", Run: "env"},
		}})
	result, err := a.github.Wait(ctx, id)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.output())
	}

	if result.Conclusion != miniworker.Success || !slices.Contains(result.Step("good").Output, "hello") ||
		result.Step("bad").Exit != 7 {
		t.Errorf("got %s", result)
	}
	env := strings.Join(result.Step("env").Output, "\n")
	if !strings.Contains(env, "ACTIONS_RUNNER_CONTAINER_HOOKS="+a.path("hooks/container-hooks.sh")) ||
		strings.Contains(env, "NOTIFY_SOCKET") {
		t.Errorf("the hook's environment is\n%s", env)
	}

	s.stop()
	s.waitNotify("STOPPING=1")
	if r := a.github.Runners(); r[0].Status != "offline" {
		t.Error("the session was not closed")
	}
}

// TestServiceRelayOnHost: with RUNNER_JOBS=host the relay in the place of the worker
// becomes the worker.
func TestServiceRelayOnHost(t *testing.T) {
	a := newAppliance(t)
	worker := a.path("runner/bin/Runner.Worker")
	shim, err := os.ReadFile(built.shim)
	if err := errors.Join(err, os.Rename(worker, worker+".real")); err != nil {
		t.Fatal(err)
	}
	a.write("runner/bin/Runner.Worker", string(shim))
	a.mustInstall()
	s := a.startService("RUNNER_JOBS=host")
	s.waitNotify("READY=1")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id := a.github.Enqueue(miniworker.Job{Name: "on the host", Steps: []miniworker.Step{
		{Name: "worker", Run: `tr '\0' ' ' </proc/$PPID/cmdline; echo; exit 3`}}})
	result, err := a.github.Wait(ctx, id)
	want := []string{worker + ".real spawnclient 143 161 "}
	if step := result.Step("worker"); err != nil || !slices.Equal(step.Output, want) || step.Exit != 3 {
		t.Errorf("got %s, %v\n%s", result, err, s.output())
	}
	s.stop()
	if !strings.Contains(s.output(), "Job on the host completed with result: Failed\n") {
		t.Errorf("the console is\n%s", s.output())
	}
}

func TestServiceStopCancelsJob(t *testing.T) {
	a := newAppliance(t)
	a.writeHook()
	a.mustInstall()
	s := a.startService()
	s.waitNotify("READY=1")
	id := a.github.Enqueue(miniworker.Job{Name: "long", Container: &miniworker.Container{Image: "base"},
		Steps: []miniworker.Step{{Name: "long", Run: "touch " + a.path("state/work/started") + "; exec sleep 60"}}})
	a.eventually("the step runs", func() bool { return a.exists("state/work/started") })
	s.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	result, err := a.github.Wait(ctx, id)
	if err != nil || result.Conclusion != miniworker.Cancelled ||
		result.Step("Stop containers").Conclusion != miniworker.Skipped {
		t.Errorf("got %s, %v", result, err)
	}
}

// TestServiceEnds: the status says whether a restart would help, and the last
// line what would.
func TestServiceEnds(t *testing.T) {
	for _, test := range []struct {
		summary string
		before  func(*appliance)
		setting string
		status  int
		output  string // in its output
	}{
		{
			summary: "removed at GitHub",
			before:  func(a *appliance) { a.mustInstall(); a.github.Forget() },
			status:  3,
			output: "runner-agent: error: GitHub has removed this runner (by hand, or after 14 days without contact); " +
				"put a new token into RUNNER_REGISTRATION_TOKEN in /etc/runner/config.env, " +
				"then rm /var/lib/runner/installed && systemctl restart runner-install.service\n",
		},
		{
			summary: "too old",
			before:  func(a *appliance) { a.mustInstall(); a.github.ExitListener(7) },
			status:  4,
		},
		{
			summary: "not registered",
			before:  func(*appliance) {},
			status:  3,
			output:  "this runner is not registered; ",
		},
		{
			summary: "bad setting",
			before:  func(*appliance) {},
			setting: "RUNNER_JOBS=maybe",
			status:  2,
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			a := newAppliance(t)
			test.before(a)
			var settings []string
			if test.setting != "" {
				settings = []string{test.setting}
			}
			s := a.startService(settings...)
			if status := s.wait(); status != test.status || !strings.Contains(s.output(), test.output) {
				t.Errorf("status %d, want %d and %q in\n%s", status, test.status, test.output, s.output())
			}
		})
	}
}

func TestServiceStartsListenerAgain(t *testing.T) {
	a := newAppliance(t)
	a.mustInstall()
	a.github.ExitListener(2)
	s := a.startService()
	s.waitNotify("READY=1")
	s.waitNotify("READY=1") // 5 s later
	if !strings.Contains(s.output(), "the listener met an error that may pass; starting again in 5s\n") {
		t.Errorf("got\n%s", s.output())
	}
	s.stop()
}

func TestServiceAfterFailedReregistration(t *testing.T) {
	a := newAppliance(t)
	a.mustInstall()
	a.remove("state/installed")
	a.github.Fail(fakegithub.Failure{Path: "/actions/runner-registration", Status: 404})
	if _, _, status := a.install(); status != 1 {
		t.Fatal("not refused")
	}
	s := a.startService() // with the old identity, which GitHub still knows
	s.waitNotify("READY=1")
	s.stop()
}
