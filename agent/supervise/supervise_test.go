package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/config"
)

func TestDecide(t *testing.T) {
	tests := []struct {
		name    string
		o       outcome
		restart string
		status  int
		stop    string
	}{
		{"0, identity kept", outcome{status: 0, configured: true}, "the listener ended without being asked", 0, ""},
		{"0, identity gone", outcome{status: 0}, "", StatusNotRegistered, "GitHub has removed this runner (by hand, or after 14 days without contact); " + registerAgain},
		{"1", outcome{status: 1, configured: true}, "GitHub refused the listener; if this goes on, look for access rules and IP allow lists at GitHub", 0, ""},
		{"1, deleted", outcome{status: 1, configured: true, said: symptoms{deleted: true}}, "", StatusNotRegistered, "GitHub has removed this runner (by hand, or after 14 days without contact); " + registerAgain},
		{"1, not configured", outcome{status: 1, said: symptoms{notConfigured: true}}, "", StatusNotRegistered, "this runner is not registered; " + registerAgain},
		{"1, too old", outcome{status: 1, configured: true, said: symptoms{tooOld: true}}, "", StatusTooOld, "GitHub no longer gives jobs to this version of the actions runner; " + renewRunner},
		{"2", outcome{status: 2, configured: true}, "the listener met an error that may pass", 0, ""},
		{"3", outcome{status: 3, configured: true}, "the listener wanted to update itself, which this appliance does not let it; bake the image again with a current runner", 0, ""},
		{"4", outcome{status: 4, configured: true}, "the listener wanted to update itself, which this appliance does not let it; bake the image again with a current runner", 0, ""},
		{"5", outcome{status: 5, configured: true}, "another session with this runner's identity is open; if this goes on, another machine uses a copy of this disk", 0, ""},
		{"6", outcome{status: 6, configured: true}, "the listener got new settings from GitHub", 0, ""},
		{"7", outcome{status: 7, configured: true}, "", StatusTooOld, "GitHub no longer gives jobs to this version of the actions runner; " + renewRunner},
		{"102", outcome{status: 102, configured: true}, "the listener ended with the unknown status 102", 0, ""},
		{"killed", outcome{status: 137, configured: true}, "the listener was killed by signal 9; if this goes on, look for lack of memory in the journal", 0, ""},
	}
	for _, tt := range tests {
		restart, stop := decide(tt.o)
		if restart != tt.restart || (stop != nil) != (tt.stop != "") || stop != nil && (stop.Status != tt.status || stop.Reason != tt.stop) {
			t.Errorf("%s: got %q, %v", tt.name, restart, stop)
		}
	}
}

func TestBackoff(t *testing.T) {
	for failures, want := range map[int]time.Duration{0: 5 * time.Second, 1: 10 * time.Second, 5: 160 * time.Second, 6: 5 * time.Minute, 1000: 5 * time.Minute} {
		if got := Backoff(failures); got != want {
			t.Errorf("Backoff(%d) = %s, want %s", failures, got, want)
		}
	}
}

