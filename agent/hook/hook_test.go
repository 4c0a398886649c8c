package hook_test

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/hook"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// fake records what it is asked and answers as it is told.
type fake struct {
	prepared []brokerapi.PrepareRequest
	executed []brokerapi.ExecRequest
	ran      []brokerapi.ContainerRequest
	cleaned  []string

	alpine bool
	status int
	output string
	err    error
	// signal is the first that a step receives.
	signal os.Signal
}

func (f *fake) calls() int { return len(f.prepared) + len(f.executed) + len(f.ran) + len(f.cleaned) }

func (f *fake) Prepare(
	_ context.Context, r brokerapi.PrepareRequest, progress io.Writer,
) (*brokerapi.PrepareReply, error) {
	f.prepared = append(f.prepared, r)
	_, _ = io.WriteString(progress, f.output)
	reply := &brokerapi.PrepareReply{Job: "3f9c", Network: "77ab", Alpine: f.alpine}
	if r.Container != nil {
		reply.Container = &brokerapi.Started{ID: "c0"}
	}
	for i := range r.Services {
		started := brokerapi.Started{ID: fmt.Sprintf("d%d", i), Ports: map[string]string{"80": "8080"}}
		reply.Services = append(reply.Services, started)
	}
	return reply, f.err
}

func (f *fake) Container(_ context.Context, r brokerapi.ContainerRequest, s wire.Streams) (int, error) {
	f.ran = append(f.ran, r)
	_, _ = io.WriteString(s.Stdout, f.output)
	return f.status, f.err
}

func (f *fake) Exec(ctx context.Context, r brokerapi.ExecRequest, s wire.Streams) (int, error) {
	f.executed = append(f.executed, r)
	if s.Signals != nil {
		f.signal = <-s.Signals
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	_, _ = io.WriteString(s.Stdout, f.output)
	return f.status, f.err
}

func (f *fake) Cleanup(ctx context.Context, job string) error {
	f.cleaned = append(f.cleaned, job)
	return errors.Join(ctx.Err(), f.err)
}

// result is what one call of the hook did.
type result struct {
	status   int
	err      string
	stdout   string
	response string
}

// untouched is what the response file holds before a call. The runner leaves
// it empty; here, a truncated file is to be told from one left alone.
const untouched = "untouched"

// call runs the hook with payload, in which RESPONSE stands for the path of
// the response file.
func call(t *testing.T, f *fake, payload string) result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "response.json")
	if err := os.WriteFile(file, []byte(untouched), 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	payload = strings.ReplaceAll(payload, "RESPONSE", file)
	h := &hook.Hook{Broker: f, Stdin: strings.NewReader(payload), Stdout: &stdout, Stderr: io.Discard}
	status, err := h.Run(t.Context())
	response, readErr := os.ReadFile(file)
	if readErr != nil {
		t.Fatal(readErr)
	}
	r := result{status: status, stdout: stdout.String(), response: string(response)}
	if err != nil {
		r.err = err.Error()
	}
	return r
}

//go:embed testdata/*.json
var payloads embed.FS

// Payloads in the runner's own words, nulls and all.
var (
	prepare       = payload("prepare_job")
	services      = payload("services")
	script        = payload("run_script_step")
	containerStep = payload("run_container_step")
)

// payload returns a payload of testdata in one line, as the runner sends it.
func payload(name string) string {
	data, err := payloads.ReadFile("testdata/" + name + ".json")
	var line bytes.Buffer
	if err := errors.Join(err, json.Compact(&line, data)); err != nil {
		panic(err)
	}
	return line.String()
}

