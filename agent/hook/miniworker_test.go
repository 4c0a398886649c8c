package hook_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/hook"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// TestMain lets this program stand for runner-agent hook, so that the double
// of the runner can start it.
func TestMain(m *testing.M) {
	if os.Getenv("HOOK_TEST") == "" {
		os.Exit(m.Run())
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	h := &hook.Hook{Broker: echo{}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals}
	status, err := h.Run(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner-agent: error:", err)
	}
	os.Exit(status)
}

// echo prints the requests it gets. A step whose argument is "wait" ends with
// a signal, another with status 7.
type echo struct{}

func (echo) Prepare(_ context.Context, r brokerapi.PrepareRequest, _ io.Writer) (*brokerapi.PrepareReply, error) {
	reply := &brokerapi.PrepareReply{Job: "3f9c", Network: "77ab", Container: &brokerapi.Started{ID: "3f9c"}}
	return reply, show("prepare", r)
}

func (echo) Container(_ context.Context, r brokerapi.ContainerRequest, s wire.Streams) (int, error) {
	return 6, show("container", r.Args)
}

func (echo) Exec(_ context.Context, r brokerapi.ExecRequest, s wire.Streams) (int, error) {
	if slices.Contains(r.Argv, "wait") {
		fmt.Fprintln(s.Stdout, "waiting")
		got := <-s.Signals
		fmt.Fprintln(s.Stdout, got)
		return 130, nil
	}
	r.Env = nil
	return 7, show("exec", r)
}

func (echo) Cleanup(_ context.Context, job string) error { return show("cleanup", job) }

func show(name string, request any) error {
	data, err := json.Marshal(request)
	fmt.Printf("%s %s\n", name, data)
	return err
}

// newWorker is a runner whose hook is this program. onLine sees its log.
func newWorker(t *testing.T, onLine func(string)) *miniworker.Worker {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "container-hooks.sh")
	if err := os.WriteFile(script, []byte("exec '"+self+"'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w, err := miniworker.New(miniworker.Options{Hook: script, Root: dir, Work: filepath.Join(dir, "_work"), Line: onLine,
		Env: []string{"PATH=/usr/bin:/bin", "HOOK_TEST=1"}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestRunner goes through a job as the runner does, which checks each answer.
func TestRunner(t *testing.T) {
	w := newWorker(t, nil)
	early := w.RunScriptArgs(t.Context(), "early", "bash", "-e x", nil)
	// The error comes on both streams, in any order.
	told := slices.ContainsFunc(early.Output, func(line string) bool {
		return strings.HasPrefix(line, "::error::cannot run step")
	})
	if early.Exit != hook.StatusNotStarted || !told {
		t.Errorf("before prepare_job: %s", early)
	}

	r := w.PrepareJob(t.Context(), &miniworker.Container{
		Image: "base", Env: map[string]string{"A": "b"},
		Credentials: &miniworker.Credentials{Username: "u", Password: "hunter2"},
	}, nil)
	want := `prepare {"container":{"image":"base","credentials":{"username":"u","password":"hunter2"},` +
		`"env":{"A":"b","CI":"true","GITHUB_ACTIONS":"true","HOME":"/github/home"},"dir":"/__w/repo/repo",` +
		`"mounts":[{"target":"/__w","source":"WORK"},` +
		`{"target":"/__e","read_only":true,"externals":true},{"target":"/__w/_temp","source":"WORK/_temp"},` +
		`{"target":"/__w/_actions","source":"WORK/_actions"},` +
		`{"target":"/__w/_tool","source":"WORK/_tool"},{"target":"/github/home","source":"WORK/_temp/_github_home"},` +
		`{"target":"/github/workflow","source":"WORK/_temp/_github_workflow"}]}}`
	want = strings.ReplaceAll(want, "WORK", filepath.Dir(filepath.Dir(w.Workspace())))
	if r.Conclusion != miniworker.Success || !slices.Equal(r.Output, []string{want}) {
		t.Errorf("%s\nwant %s", r, want)
	}
	if c := w.Context().Container; c.ID != "3f9c" || c.Network != "77ab" {
		t.Errorf("the job's container is %+v", c)
	}

	r = w.RunScriptArgs(t.Context(), "quotes", "pwsh", `-command ". '/x y'"`, nil)
	want = `exec {"job":"3f9c","argv":["pwsh","-command",". '/x y'"],"dir":"/__w/repo/repo"}`
	if r.Exit != 7 || !slices.Equal(r.Output, []string{want}) {
		t.Errorf("%s\nwant %s", r, want)
	}

	r = w.RunContainerStep(t.Context(), miniworker.Step{Uses: &miniworker.Container{Image: "alpine", Command: "a 'b c'"}})
	if r.Exit != 6 ||
		!slices.Equal(r.Output, []string{`container ["a","b c"]`}) {
		t.Error(r)
	}

	r = w.Cleanup(t.Context())
	if r.Conclusion != miniworker.Success || !slices.Equal(r.Output, []string{`cleanup "3f9c"`}) {
		t.Error(r)
	}
}

// TestRunnerCancels: the interrupt reaches the step through wrapper and hook.
func TestRunnerCancels(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorker(t, func(line string) {
		if line == "waiting" {
			cancel()
		}
	})
	w.SetState(json.RawMessage(`{"job":"3f9c"}`))
	r := w.RunScriptArgs(ctx, "wait", "bash", "wait", nil)
	if r.Exit != 130 || r.Duration > 5*time.Second ||
		!slices.Equal(r.Output, []string{"waiting", "interrupt"}) {
		t.Error(r)
	}
}
