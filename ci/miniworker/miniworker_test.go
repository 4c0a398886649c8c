package miniworker_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/miniworker"
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

// checkRequest compares with want, in which DIR stands for the test's directory
// and RESPONSE for the response file.
func checkRequest(t *testing.T, dir, got, want string) {
	t.Helper()
	var parsed struct{ ResponseFile string }
	if err := json.Unmarshal([]byte(got), &parsed); err != nil {
		t.Fatal(err)
	}
	got = strings.ReplaceAll(got, parsed.ResponseFile, "RESPONSE")
	got = strings.ReplaceAll(got, dir, "DIR")
	if got != strings.ReplaceAll(want, "\n\t\t", "")+"\n" {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if filepath.Dir(parsed.ResponseFile) != dir+"/_work/_temp/_runner_hook_responses" ||
		filepath.Ext(parsed.ResponseFile) != ".json" {
		t.Errorf("response file is %s", parsed.ResponseFile)
	}
	if _, err := os.Stat(parsed.ResponseFile); err == nil {
		t.Error("the response file was not deleted")
	}
}

func TestPrepareJobRequest(t *testing.T) {
	w, dir := newWorker(t,
		`test -e "$response"; test ! -s "$response"; echo '{"isAlpine":false,"state":{"a":[1,"ü"]}}' > "$response"`)
	r := w.PrepareJob(t.Context(), &miniworker.Container{Image: "ghcr.io/a/b:1", Options: "--cpus 1",
		Env:     map[string]string{"A": "<&>"},
		Volumes: []string{"/srv:/data:ro", "vol:/v", "/only", "/o:RO"}, Ports: []string{"80", "8080:80/tcp"},
		Credentials: &miniworker.Credentials{Username: "me"}},
		[]miniworker.Container{{Image: "redis", Entrypoint: "/bin/x", Command: " a  b "}})
	if r.Conclusion != miniworker.Success {
		t.Fatal(r)
	}
	checkRequest(t, dir, r.Request,
		`{"command":"prepare_job","responseFile":"RESPONSE","args":{"container":{"image":"ghcr.io/a/b:1","dockerfile":null,"entryPointArgs":[],"entryPoint":null,"workingDirectory":"/__w/repo/repo","createOptions":"--cpus 1",
		"registry":{"username":"me","password":null,"serverUrl":"ghcr.io"},"environmentVariables":{"A":"<&>","HOME":"/github/home"},"portMappings":["80","8080:80/tcp"],"systemMountVolumes":[
		{"userProvidedValue":null,"sourceVolumePath":"/var/run/docker.sock","targetVolumePath":"/var/run/docker.sock","readOnly":false},
		{"userProvidedValue":null,"sourceVolumePath":"DIR/_work","targetVolumePath":"/__w","readOnly":false},
		{"userProvidedValue":null,"sourceVolumePath":"DIR/externals","targetVolumePath":"/__e","readOnly":true},
		{"userProvidedValue":null,"sourceVolumePath":"DIR/_work/_temp","targetVolumePath":"/__w/_temp","readOnly":false},
		{"userProvidedValue":null,"sourceVolumePath":"DIR/_work/_actions","targetVolumePath":"/__w/_actions","readOnly":false},
		{"userProvidedValue":null,"sourceVolumePath":"DIR/_work/_tool","targetVolumePath":"/__w/_tool","readOnly":false},
		{"userProvidedValue":null,"sourceVolumePath":"DIR/_work/_temp/_github_home","targetVolumePath":"/github/home","readOnly":false},
		{"userProvidedValue":null,"sourceVolumePath":"DIR/_work/_temp/_github_workflow","targetVolumePath":"/github/workflow","readOnly":false}],"userMountVolumes":[
		{"userProvidedValue":"/srv:/data:ro","sourceVolumePath":"/srv","targetVolumePath":"/data","readOnly":true},
		{"userProvidedValue":"vol:/v","sourceVolumePath":"vol","targetVolumePath":"/v","readOnly":false},
		{"userProvidedValue":"/only","sourceVolumePath":null,"targetVolumePath":"/only","readOnly":false},
		{"userProvidedValue":"/o:RO","sourceVolumePath":null,"targetVolumePath":"/o","readOnly":true}]},"services":[
		{"image":"redis","dockerfile":null,"entryPointArgs":["a","b"],"entryPoint":"/bin/x","workingDirectory":null,"createOptions":null,"registry":null,"environmentVariables":{},"portMappings":[],"systemMountVolumes":[],"userMountVolumes":[]}]},"state":null}`)
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
	if req.Args.EntryPoint != "bash" || len(args) != 6 || !slices.Equal(args[:5],
		[]string{"--noprofile", "--norc", "-e", "-o", "pipefail"}) || !strings.HasPrefix(args[5], "/__w/_temp/") ||
		!strings.HasSuffix(args[5], ".sh") {
		t.Errorf("runs %s %q", req.Args.EntryPoint, args)
	}
	if req.Args.WorkingDirectory != "/__w/repo/repo/sub" || req.Args.PrependPath == nil ||
		len(req.Args.PrependPath) != 0 || req.State != nil {
		t.Errorf("got %+v", req)
	}
	env := req.Args.EnvironmentVariables
	got := []string{env["A"], env["B"], env["C"], env["GITHUB_WORKSPACE"], env["RUNNER_TEMP"], env["GITHUB_EVENT_PATH"],
		filepath.Dir(env["GITHUB_OUTPUT"])}
	want := []string{"/__w/x", dir + "/_workx", "/__e", "/__w/repo/repo", "/__w/_temp", "/github/workflow/event.json",
		"/__w/_temp/_runner_file_commands"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
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
	r := w.RunContainerStep(t.Context(), miniworker.Step{Name: "x", Uses: &miniworker.Container{Image: "alpine",
		Entrypoint: "/e", Command: "a b"}})
	if r.Conclusion != miniworker.Success || !strings.Contains(r.Request, `"state":null}`) ||
		!strings.Contains(r.Request, `"workingDirectory":"/github/workspace","createOptions":null,"registry":null`) ||
		!strings.Contains(r.Request,
			`{"userProvidedValue":null,"sourceVolumePath":"`+dir+`/_work/_temp/_runner_file_commands","targetVolumePath":"/github/file_commands","readOnly":false}`) ||
		!strings.Contains(r.Request, `"GITHUB_OUTPUT":"/github/file_commands/set_output_`) {
		t.Errorf("%s\n%s", r, r.Request)
	}
}

const failed = "Executing the custom container implementation failed. Please contact your self hosted runner " +
	"administrator."

func TestPrepareResponses(t *testing.T) {
	t.Parallel()
	const nullReference = "Object reference not set to an instance of an object."
	tests := []struct {
		name      string
		response  string // shell
		container *miniworker.Container
		services  int
		want      string // first error; "" for success
	}{
		{"good", `echo '{"isAlpine":true,"context":{"container":{"id":"c","network":"n"},"services":[{"id":"s","ports":{"80":8080}}]}}' > "$response"`, base, 1, ""},
		{"other case, extra members", `echo '{"ISALPINE":true,"other":1}' > "$response"`, base, 0, ""},
		{"empty", ``, base, 0, "Response file could not be read at 'HOOK' running command 'prepare_job'"},
		{"null", `echo null > "$response"`, base, 0, "Response file could not be read at 'HOOK' running command " +
			"'prepare_job'"},
		{"deleted", `rm "$response"`, base, 0, "Response file is required but not found for the hook script at 'HOOK' " +
			"running command 'prepare_job'"},
		{"no isAlpine", `echo '{}' > "$response"`, base, 0, "The property 'isAlpine' is required but was not found in the " +
			"response file."},
		{"services only", `echo '{}' > "$response"`, nil, 1, ""},
		{"services only, empty", ``, nil, 1, nullReference},
		{"services only, with container", `echo '{"context":{"container":{"id":"c"}}}' > "$response"`, nil, 1, nullReference},
		{"services null", `echo '{"isAlpine":false,"context":{"services":null}}' > "$response"`, base, 0, nullReference},
		{"no ports", `echo '{"isAlpine":false,"context":{"services":[{"id":"x"}]}}' > "$response"`, base, 1, nullReference},
		{"too many services", `echo '{"isAlpine":false,"context":{"services":[{"ports":{}},{"ports":{}}]}}' > "$response"`,
			base, 1, "Index was out of range. Must be non-negative and less than the size of the collection. (Parameter " +
				"'index')"},
		{"state no object", `echo '{"isAlpine":false,"state":"x"}' > "$response"`, base, 0,
			"Error converting value to type 'Newtonsoft.Json.Linq.JObject'. Path 'state'."},
		{"exit 3", `exit 3`, base, 0, "Process completed with exit code 3."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, dir := newWorker(t, tt.response)
			r := w.PrepareJob(t.Context(), tt.container, make([]miniworker.Container, tt.services))
			if tt.want == "" {
				if r.Conclusion != miniworker.Success || len(r.Errors) != 0 {
					t.Error(r)
				}
				return
			}
			want := []string{strings.ReplaceAll(tt.want, "HOOK", dir+"/hook.sh"), failed}
			if r.Conclusion != miniworker.Failure || !slices.Equal(r.Errors, want) {
				t.Errorf("%s\nwant %q", r, want)
			}
		})
	}
}

func TestContext(t *testing.T) {
	w, _ := newWorker(t,
		`echo '{"isAlpine":true,"context":{"container":{"id":"c","network":"n"},"services":[{"id":"s","network":null,"ports":{"80":8080,"81":"9"}}]}}' > "$response"`)
	w.PrepareJob(t.Context(), base, []miniworker.Container{{Image: "x"}})
	want := miniworker.JobContext{Container: miniworker.ContainerContext{ID: "c", Network: "n"},
		Services: []miniworker.ContainerContext{{ID: "s", Ports: map[string]string{"80": "8080", "81": "9"}}}}
	if got := w.Context(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
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
	tests := []struct {
		name, hook string
		atLeast    time.Duration
		exit       int
		output     []string
	}{
		{"obeys INT", `trap 'echo int; exit 5' INT; while :; do sleep 0.1; done`, 0, 5, []string{"int"}},
		{"obeys TERM", `trap 'echo int' INT; trap 'echo term; exit 6' TERM; while :; do sleep 0.1; done`,
			7500 * time.Millisecond, 6, []string{"int", "term"}},
		{"obeys nothing", `trap 'echo int' INT; trap 'echo term' TERM; while :; do sleep 0.1; done`, 10 * time.Second, 137,
			[]string{"int", "term"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, _ := newWorker(t, tt.hook)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			r := w.Cleanup(ctx)
			if r.Exit != tt.exit || r.Duration < tt.atLeast || r.Duration > tt.atLeast+6*time.Second ||
				!slices.Equal(r.Output, tt.output) {
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
		{Name: "set",
			Run: `echo A=1 >> "$GITHUB_OUTPUT"; printf 'B<<X\n2\n3\nX\n' >> "$GITHUB_OUTPUT"; echo C=4 >> "$GITHUB_ENV"; echo /first >> "$GITHUB_PATH"; echo /second >> "$GITHUB_PATH"`},
		{Name: "get", Run: `echo "$PATH"`},
	}})
	if job.Conclusion != miniworker.Success || !reflect.DeepEqual(job.Step("set").Outputs,
		map[string]string{"A": "1", "B": "2\n3"}) {
		t.Fatal(job)
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
	for cause, want := range map[error]string{miniworker.ErrShutdown: miniworker.Skipped,
		miniworker.ErrCancelled: miniworker.Success} {
		ctx, cancel := context.WithCancelCause(t.Context())
		started := dir + "/started"
		go func() {
			for {
				if _, err := os.Stat(started); err == nil {
					cancel(cause)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		job := w.RunJob(ctx, miniworker.Job{Container: base, Steps: []miniworker.Step{{Run: "touch " + started +
			"; exec sleep 30"}}})
		if got := job.Step("Stop containers").Conclusion; got != want {
			t.Errorf("%v: %s, want %s", cause, got, want)
		}
		if err := os.Remove(started); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStepTimeout(t *testing.T) {
	w, _ := newWorker(t, onHost)
	job := w.RunJob(t.Context(), miniworker.Job{Container: base, Steps: []miniworker.Step{{Name: "slow",
		Run: "exec sleep 30", TimeoutSeconds: 1}}})
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
	for p, want := range map[string]bool{"_temp/old": false, "_actions/old": false, "repo/repo/kept": true,
		"_temp/_github_home": true, "_tool": true} {
		if _, err := os.Stat(filepath.Join(dir, p)); (err == nil) != want {
			t.Errorf("%s: %v", p, err)
		}
	}
}
