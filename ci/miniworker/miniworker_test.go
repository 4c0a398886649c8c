package miniworker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/internal/golden"
)

// newWorker makes a worker whose hook is this shell script. It sees the request
// in $request and the response file in $response.
func newWorker(t *testing.T, hook string) (*miniworker.Worker, string) {
	t.Helper()
	t.Parallel()
	dir := t.TempDir()
	script := `read -r request
response=$(printf '%s' "$request" | sed 's/.*"responseFile":"\([^"]*\)".*/\1/')
command=$(printf '%s' "$request" | sed 's/{"command":"\([^"]*\)".*/\1/')
` + hook
	path := filepath.Join(dir, "hook.sh")
	if err := os.WriteFile(path, []byte(script), 0o644); err != nil { // not executable: bash reads it
		t.Fatal(err)
	}
	w, err := miniworker.New(miniworker.Options{Hook: path, Root: dir, Work: filepath.Join(dir, "_work"),
		Env: []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}})
	if err != nil {
		t.Fatal(err)
	}
	return w, dir
}

var base = &miniworker.Container{Image: "base"}

// checkGolden compares a request, indented, with a file of testdata. The order of
// keys counts.
func checkGolden(t *testing.T, dir, got, name string) {
	t.Helper()
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte(normalized(t, dir, got)), "", "  "); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, name, indented.String())
}

