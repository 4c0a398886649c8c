package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/internal/golden"
)

// TestDecide compares the decisions with testdata/decisions.txt.
func TestDecide(t *testing.T) {
	tests := []struct {
		summary string
		end     outcome
	}{
		{"0, still registered", outcome{status: 0, registered: true}},
		{"0, .runner is gone", outcome{status: 0}},
		{"1", outcome{status: 1, registered: true}},
		{"1, .runner is gone", outcome{status: 1}},
		{"1, deleted", outcome{status: 1, registered: true, output: symptoms{deleted: true}}},
		{"1, deleted, .runner is gone", outcome{status: 1, output: symptoms{deleted: true}}},
		{"1, not configured", outcome{status: 1, output: symptoms{notConfigured: true}}},
		{"1, too old", outcome{status: 1, registered: true, output: symptoms{tooOld: true}}},
		{"2", outcome{status: 2, registered: true}},
		{"2, .runner is gone", outcome{status: 2}},
		{"3", outcome{status: 3, registered: true}},
		{"4", outcome{status: 4, registered: true}},
		{"5", outcome{status: 5, registered: true}},
		{"6", outcome{status: 6, registered: true}},
		{"7", outcome{status: 7, registered: true}},
		{"102", outcome{status: 102, registered: true}},
		{"killed", outcome{status: 137, registered: true}},
	}
	var decisions strings.Builder
	for _, tt := range tests {
		restart, stop := decide(tt.end)
		if (restart == "") == (stop == nil) {
			t.Errorf("%s: got %q and %v, want one of them", tt.summary, restart, stop)
		}
		text := "restart: " + restart
		if stop != nil {
			text = fmt.Sprintf("stop with status %d: %s", stop.Status, stop.Reason)
		}
		fmt.Fprintf(&decisions, "%s\n  %s\n", tt.summary, text)
	}
	golden.Check(t, "decisions.txt", decisions.String())
}

func TestListenerArgsAndEnv(t *testing.T) {
	cfg, err := config.FromEnviron([]string{
		"RUNNER_JOBS=container", "https_proxy=http://p", "RUNNER_REGISTRATION_TOKEN=AABF3JGZ", "SECRET=x",
	})
	if err != nil {
		t.Fatal(err)
	}
	args := "[/var/lib/runner/actions-runner/bin/Runner.Listener run --startuptype service]"
	if got := fmt.Sprint(listenerArgs(cfg)); got != args {
		t.Errorf("got %s", got)
	}
	want := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/h",
		"LANG=C.UTF-8",
		"ACTIONS_RUNNER_CONTAINER_HOOKS=/usr/local/lib/runner/container-hooks.sh",
		"ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1",
		"DOTNET_ThreadPool_ForceMinWorkerThreads=10",
		"RUNNER_JOBS=container",
		"RUNNER_CONTROL_DIR=/c",
		"ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER=true",
		"https_proxy=http://p",
	}
	if diff := cmp.Diff(want, listenerEnv(cfg, "/h", "/c")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
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

func (l *log) notify(state string) { l.add("(" + strings.ReplaceAll(state, "\n", ", ") + ")") }

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
	content := map[string]string{"bin/Runner.Listener": "#!/bin/sh\n" + script, ".runner": "{}"}
	for name, content := range content {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l := &log{}
	return &Supervisor{
		Config:   &config.Config{ActionsRunnerDir: dir, HooksDir: "/h"},
		BakedDir: filepath.Join(dir, "none"),
		Log:      l,
		Guests:   l,
		Notify:   l.notify,
		Delay:    func(n int) time.Duration { return time.Duration(n+1) * time.Millisecond },
		state:    newMachine(func(control.Status) {}),
	}, l
}

func noWorker() bool { return false }

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
	defer cancel()
	s.Notify = func(state string) {
		l.notify(state)
		if strings.HasPrefix(state, "READY=1") {
			cancel()
		}
	}
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	want := "(STOPPING=1, STATUS=stopping the listener)\n" +
		"stopping the listener\nrunner: got INT\n(guests reset)\nstopped"
	if got := l.String(); !strings.HasSuffix(got, want) {
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
	want := "no such file or directory; check RUNNER_ACTIONS_RUNNER_DIR, and that the image has a runner component"
	if err == nil || !strings.HasSuffix(err.Error(), want) {
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

// TestJobNameIsNotASymptom: the listener prints the names of jobs, which
// workflows choose, with line breaks in them if they like. None of them stops
// the service.
func TestJobNameIsNotASymptom(t *testing.T) {
	const (
		deleted = "Failed to create a session. The runner registration has been deleted from the server"
		client  = "An error occurred: invalid_client"
		tooOld  = "An error occurred: Runner version v2.337.0 is deprecated and cannot receive messages."
	)
	tests := []struct{ summary, name string }{
		{summary: "too old", name: "Runner version 2.337.0 is deprecated"},
		{summary: "deleted", name: "x invalid_client"},
		{summary: "deleted, in words", name: "registration has been deleted"},
		{summary: "too old, on a line of its own", name: "x\n" + tooOld + "\ny"},
		{summary: "deleted, on lines of their own", name: "x\n" + deleted + "\n" + client + "\ny"},
		{summary: "not configured, on a line of its own", name: "x\nNot configured\ny"},
		{summary: "after a line that looks like the end of the job",
			name: "x\n2026-11-24 08:22:26Z: Job x completed with result: Succeeded\n" + tooOld + "\ny"},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			s, _ := newSupervisor(t, "")
			found := s.follow(strings.NewReader("2026-11-24 08:22:20Z: Listening for Jobs\n"+
				"2026-11-24 08:22:24Z: Running job: "+tt.name+"\n"+
				"2026-11-24 08:22:26Z: Job "+tt.name+" completed with result: Succeeded\n"), noWorker)
			if found != (symptoms{}) {
				t.Errorf("got %+v", found)
			}
		})
	}
}

// TestJobNameIsNotAnEnd: a name does not end the guests of its own job either,
// and does not make the service look ready.
func TestJobNameIsNotAnEnd(t *testing.T) {
	s, l := newSupervisor(t, "")
	s.follow(readerOf("2026-11-24 08:22:24Z: Running job: x completed with result: Listening for Jobs\n"), noWorker)
	if got := l.String(); strings.Contains(got, "(") {
		t.Errorf("got\n%s", got)
	}
}

// TestSymptoms are the lines of the actions runner 2.336.0 that count.
func TestSymptoms(t *testing.T) {
	tests := []struct {
		line string
		want symptoms
	}{
		{"Failed to create a session. The runner registration has been deleted from the server, please re-configure. " +
			"Runner registrations are automatically deleted for runners that have not connected to the service recently.",
			symptoms{deleted: true}},
		{"An error occurred: invalid_client: the client is unknown", symptoms{deleted: true}},
		{"Not configured. Run config.(sh/cmd) to configure the runner.", symptoms{notConfigured: true}},
		{"An error occurred: Runner version v2.336.0 is deprecated and cannot receive messages.", symptoms{tooOld: true}},
		{"An error occurred: no route to host", symptoms{}},
	}
	for _, tt := range tests {
		s, _ := newSupervisor(t, "")
		if got := s.follow(strings.NewReader(tt.line+"\n"), noWorker); got != tt.want {
			t.Errorf("%s: got %+v", tt.line, got)
		}
	}
}

func readerOf(lines ...string) io.Reader { return strings.NewReader(strings.Join(lines, "")) }