// with returns a payload whose member at path, names and indices separated by
// dots, has another value: JSON, or nothing to remove it.
func with(t *testing.T, payload, path, value string) string {
	t.Helper()
	var top any
	if err := json.Unmarshal([]byte(payload), &top); err != nil {
		t.Fatal(err)
	}

	names := strings.Split(path, ".")
	last := names[len(names)-1]
	at := top
	for _, name := range names[:len(names)-1] {
		if list, ok := at.([]any); ok {
			i, err := strconv.Atoi(name)
			if err != nil {
				t.Fatal(err)
			}
			at = list[i]
		} else {
			at = at.(map[string]any)[name]
		}
	}
	switch at := at.(type) {
	case map[string]any:
		at[last] = json.RawMessage(value)
		if value == "" {
			delete(at, last)
		}
	case []any:
		i, err := strconv.Atoi(last)
		if err != nil {
			t.Fatal(err)
		}
		at[i] = json.RawMessage(value)
	default:
		t.Fatalf("there is no %s in the payload", path)
	}

	data, err := json.Marshal(top)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPrepare(t *testing.T) {
	f := &fake{alpine: true}
	r := call(t, f, "a line before\n"+prepare+"\n")
	if r.status != 0 || r.err != "" || r.stdout != "" {
		t.Errorf("got %+v", r)
	}
	want := `{"isAlpine":true,"state":{"job":"3f9c"},` +
		`"context":{"container":{"id":"c0","network":"77ab","ports":{}},"services":[]}}` + "\n"
	if r.response != want {
		t.Errorf("response is\n%swant\n%s", r.response, want)
	}
	request := []brokerapi.PrepareRequest{{Container: &brokerapi.Container{
		Image: "node:22", Dir: "/__w/r/r", Credentials: &brokerapi.Credentials{Username: "u", Password: "hunter2"},
		Env: map[string]string{"GITHUB_ACTIONS": "true", "CI": "false", "HOME": "/github/home", "A": "b"},
		Mounts: []brokerapi.Mount{
			{Target: "/__w", Source: "/v/work"},
			{Target: "/__e", ReadOnly: true, Externals: true},
			{Target: "/__w/_temp", Source: "/v/work/_temp"},
			{Target: "/__t", Source: "/v/workshop"},
			{Target: "/github/home", Source: "/v/work/_temp/_github_home"},
			{Target: "/d", ReadOnly: true, Source: "/data"},
		},
	}}}
	if diff := cmp.Diff(request, f.prepared); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

// TestServices: a job without a container must have none in the answer, and
// services are a list in the order of the request.
func TestServices(t *testing.T) {
	f := &fake{output: "pulling\n"}
	r := call(t, f, services)
	want := `{"state":{"job":"3f9c"},"context":{"services":[` +
		`{"id":"d0","network":"77ab","ports":{"80":"8080"}},` +
		`{"id":"d1","network":"77ab","ports":{"80":"8080"}}]}}` + "\n"
	if r.status != 0 || r.response != want || r.stdout != f.output {
		t.Errorf("got %+v\nwant %s", r, want)
	}
	env := map[string]string{"GITHUB_ACTIONS": "true", "CI": "true"}
	request := []brokerapi.PrepareRequest{{Services: []brokerapi.Container{{
		Image: "redis", Entrypoint: []string{"redis-server", "-v"}, Args: []string{"--port", "63 79"}, Env: env,
		Ports: []string{"8080:80/udp", "80"}, Options: `--name cache --health-cmd "redis-cli ping"`,
		Mounts: []brokerapi.Mount{{Target: "/scratch", Scratch: true}, {Target: "/v", Volume: "my_volume"}},
	}, {Image: "postgres", Env: env}}}}
	if diff := cmp.Diff(request, f.prepared); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

func TestContainerStep(t *testing.T) {
	f := &fake{status: 9, output: "said\n"}
	want := result{
		status: 9, stdout: "said\n", response: untouched,
	}
	if r := call(t, f, containerStep); r != want {
		t.Errorf("got %+v", r)
	}

	request := []brokerapi.ContainerRequest{{Job: "3f9c", Container: brokerapi.Container{
		Image: "alpine:3", Dir: "/github/workspace", Entrypoint: []string{"/bin/sh"}, Args: []string{"-c", "echo $A"},
		Env: map[string]string{
			"GITHUB_ACTION": "hello", "CI": "false", "GITHUB_ACTIONS": "true", "HOME": "/github/home",
		},
		Mounts: []brokerapi.Mount{{Target: "/github/runner_temp", Source: "/v/work/_temp"}},
	}}}
	if diff := cmp.Diff(request, f.ran); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

func TestDockerfileStep(t *testing.T) {
	f := &fake{}
	p := with(t, containerStep, "args.image", "null")
	p = with(t, p, "args.dockerfile", `"/v/work/_actions/a/Dockerfile"`)
	call(t, f, with(t, p, "state", "null"))
	if len(f.ran) != 1 || f.ran[0].Job != "" || f.ran[0].Image != "" || f.ran[0].Build == nil ||
		f.ran[0].Build.Dockerfile != "/v/work/_actions/a/Dockerfile" {
		t.Errorf("asked for %+v", f.ran)
	}
}

func TestContainerStepFails(t *testing.T) {
	r := call(t, &fake{err: errors.New("cannot pull")}, containerStep)
	if want := `cannot run container "hello": cannot pull`; r.status != hook.StatusNotStarted || r.err != want {
		t.Errorf("got %+v, want %s", r, want)
	}
}

func TestPrepareNothing(t *testing.T) {
	f := &fake{}
	r := call(t, f, with(t, prepare, "args.container", "null"))
	if r.status != 0 || r.response != "{}\n" || f.calls() != 0 {
		t.Errorf("got %+v, %d calls", r, f.calls())
	}
}

func TestUnsupported(t *testing.T) {
	const volume = "args.container.userMountVolumes.0."
	for _, test := range []struct{ summary, path, value, want string }{{
		summary: "relative volume",
		path:    volume + "sourceVolumePath",
		value:   `"./data"`,
		want:    `container: volumes: "./data" is neither a name nor an absolute path`,
	}, {
		summary: "socket of Docker",
		path:    volume + "targetVolumePath",
		value:   `"/var/run/docker.sock"`,
		want:    `container: volumes: there is no Docker here, and no socket of it; remove the volume`,
	}} {
		t.Run(test.summary, func(t *testing.T) {
			f := &fake{}
			message := "cannot prepare job: " + test.want
			want := result{hook.StatusUnsupported, message, "::error::" + message + "\n", untouched}
			if got := call(t, f, with(t, prepare, test.path, test.value)); got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if f.calls() != 0 {
				t.Errorf("the broker was called: %+v", f)
			}
		})
	}
}

// TestUnsupportedByBroker: the exit status is the same wherever it is found that
// a workflow asks for too much.
func TestUnsupportedByBroker(t *testing.T) {
	f := &fake{err: wire.Unsupported("container: options: %w", errors.New("option --x is unknown"))}
	for _, test := range []struct{ summary, payload, want string }{
		{"job", prepare, "cannot prepare job: container: options: option --x is unknown"},
		{"container step", containerStep, `cannot run container "hello": container: options: option --x is unknown`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			r := call(t, f, test.payload)
			if r.status != hook.StatusUnsupported || r.err != test.want || r.response != untouched {
				t.Errorf("got %+v, want status %d, %s", r, hook.StatusUnsupported, test.want)
			}
		})
	}
}

// TestBlankOptions: options reach the broker as they are; a line that is continued may be
// the last.
func TestBlankOptions(t *testing.T) {
	for _, options := range []string{`"  "`, `"--init \\\n"`} {
		f := &fake{}
		r := call(t, f, with(t, prepare, "args.container.createOptions", options))
		var want string
		if err := json.Unmarshal([]byte(options), &want); err != nil {
			t.Fatal(err)
		}
		if r.status != 0 || len(f.prepared) != 1 || f.prepared[0].Container.Options != want {
			t.Errorf("got %+v, %+v", r, f.prepared)
		}
		if _, err := dockeropts.Parse(want); err != nil {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// TestBadPayloads: the first member that is missing or of a wrong type is
// named, and the broker is not called.
func TestBadPayloads(t *testing.T) {
	const (
		missing = "is missing; want what the actions runner 2.336 sends"
		noImage = "is empty or missing; want the name of an image"
		mounts  = "args.container.systemMountVolumes."
	)
	for _, test := range []struct {
		summary string
		payload string
		path    string // of the member that is changed; empty for none
		value   string
		want    string
	}{
		{
			summary: "empty", payload: "\n",
			want: "standard input: is empty; this program is started by the actions runner",
		}, {
			summary: "too long", payload: strings.Repeat("x", 16<<20+1),
			want: "standard input: is longer than 16 MiB; the job's environment is too large",
		}, {
			summary: "not JSON", payload: prepare[:20],
			want: "standard input: is not JSON at byte 20 of its last line; want one object in one line",
		}, {
			summary: "not an object", payload: `[]`,
			want: "standard input: is a list; want an object",
		}, {
			summary: "null", payload: `null`,
			want: "standard input: is null; want an object",
		}, {
			summary: "no command", payload: prepare, path: "command",
			want: "command: " + missing,
		}, {
			summary: "command of wrong type", payload: prepare, path: "command", value: `7`,
			want: "command: is a number; want a string",
		}, {
			summary: "unknown command", payload: prepare, path: "command", value: `"prepare_jobs"`,
			want: `command: "prepare_jobs" is unknown; ` +
				`want prepare_job, run_script_step, run_container_step or cleanup_job`,
		}, {
			summary: "no arguments", payload: `{"command":"cleanup_job"}`,
			want: "args: " + missing,
		}, {
			summary: "no response file", payload: prepare, path: "responseFile", value: `null`,
			want: "responseFile: is empty or missing; want the path the runner made",
		}, {
			summary: "relative response file", payload: prepare, path: "responseFile", value: `"x.json"`,
			want: "responseFile: is not an absolute path; want the path the runner made",
		}, {
			summary: "NUL in response file", payload: prepare, path: "responseFile", value: `"/x\u0000"`,
			want: "responseFile: holds a NUL character; want none",
		}, {
			summary: "services of wrong type", payload: prepare, path: "args.services", value: `{}`,
			want: "args.services: is an object; want a list",
		}, {
			summary: "container of wrong type", payload: prepare, path: "args.container", value: `true`,
			want: "args.container: is a boolean; want an object",
		}, {
			summary: "no image", payload: prepare, path: "args.container.image",
			want: "args.container.image: " + noImage,
		}, {
			summary: "null image", payload: prepare, path: "args.container.image", value: `null`,
			want: "args.container.image: " + noImage,
		}, {
			summary: "empty image", payload: prepare, path: "args.container.image", value: `""`,
			want: "args.container.image: " + noImage,
		}, {
			summary: "service without image", payload: prepare, path: "args.services", value: `[{}]`,
			want: "args.services[0].image: " + noImage,
		}, {
			summary: "password of wrong type", payload: prepare, path: "args.container.registry.password", value: `7`,
			want: "args.container.registry.password: is a number; want a string",
		}, {
			summary: "variable of wrong type", payload: prepare,
			path: "args.container.environmentVariables.A", value: `1`,
			want: "args.container.environmentVariables.A: is a number; want a string",
		}, {
			summary: "name of variable", payload: prepare,
			path: "args.container.environmentVariables.A=C", value: `"b"`,
			want: `args.container.environmentVariables: "A=C" is not the name of a variable; want one without '='`,
		}, {
			summary: "mount of wrong type", payload: prepare, path: mounts + "0", value: `"/__w"`,
			want: "args.container.systemMountVolumes[0]: is a string; want an object",
		}, {
			summary: "no target", payload: prepare, path: mounts + "2.targetVolumePath",
			want: "args.container.systemMountVolumes[2].targetVolumePath: " + missing,
		}, {
			summary: "relative target", payload: prepare,
			path: "args.container.userMountVolumes.0.targetVolumePath", value: `"d"`,
			want: "args.container.userMountVolumes[0].targetVolumePath: " +
				"is not an absolute path; want one in the container",
		}, {
			summary: "readOnly of wrong type", payload: prepare, path: mounts + "2.readOnly", value: `"yes"`,
			want: "args.container.systemMountVolumes[2].readOnly: is a string; want a boolean",
		}, {
			summary: "state of wrong type", payload: script, path: "state", value: `"3f9c"`,
			want: "state: is a string; want an object",
		}, {
			summary: "job of wrong type", payload: script, path: "state.job", value: `9`,
			want: "state.job: is a number; want a string",
		}, {
			summary: "no entry point", payload: script, path: "args.entryPoint",
			want: "args.entryPoint: " + missing,
		}, {
			summary: "argument of wrong type", payload: script, path: "args.entryPointArgs.1", value: `["-e"]`,
			want: "args.entryPointArgs[1]: is a list; want a string",
		}, {
			summary: "path of wrong type", payload: script, path: "args.prependPath", value: `{}`,
			want: "args.prependPath: is an object; want a list",
		}, {
			summary: "NUL in argument", payload: script, path: "args.entryPointArgs.1", value: `"\u0000"`,
			want: "args.entryPointArgs[1]: holds a NUL character; want none",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			p := test.payload
			if test.path != "" {
				p = with(t, p, test.path, test.value)
			}
			f := &fake{}
			message := "cannot read hook payload: " + test.want
			want := result{hook.StatusPayload, message, "::error::" + message + "\n", untouched}
			if got := call(t, f, p); got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if f.calls() != 0 {
				t.Errorf("the broker was called: %+v", f)
			}
		})
	}
}

func TestPrepareFails(t *testing.T) {
	f := &fake{err: errors.New("no image\n100% \"x\"")}
	r := call(t, f, prepare)
	want := result{
		hook.StatusFailed, "cannot prepare job: no image\n100% \"x\"",
		"::error::cannot prepare job: no image%0A100%25 \"x\"\n", untouched,
	}
	if r != want {
		t.Errorf("got %+v", r)
	}
}

// TestNoResponse: a guest the runner cannot be told of is ended, and a link
// that a job may have laid is not followed.
func TestNoResponse(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	err := os.WriteFile(dir+"/victim", []byte(untouched), 0o644)
	if err := errors.Join(err, os.Symlink(dir+"/victim", link)); err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	r := call(t, f, strings.Replace(prepare, "RESPONSE", link, 1))
	want := fmt.Sprintf("cannot write response: open %s: too many levels of symbolic links", link)
	if r.status != hook.StatusFailed || r.err != want || !slices.Equal(f.cleaned, []string{"3f9c"}) {
		t.Errorf("got %+v, cleaned %q", r, f.cleaned)
	}
	if data, err := os.ReadFile(dir + "/victim"); err != nil || string(data) != untouched {
		t.Errorf("the link's target holds %q, %v", data, err)
	}
}

func TestResponseFileIsMade(t *testing.T) {
	name := filepath.Join(t.TempDir(), "new.json")
	if r := call(t, &fake{}, strings.Replace(prepare, "RESPONSE", name, 1)); r.status != 0 {
		t.Errorf("got %+v", r)
	}
	data, err := os.ReadFile(name)
	if err != nil || !json.Valid(data) {
		t.Errorf("got %q, %v", data, err)
	}
}

// TestStepEndedBySignal: the runner knows a status only, and explains a cancelled step
// itself.
func TestStepEndedBySignal(t *testing.T) {
	for _, test := range []struct {
		status int
		want   string
	}{
		{status: 137, want: "said\npartial\n::error::bash was ended by signal 9 (killed)\n"},
		{status: 139, want: "said\npartial\n::error::bash was ended by signal 11 (segmentation fault)\n"},
		{status: 130, want: "said\npartial"},
		{status: 143, want: "said\npartial"},
		{status: 128, want: "said\npartial"},
		{status: 255, want: "said\npartial"},
	} {
		f := &fake{status: test.status, output: "said\npartial"}
		if r := call(t, f, script); r != (result{status: test.status, stdout: test.want, response: untouched}) {
			t.Errorf("%d: got %+v", test.status, r)
		}
	}
}

func TestStep(t *testing.T) {
	f := &fake{status: 7, output: "said\npartial"}
	want := result{status: 7, stdout: f.output, response: untouched}
	if r := call(t, f, script); r != want {
		t.Errorf("got %+v", r)
	}

	request := []brokerapi.ExecRequest{{
		Job: "3f9c", Argv: []string{"bash", "--norc", "-e", "/__w/_temp/x.sh"},
		Env:         map[string]string{"GITHUB_ACTION": "__run", "X": "$HOME"},
		PrependPath: []string{"/b", "/a"}, Dir: "/__w/r/r",
	}}
	if diff := cmp.Diff(request, f.executed); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

// TestStepShapes has what older runners and the examples of the reference
// hooks send.
func TestStepShapes(t *testing.T) {
	f := &fake{}
	call(t, f, `{"command":"run_script_step","responseFile":null,"args":{`+
		`"entryPointArgs":["[\"x\"]"," '\"Mona","the","Octocat\"'"],"entryPoint":"echo","prependPath":"/some/path"},`+
		`"state":{"job":"a","more":[]}}`)
	want := []brokerapi.ExecRequest{{
		Job: "a", Argv: []string{"echo", "[x]", `"Mona the Octocat"`}, Env: map[string]string{},
		PrependPath: []string{"/some/path"},
	}}
	if diff := cmp.Diff(want, f.executed); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

func TestStepNotRun(t *testing.T) {
	const noJob = `cannot run step: no container was prepared for this job; see the log of "Initialize containers"`
	for _, test := range []struct {
		summary     string
		path, value string
		err         error // the broker's
		want        string
		calls       int
	}{
		{summary: "state null", path: "state", value: `null`, want: noJob},
		{summary: "state empty", path: "state", value: `{}`, want: noJob},
		{summary: "job null", path: "state.job", value: `null`, want: noJob},
		{
			summary: "quote", path: "args.entryPointArgs.1", value: `"'"`,
			want: `cannot run step "__run": the command line has a quote that is not closed; check the step's shell`,
		}, {
			summary: "backslash", path: "args.entryPointArgs.2", value: `"x\\"`,
			want: `cannot run step "__run": the command line ends in a backslash; check the step's shell`,
		}, {
			summary: "no program", path: "args.entryPoint", value: `"''"`,
			want: `cannot run step "__run": the command line is empty; check the step's shell`,
		}, {
			summary: "broker", path: "args.entryPointArgs.1", value: `"-e"`, err: errors.New("the guest is gone"),
			want: `cannot run step "__run": the guest is gone`, calls: 1,
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			f := &fake{err: test.err}
			want := result{hook.StatusNotStarted, test.want, "::error::" + test.want + "\n", untouched}
			if got := call(t, f, with(t, script, test.path, test.value)); got != want || f.calls() != test.calls {
				t.Errorf("got  %+v\nwant %+v\n%d calls", got, want, f.calls())
			}
		})
	}
}

// TestSignal: the step gets the signal, and the end of the context that comes
// with it does not tear it down.
func TestSignal(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGINT
	f := &fake{status: 130}
	h := &hook.Hook{Broker: f, Stdout: io.Discard, Stderr: io.Discard, Signals: signals}
	h.Stdin = strings.NewReader(strings.ReplaceAll(script, "RESPONSE", "/nonexistent"))
	if status, err := h.Run(ctx); status != 130 || err != nil || f.signal != syscall.SIGINT {
		t.Errorf("got %d, %v, signal %v", status, err, f.signal)
	}
}

func TestCleanup(t *testing.T) {
	for _, tt := range []struct {
		state string
		want  []string
	}{{"null", nil}, {"{}", nil}, {`{"job":null}`, nil}, {`{"job":"3f9c"}`, []string{"3f9c"}}} {
		f := &fake{}
		payload := `{"command":"cleanup_job","responseFile":"RESPONSE","args":{},"state":` + tt.state + `}`
		if r := call(t, f, payload); r != (result{response: untouched}) || !slices.Equal(f.cleaned, tt.want) {
			t.Errorf("%s: got %+v, cleaned %q", tt.state, r, f.cleaned)
		}
	}
	r := call(t, &fake{err: errors.New("busy")}, `{"command":"cleanup_job","args":{},"state":{"job":"x"}}`)
	if r.status != hook.StatusFailed || r.err != "cannot clean up job: busy" {
		t.Errorf("got %+v", r)
	}
}

// TestCleanupWhenCancelled: what a cancelled job left is cleaned up all the same.
func TestCleanupWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	payload := `{"command":"cleanup_job","args":{},"state":{"job":"x"}}`
	h := &hook.Hook{Broker: &fake{}, Stdin: strings.NewReader(payload), Stdout: io.Discard, Stderr: io.Discard}
	if status, err := h.Run(ctx); status != 0 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		prepare, services, script, containerStep,
		`{"command":"cleanup_job","args":{},"state":{"job":"x"}}`,
		`{"command":"run_container_step","args":{"a":[{}]},"state":null}`,
		`{"command":1e9}`, "\xff", `[`, `"\ud800"`,
	} {
		f.Add([]byte(strings.ReplaceAll(s, "RESPONSE", "/r")))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		p, err := hook.Parse(line)
		if err != nil {
			if p != nil || !strings.HasPrefix(err.Error(), "cannot read hook payload: ") ||
				strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("got %+v and %q", p, err)
			}
			return
		}
		if (p.Prepare != nil) != (p.Command == "prepare_job") || (p.Step != nil) != (p.Command == "run_script_step") ||
			(p.Container != nil) != (p.Command == "run_container_step") {
			t.Errorf("arguments do not match command %q", p.Command)
		}
		if p.ResponseFile != "" && !filepath.IsAbs(p.ResponseFile) || strings.Contains(p.ResponseFile+p.Job, "\x00") {
			t.Errorf("accepted response file %q, job %q", p.ResponseFile, p.Job)
		}
	})
}

// TestContextName: a service's name in the workflow, which the reference hooks read (EX3).
func TestContextName(t *testing.T) {
	f := &fake{}
	r := call(t, f, with(t, prepare, "args.container.contextName", `"db"`))
	if r.status != 0 || len(f.prepared) != 1 || f.prepared[0].Container.Name != "db" {
		t.Errorf("got %+v, %+v", r, f.prepared)
	}
}