// checkRequest compares with want, in which DIR stands for the test's directory
// and RESPONSE for the response file.
func checkRequest(t *testing.T, dir, got, want string) {
	t.Helper()
	if diff := cmp.Diff(want+"\n", normalized(t, dir, got)); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// normalized returns a request with the words of checkRequest in it, after a look
// at its response file.
func normalized(t *testing.T, dir, request string) string {
	t.Helper()
	var parsed struct{ ResponseFile string }
	if err := json.Unmarshal([]byte(request), &parsed); err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(parsed.ResponseFile) != dir+"/_work/_temp/_runner_hook_responses" ||
		filepath.Ext(parsed.ResponseFile) != ".json" {
		t.Errorf("response file is %s", parsed.ResponseFile)
	}
	if _, err := os.Stat(parsed.ResponseFile); err == nil {
		t.Error("the response file was not deleted")
	}
	return strings.NewReplacer(parsed.ResponseFile, "RESPONSE", dir, "DIR").Replace(request)
}

func TestPrepareJobRequest(t *testing.T) {
	w, dir := newWorker(t,
		`test -e "$response"; test ! -s "$response"; echo '{"isAlpine":false,"state":{"a":[1,"ü"]}}' > "$response"`)
	container := &miniworker.Container{
		Image: "ghcr.io/a/b:1", Options: "--cpus 1", Env: map[string]string{"A": "<&>"},
		Volumes: []string{"/srv:/data:ro", "vol:/v", "/only", "/o:RO"}, Ports: []string{"80", "8080:80/tcp"},
		Credentials: &miniworker.Credentials{Username: "me"},
	}
	services := []miniworker.Container{{Image: "redis", Entrypoint: "/bin/x", Command: " a  b "}}
	r := w.PrepareJob(t.Context(), container, services)
	if r.Conclusion != miniworker.Success {
		t.Fatal(r)
	}
	checkGolden(t, dir, r.Request, "prepare_job.json")
	if string(w.State()) != `{"a":[1,"ü"]}` {
		t.Errorf("state is %s", w.State())
	}
	c := w.Cleanup(t.Context())
	checkRequest(t, dir, c.Request, `{"command":"cleanup_job","responseFile":"RESPONSE","args":{},"state":{"a":[1,"ü"]}}`)
}

func TestScriptStepRequest(t *testing.T) {
	w, dir := newWorker(t, `test $command != prepare_job || echo '{"isAlpine":false}' > "$response"`)
	if r := w.PrepareJob(t.Context(), base, nil); r.Conclusion != miniworker.Success {
		t.Fatal(r)
	}
	r := w.RunScript(t.Context(), miniworker.Step{Shell: "bash", Run: "true", WorkingDirectory: "sub",
		Env: map[string]string{"A": dir + "/_work/x", "B": dir + "/_workx", "C": dir + "/externals"}})
	var req struct {
		Args struct {
			EntryPoint           string
			EntryPointArgs       []string
			EnvironmentVariables map[string]string
			PrependPath          []string
			WorkingDirectory     string
		}
		State *json.RawMessage
	}
	if err := json.Unmarshal([]byte(r.Request), &req); err != nil {
		t.Fatal(err)
	}

	args := req.Args.EntryPointArgs
	if req.Args.EntryPoint != "bash" || len(args) != 6 ||
		!slices.Equal(args[:5], []string{"--noprofile", "--norc", "-e", "-o", "pipefail"}) ||
		!strings.HasPrefix(args[5], "/__w/_temp/") || !strings.HasSuffix(args[5], ".sh") {
		t.Errorf("runs %s %q", req.Args.EntryPoint, args)
	}
	if req.Args.WorkingDirectory != "/__w/repo/repo/sub" || req.Args.PrependPath == nil ||
		len(req.Args.PrependPath) != 0 || req.State != nil {
		t.Errorf("got %+v", req)
	}

	env := req.Args.EnvironmentVariables
	for _, test := range []struct{ variable, want string }{
		{variable: "A", want: "/__w/x"},
		{variable: "B", want: dir + "/_workx"},
		{variable: "C", want: "/__e"},
		{variable: "GITHUB_WORKSPACE", want: "/__w/repo/repo"},
		{variable: "RUNNER_TEMP", want: "/__w/_temp"},
		{variable: "GITHUB_EVENT_PATH", want: "/github/workflow/event.json"},
	} {
		if got := env[test.variable]; got != test.want {
			t.Errorf("%s is %q, want %q", test.variable, got, test.want)
		}
	}
	if got := filepath.Dir(env["GITHUB_OUTPUT"]); got != "/__w/_temp/_runner_file_commands" {
		t.Errorf("GITHUB_OUTPUT is a file of %s", got)
	}
	for _, absent := range []string{"HOME", "PATH", "CI", "GITHUB_ACTIONS"} {
		if _, ok := env[absent]; ok {
			t.Errorf("%s is in a step's environment", absent)
		}
	}

	quoted := w.RunScriptArgs(t.Context(), "js", "pwsh", `-command ". '/x'"  y`, nil)
	if !strings.Contains(quoted.Request, `"entryPointArgs":["-command","\".","'/x'\"","","y"]`) {
		t.Errorf("got %s", quoted.Request)
	}
}

func TestContainerStepRequest(t *testing.T) {
	w, dir := newWorker(t, "")
	container := &miniworker.Container{Image: "alpine", Entrypoint: "/e", Command: "a b"}
	r := w.RunContainerStep(t.Context(), miniworker.Step{Name: "x", Uses: container})
	if r.Conclusion != miniworker.Success {
		t.Fatal(r)
	}
	for _, want := range []string{
		`"state":null}`,
		`"workingDirectory":"/github/workspace","createOptions":null,"registry":null`,
		`{"userProvidedValue":null,"sourceVolumePath":"` + dir + `/_work/_temp/_runner_file_commands",` +
			`"targetVolumePath":"/github/file_commands","readOnly":false}`,
		`"GITHUB_OUTPUT":"/github/file_commands/set_output_`,
	} {
		if !strings.Contains(r.Request, want) {
			t.Errorf("no %s in\n%s", want, r.Request)
		}
	}
}

const failed = "Executing the custom container implementation failed. Please contact your self hosted runner " +
	"administrator."

func TestPrepareResponses(t *testing.T) {
	t.Parallel()
	const nullReference = "Object reference not set to an instance of an object."
	const unreadable = "Response file could not be read at 'HOOK' running command 'prepare_job'"

	answer := func(response string) string { return "echo '" + response + `' > "$response"` }
	for _, test := range []struct {
		summary   string
		hook      string // shell
		container *miniworker.Container
		services  int
		want      string // first error; "" for success
	}{
		{
			summary: "good", container: base, services: 1,
			hook: answer(`{"isAlpine":true,"context":{"container":{"id":"c","network":"n"},` +
				`"services":[{"id":"s","ports":{"80":8080}}]}}`),
		},
		{summary: "other case, extra members", hook: answer(`{"ISALPINE":true,"other":1}`), container: base},
		{summary: "empty", container: base, want: unreadable},
		{summary: "null", hook: answer("null"), container: base, want: unreadable},
		{
			summary: "deleted", hook: `rm "$response"`, container: base,
			want: "Response file is required but not found for the hook script at 'HOOK' running command 'prepare_job'",
		},
		{
			summary: "no isAlpine", hook: answer("{}"), container: base,
			want: "The property 'isAlpine' is required but was not found in the response file.",
		},
		{summary: "services only", hook: answer("{}"), services: 1},
		{summary: "services only, empty", services: 1, want: nullReference},
		{
			summary: "services only, with container", hook: answer(`{"context":{"container":{"id":"c"}}}`),
			services: 1, want: nullReference,
		},
		{
			summary: "services null", hook: answer(`{"isAlpine":false,"context":{"services":null}}`),
			container: base, want: nullReference,
		},
		{
			summary: "no ports", hook: answer(`{"isAlpine":false,"context":{"services":[{"id":"x"}]}}`),
			container: base, services: 1, want: nullReference,
		},
		{
			summary: "too many services", container: base, services: 1,
			hook: answer(`{"isAlpine":false,"context":{"services":[{"ports":{}},{"ports":{}}]}}`),
			want: "Index was out of range. Must be non-negative and less than the size of the collection. " +
				"(Parameter 'index')",
		},
		{
			summary: "state not an object", hook: answer(`{"isAlpine":false,"state":"x"}`), container: base,
			want: "Error converting value to type 'Newtonsoft.Json.Linq.JObject'. Path 'state'.",
		},
		{summary: "exit 3", hook: "exit 3", container: base, want: "Process completed with exit code 3."},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w, dir := newWorker(t, test.hook)
			r := w.PrepareJob(t.Context(), test.container, make([]miniworker.Container, test.services))
			if test.want == "" {
				if r.Conclusion != miniworker.Success || len(r.Errors) != 0 {
					t.Error(r)
				}
				return
			}
			want := []string{strings.ReplaceAll(test.want, "HOOK", dir+"/hook.sh"), failed}
			if r.Conclusion != miniworker.Failure || !slices.Equal(r.Errors, want) {
				t.Errorf("%s\nwant %q", r, want)
			}
		})
	}
}