func TestListenerArgsAndEnv(t *testing.T) {
	cfg, err := config.FromEnviron([]string{"RUNNER_REQUIRE_JOB_CONTAINER=true", "https_proxy=http://p", "RUNNER_REGISTRATION_TOKEN=AABF3JGZ", "SECRET=x"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(listenerArgs(cfg)), "[/var/lib/runner/actions-runner/bin/Runner.Listener run --startuptype service]"; got != want {
		t.Errorf("got %s", got)
	}
	want := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/h", "LANG=C.UTF-8",
		"ACTIONS_RUNNER_CONTAINER_HOOKS=/usr/local/lib/runner/container-hooks.sh", "ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1",
		"ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER=true", "https_proxy=http://p"}
	if got := listenerEnv(cfg, "/h"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

// log collects what happens, in order.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *log) Write(p []byte) (int, error) {
	l.add(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func (l *log) Reset(context.Context) error { l.add("(guests reset)"); return nil }

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// newSupervisor makes one whose listener is a shell script.
func newSupervisor(t *testing.T, script string) (*Supervisor, *log) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"bin/Runner.Listener": "#!/bin/sh\n" + script, ".runner": "{}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l := &log{}
	return &Supervisor{Config: &config.Config{ActionsRunnerDir: dir, HooksDir: "/h"}, BakedDir: filepath.Join(dir, "none"), Log: l, Guests: l,
		Notify: func(s string) { l.add("(" + strings.ReplaceAll(s, "\n", ", ") + ")") },
		Delay:  func(n int) time.Duration { return time.Duration(n+1) * time.Millisecond }}, l
}

func TestRestartsUntilItCannotHelp(t *testing.T) {
	s, l := newSupervisor(t, `echo x >> count
case $(wc -l < count) in
1) echo "An error occurred"; exit 2 ;;
2) kill -9 $$ ;;
*) echo "2026-01-01 00:00:00Z: Listening for Jobs"; exit 7 ;;
esac`)
	err := s.Run(t.Context())
	var stop *StopError
	if !errors.As(err, &stop) || stop.Status != StatusTooOld {
		t.Errorf("got %v", err)
	}
	want := `(guests reset)
runner: An error occurred
(guests reset)
(STATUS=the listener met an error that may pass)
the listener met an error that may pass; starting again in 1ms
(guests reset)
(guests reset)
(STATUS=the listener was killed by signal 9; if this goes on, look for lack of memory in the journal)
the listener was killed by signal 9; if this goes on, look for lack of memory in the journal; starting again in 2ms
(guests reset)
runner: 2026-01-01 00:00:00Z: Listening for Jobs
(READY=1, STATUS=listening for jobs)
(guests reset)
(STATUS=` + stop.Reason + `)`
	if l.String() != want {
		t.Errorf("got\n%s", l)
	}
}

func TestStopIsPassedOn(t *testing.T) {
	s, l := newSupervisor(t, `trap 'echo "got INT"; exit 0' INT
echo "Listening for Jobs"
while :; do sleep 0.05; done`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	for !strings.Contains(l.String(), "READY=1") {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := l.String(); !strings.HasSuffix(got, "(STOPPING=1, STATUS=stopping the listener)\nstopping the listener\nrunner: got INT\n(guests reset)\nstopped") {
		t.Errorf("got\n%s", got)
	}
}

// TestLeftoverKeepsOutput: a process that outlives the listener and holds its
// output open does not hold up the restart.
func TestLeftoverKeepsOutput(t *testing.T) {
	s, _ := newSupervisor(t, "sleep 30 &\necho $! > pid\nexit 7")
	started := time.Now()
	_ = s.Run(t.Context())
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	if pid, err := os.ReadFile(filepath.Join(s.Config.ActionsRunnerDir, "pid")); err == nil {
		var n int
		if _, err := fmt.Sscan(string(pid), &n); err == nil {
			if p, err := os.FindProcess(n); err == nil {
				_ = p.Kill()
			}
		}
	}
}

func TestNoListener(t *testing.T) {
	s, _ := newSupervisor(t, "")
	if err := os.Remove(filepath.Join(s.Config.ActionsRunnerDir, "bin/Runner.Listener")); err != nil {
		t.Fatal(err)
	}
	err := s.Run(t.Context())
	if err == nil || !strings.HasSuffix(err.Error(), "no such file or directory; check RUNNER_ACTIONS_RUNNER_DIR, and that the image has a runner component") {
		t.Errorf("got %v", err)
	}
}

func TestRefreshCopiesBakedFiles(t *testing.T) {
	s, _ := newSupervisor(t, "exit 7")
	s.BakedDir = t.TempDir()
	if err := os.Mkdir(filepath.Join(s.BakedDir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.BakedDir, "config.sh"), []byte("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(s.Config.ActionsRunnerDir, "config.sh")
	for _, old := range []string{"", "old"} {
		if err := os.WriteFile(to, []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = s.Run(t.Context())
		data, err := os.ReadFile(to)
		st, err2 := os.Stat(to)
		if err != nil || err2 != nil || !bytes.Equal(data, []byte("new")) || st.Mode().Perm() != 0o755 {
			t.Errorf("got %q, %v, %v", data, st, err)
		}
	}
}