func TestContext(t *testing.T) {
	w, _ := newWorker(t, `cat >"$response" <<'END'
{"isAlpine":true,"context":{"container":{"id":"c","network":"n"},
"services":[{"id":"s","network":null,"ports":{"80":8080,"81":"9"}}]}}
END`)
	w.PrepareJob(t.Context(), base, []miniworker.Container{{Image: "x"}})
	want := miniworker.JobContext{
		Container: miniworker.ContainerContext{ID: "c", Network: "n"},
		Services:  []miniworker.ContainerContext{{ID: "s", Ports: map[string]string{"80": "8080", "81": "9"}}},
	}
	if diff := cmp.Diff(want, w.Context()); diff != "" {
		t.Errorf("context (-want +got):\n%s", diff)
	}
}

func TestInvocation(t *testing.T) {
	w, dir := newWorker(t, `pwd; printf '%s\n' "$0" "$#" "$-"; env; cat`)
	r := w.Cleanup(t.Context())
	for _, want := range []string{w.Workspace(), dir + "/hook.sh", "0", "CI=true", "GITHUB_ACTIONS=true",
		"GITHUB_WORKSPACE=" + w.Workspace(), "RUNNER_TEMP=" + dir + "/_work/_temp", "PATH=/usr/bin:/bin",
		"HOME=/nonexistent"} {
		if !slices.Contains(r.Output, want) {
			t.Errorf("no line %q in\n%s", want, r)
		}
	}
	if flags := r.Output[3]; !strings.Contains(flags, "e") {
		t.Errorf("shell flags are %q, want e among them", flags)
	}
	if slices.ContainsFunc(r.Output, func(l string) bool { return strings.HasPrefix(l, "GITHUB_TOKEN=") }) {
		t.Error("the hook was given a token")
	}
}

func TestOutputLines(t *testing.T) {
	w, _ := newWorker(t, `printf 'a\r\nb\rc\n\377\npartial'`)
	if r := w.Cleanup(t.Context()); !slices.Equal(r.Output, []string{"a", "b", "c", "\uFFFD", "partial"}) {
		t.Errorf("got %q", r.Output)
	}
}

func TestExitBySignal(t *testing.T) {
	w, _ := newWorker(t, `kill -9 $$`)
	if r := w.Cleanup(t.Context()); r.Exit != 137 || r.Errors[0] != "Process completed with exit code 137." {
		t.Error(r)
	}
}

func TestUnknownExtension(t *testing.T) {
	dir := t.TempDir()
	w, err := miniworker.New(miniworker.Options{Hook: "/x/hook", Root: dir, Work: dir + "/_work"})
	if err != nil {
		t.Fatal(err)
	}
	if r := w.Cleanup(t.Context()); r.Conclusion != miniworker.Failure ||
		r.Errors[0] != "Invalid file extension at '/x/hook'." {
		t.Error(r)
	}
}

// TestPipesHeldOpen: a child that keeps the pipes costs five seconds.
func TestPipesHeldOpen(t *testing.T) {
	w, dir := newWorker(t, `sleep 60 & echo $! > "${0%/*}/pid"; echo said`)
	r := w.Cleanup(t.Context())
	if r.Conclusion != miniworker.Success || r.Duration < 5*time.Second || r.Duration > 8*time.Second ||
		!slices.Equal(r.Output, []string{"said"}) {
		t.Error(r)
	}
	if _, err := os.Stat(dir + "/pid"); err != nil {
		t.Error(err)
	}
	w.RunJob(t.Context(), miniworker.Job{Container: base}) // ends with the killing of orphans
}

func TestCancelSignals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		summary string
		hook    string
		atLeast time.Duration
		exit    int
		output  []string
	}{
		{
			summary: "obeys INT", hook: `trap 'echo int; exit 5' INT; while :; do sleep 0.1; done`,
			exit: 5, output: []string{"int"},
		},
		{
			summary: "obeys TERM",
			hook:    `trap 'echo int' INT; trap 'echo term; exit 6' TERM; while :; do sleep 0.1; done`,
			atLeast: 7500 * time.Millisecond, exit: 6, output: []string{"int", "term"},
		},
		{
			summary: "obeys nothing", hook: `trap 'echo int' INT; trap 'echo term' TERM; while :; do sleep 0.1; done`,
			atLeast: 10 * time.Second, exit: 137, output: []string{"int", "term"},
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w, _ := newWorker(t, test.hook)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			r := w.Cleanup(ctx)
			if r.Exit != test.exit || r.Duration < test.atLeast || r.Duration > test.atLeast+6*time.Second ||
				!slices.Equal(r.Output, test.output) {
				t.Error(r)
			}
			if !slices.Equal(r.Errors, []string{"The operation was canceled.", failed}) {
				t.Errorf("errors are %q", r.Errors)
			}
		})
	}
}

// onHost is a hook that runs scripts here, with paths put back.
const onHost = `case $command in
prepare_job) echo '{"isAlpine":false}' > "$response" ;;
run_script_step) script=$(printf '%s' "$request" | grep -o '/__w/_temp/[^"]*\.sh' | tail -1)
  exec sh -e "${GITHUB_WORKSPACE%/*/*}/${script#/__w/}" ;;
esac`

func TestFileCommands(t *testing.T) {
	w, _ := newWorker(t, onHost)
	job := w.RunJob(t.Context(), miniworker.Job{Container: base, Steps: []miniworker.Step{
		{Name: "set", Run: `echo A=1 >> "$GITHUB_OUTPUT"; printf 'B<<X\n2\n3\nX\n' >> "$GITHUB_OUTPUT"
echo C=4 >> "$GITHUB_ENV"; echo /first >> "$GITHUB_PATH"; echo /second >> "$GITHUB_PATH"`},
		{Name: "get", Run: `echo "$PATH"`},
	}})
	if job.Conclusion != miniworker.Success {
		t.Fatal(job)
	}
	if diff := cmp.Diff(map[string]string{"A": "1", "B": "2\n3"}, job.Step("set").Outputs); diff != "" {
		t.Errorf("outputs (-want +got):\n%s", diff)
	}
	get := job.Step("get")
	if !slices.Equal(get.Output, []string{"/second:/first:/usr/bin:/bin"}) ||
		!strings.Contains(get.Request, `"prependPath":["/second","/first"]`) || !strings.Contains(get.Request, `"C":"4"`) {
		t.Errorf("%s\n%s", get, get.Request)
	}
}

// TestBashFromJob shows the hole of the real runner: a job chooses the
// interpreter of the next hook call.
func TestBashFromJob(t *testing.T) {
	w, dir := newWorker(t, onHost)
	evil := dir + "/_work/bash"
	job := w.RunJob(t.Context(), miniworker.Job{Container: base, Steps: []miniworker.Step{
		{Run: "printf '#!/bin/sh\\necho escaped\\n' > " + evil + "; chmod +x " + evil + "; echo " + dir +
			"/_work >> $GITHUB_PATH"},
		{Name: "victim", Run: "true"},
	}})
	if got := job.Step("victim").Output; !slices.Equal(got, []string{"escaped"}) {
		t.Error(job)
	}
}

func TestRunJob(t *testing.T) {
	w, _ := newWorker(t, onHost)
	job := w.RunJob(t.Context(), miniworker.Job{Container: base, Steps: []miniworker.Step{
		{Name: "tolerated", Run: "exit 7", ContinueOnError: true},
		{Name: "on failure, too early", Run: "true", If: "failure"},
		{Name: "fails", Run: "exit 3"},
		{Name: "skipped", Run: "true"},
		{Name: "on failure", Run: "true", If: "failure"},
		{Name: "always", Run: "setsid sleep 60 > /dev/null 2>&1 &", If: "always"},
	}})
	var got []string
	for _, s := range job.Steps {
		got = append(got, s.Name+": "+s.Conclusion)
	}
	want := []string{"Initialize containers: success", "tolerated: failure", "on failure, too early: skipped",
		"fails: failure", "skipped: skipped", "on failure: success", "always: success", "Stop containers: success"}
	if !slices.Equal(got, want) || job.Conclusion != miniworker.Failure || job.Orphans != 1 {
		t.Errorf("got %q\n%s", got, job)
	}
}

func TestShutdownSkipsCleanup(t *testing.T) {
	w, dir := newWorker(t, onHost)
	for _, test := range []struct {
		cause error
		want  string // conclusion of the clean-up
	}{
		{cause: miniworker.ErrShutdown, want: miniworker.Skipped},
		{cause: miniworker.ErrCancelled, want: miniworker.Success},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		started := dir + "/started"
		go func() {
			for {
				if _, err := os.Stat(started); err == nil {
					cancel(test.cause)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		steps := []miniworker.Step{{Run: "touch " + started + "; exec sleep 30"}}
		job := w.RunJob(ctx, miniworker.Job{Container: base, Steps: steps})
		if got := job.Step("Stop containers").Conclusion; got != test.want {
			t.Errorf("%v: %s, want %s", test.cause, got, test.want)
		}
		if err := os.Remove(started); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStepTimeout(t *testing.T) {
	w, _ := newWorker(t, onHost)
	slow := miniworker.Step{Name: "slow", Run: "exec sleep 30", TimeoutSeconds: 1}
	job := w.RunJob(t.Context(), miniworker.Job{Container: base, Steps: []miniworker.Step{slow}})
	if s := job.Step("slow"); job.Conclusion != miniworker.Failure || s.Exit != 130 ||
		s.Errors[0] != "The operation was canceled." {
		t.Error(job)
	}
}

func TestJobWithoutContainer(t *testing.T) {
	w, _ := newWorker(t, "exit 1")
	job := w.RunJob(t.Context(), miniworker.Job{Steps: []miniworker.Step{{Name: "host", Run: "echo $CI; exit 4"}}})
	if s := job.Step("host"); s.Exit != 4 || s.Request != "" || !slices.Equal(s.Output, []string{"true"}) ||
		len(job.Steps) != 1 {
		t.Error(job)
	}
	dir := t.TempDir()
	strict, err := miniworker.New(miniworker.Options{Hook: "/h.sh", Root: dir, Work: dir + "/w",
		Env: []string{"ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER=true"}})
	if err != nil {
		t.Fatal(err)
	}
	if job := strict.RunJob(t.Context(), miniworker.Job{}); job.Conclusion != miniworker.Failure ||
		!strings.HasPrefix(job.Steps[0].Errors[0], "Jobs without a job container are forbidden") {
		t.Error(job)
	}
}

func TestSetUpEmptiesWork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, p := range []string{"_temp/old", "_actions/old", "repo/repo/kept"} {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := miniworker.New(miniworker.Options{Root: dir, Work: dir}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string
		want bool // it is there
	}{
		{path: "_temp/old", want: false},
		{path: "_actions/old", want: false},
		{path: "repo/repo/kept", want: true},
		{path: "_temp/_github_home", want: true},
		{path: "_tool", want: true},
	} {
		if _, err := os.Stat(filepath.Join(dir, test.path)); (err == nil) != test.want {
			t.Errorf("%s: %v", test.path, err)
		}
	}
}
