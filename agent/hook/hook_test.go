package hook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
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

func (f *fake) Prepare(_ context.Context, r brokerapi.PrepareRequest, progress io.Writer) (*brokerapi.PrepareReply, error) {
	f.prepared = append(f.prepared, r)
	_, _ = io.WriteString(progress, f.output)
	reply := &brokerapi.PrepareReply{Job: "3f9c", Network: "77ab", Alpine: f.alpine}
	if r.Container != nil {
		reply.Container = &brokerapi.Started{ID: "c0"}
	}
	for i := range r.Services {
		reply.Services = append(reply.Services, brokerapi.Started{ID: fmt.Sprintf("d%d", i), Ports: map[string]string{"80": "8080"}})
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
	h := &hook.Hook{Broker: f, Stdin: strings.NewReader(strings.ReplaceAll(payload, "RESPONSE", file)), Stdout: &stdout, Stderr: io.Discard}
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

// The runner's own words: nulls and all, in its order of members.
const (
	systemMounts = `[{"userProvidedValue":null,"sourceVolumePath":"/var/run/docker.sock","targetVolumePath":"/var/run/docker.sock","readOnly":false},` +
		`{"userProvidedValue":null,"sourceVolumePath":"/v/work","targetVolumePath":"/__w","readOnly":false},` +
		`{"userProvidedValue":null,"sourceVolumePath":"/v/root/externals","targetVolumePath":"/__e","readOnly":true},` +
		`{"userProvidedValue":null,"sourceVolumePath":"/v/work/_temp","targetVolumePath":"/__w/_temp","readOnly":false},` +
		`{"userProvidedValue":null,"sourceVolumePath":"/v/workshop","targetVolumePath":"/__t","readOnly":false},` +
		`{"userProvidedValue":null,"sourceVolumePath":"/v/work/_temp/_github_home","targetVolumePath":"/github/home","readOnly":false}]`
	container = `{"image":"node:22","dockerfile":null,"entryPointArgs":[],"entryPoint":null,"workingDirectory":"/__w/r/r","createOptions":null,` +
		`"registry":{"username":"u","password":"hunter2","serverUrl":""},"environmentVariables":{"CI":"false","A":"b"},"portMappings":[],` +
		`"systemMountVolumes":` + systemMounts + `,"userMountVolumes":[{"userProvidedValue":"/data:/d:ro","sourceVolumePath":"/data","targetVolumePath":"/d","readOnly":true}]}`
	prepare = `{"command":"prepare_job","responseFile":"RESPONSE","args":{"container":` + container + `,"services":[]},"state":null}`
	script  = `{"command":"run_script_step","responseFile":"RESPONSE","args":{"entryPointArgs":["--norc","-e","/__w/_temp/x.sh"],"entryPoint":"bash",` +
		`"environmentVariables":{"GITHUB_ACTION":"__run","X":"$HOME"},"prependPath":["/b","/a"],"workingDirectory":"/__w/r/r"},"state":{"job":"3f9c"}}`
)

func TestPrepare(t *testing.T) {
	f := &fake{alpine: true}
	r := call(t, f, "a line before\n"+prepare+"\n")
	if r.status != 0 || r.err != "" || r.stdout != "" {
		t.Errorf("got %+v", r)
	}
	want := `{"isAlpine":true,"state":{"job":"3f9c"},"context":{"container":{"id":"c0","network":"77ab","ports":{}},"services":[]}}` + "\n"
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
	if !reflect.DeepEqual(f.prepared, request) {
		t.Errorf("asked for\n%+v\nwant\n%+v", f.prepared[0].Container, request[0].Container)
	}
}

// TestServices: a job without a container must have none in the answer, and
// services are a list in the order of the request.
func TestServices(t *testing.T) {
	f := &fake{output: "pulling\n"}
	r := call(t, f, `{"command":"prepare_job","responseFile":"RESPONSE","args":{"container":null,"services":[`+
		`{"image":"redis","dockerfile":null,"entryPointArgs":["--port","\"63","79\""],"entryPoint":"redis-server -v","workingDirectory":null,"createOptions":"--name cache --health-cmd \"redis-cli ping\"",`+
		`"registry":null,"environmentVariables":{},"portMappings":["8080:80/udp","80"],"systemMountVolumes":[],`+
		`"userMountVolumes":[{"sourceVolumePath":null,"targetVolumePath":"/scratch","readOnly":false},{"sourceVolumePath":"my_volume","targetVolumePath":"/v","readOnly":false}]},`+
		`{"image":"postgres","portMappings":null}]},"state":null}`)
	want := `{"state":{"job":"3f9c"},"context":{"services":[{"id":"d0","network":"77ab","ports":{"80":"8080"}},{"id":"d1","network":"77ab","ports":{"80":"8080"}}]}}` + "\n"
	if r.status != 0 || r.response != want || r.stdout != f.output {
		t.Errorf("got %+v\nwant %s", r, want)
	}
	env := map[string]string{"GITHUB_ACTIONS": "true", "CI": "true"}
	request := []brokerapi.PrepareRequest{{Services: []brokerapi.Container{{
		Image: "redis", Entrypoint: []string{"redis-server", "-v"}, Args: []string{"--port", "63 79"}, Env: env,
		Ports: []string{"8080:80/udp", "80"}, Options: `--name cache --health-cmd "redis-cli ping"`,
		Mounts: []brokerapi.Mount{{Target: "/scratch", Scratch: true}, {Target: "/v", Volume: "my_volume"}},
	}, {Image: "postgres", Env: env}}}}
	if !reflect.DeepEqual(f.prepared, request) {
		t.Errorf("asked for\n%+v\nwant\n%+v", f.prepared, request)
	}
}

const containerStep = `{"command":"run_container_step","responseFile":"RESPONSE","args":{"image":"alpine:3","dockerfile":null,"entryPointArgs":["-c","'echo","$A'"],"entryPoint":"/bin/sh",` +
	`"workingDirectory":"/github/workspace","createOptions":null,"registry":null,"environmentVariables":{"GITHUB_ACTION":"hello","CI":"false"},"portMappings":[],` +
	`"systemMountVolumes":[{"sourceVolumePath":"/var/run/docker.sock","targetVolumePath":"/var/run/docker.sock","readOnly":false},` +
	`{"sourceVolumePath":"/v/work/_temp","targetVolumePath":"/github/runner_temp","readOnly":false}],"userMountVolumes":[]},"state":{"job":"3f9c"}}`

func TestContainerStep(t *testing.T) {
	f := &fake{status: 9, output: "said\n"}
	if r, want := call(t, f, containerStep), (result{status: 9, stdout: "said\n::error::the container's process ended with status 9\n", response: untouched}); r != want {
		t.Errorf("got %+v", r)
	}
	want := []brokerapi.ContainerRequest{{Job: "3f9c", Container: brokerapi.Container{Image: "alpine:3", Dir: "/github/workspace",
		Entrypoint: []string{"/bin/sh"}, Args: []string{"-c", "echo $A"}, Env: map[string]string{"GITHUB_ACTION": "hello", "CI": "false", "GITHUB_ACTIONS": "true", "HOME": "/github/home"},
		Mounts: []brokerapi.Mount{{Target: "/github/runner_temp", Source: "/v/work/_temp"}}}}}
	if !reflect.DeepEqual(f.ran, want) {
		t.Errorf("asked for\n%+v\nwant\n%+v", f.ran, want)
	}
	f = &fake{}
	call(t, f, strings.NewReplacer(`"image":"alpine:3","dockerfile":null`, `"image":null,"dockerfile":"/v/work/_actions/a/Dockerfile"`, `{"job":"3f9c"}`, "null").Replace(containerStep))
	if len(f.ran) != 1 || f.ran[0].Job != "" || f.ran[0].Image != "" || f.ran[0].Build == nil || f.ran[0].Build.Dockerfile != "/v/work/_actions/a/Dockerfile" {
		t.Errorf("asked for %+v", f.ran)
	}
	r := call(t, &fake{err: errors.New("cannot pull")}, containerStep)
	if want := `cannot run container "hello": cannot pull`; r.status != hook.StatusNotStarted || r.err != want {
		t.Errorf("got %+v, want %s", r, want)
	}
}

func TestPrepareNothing(t *testing.T) {
	f := &fake{}
	r := call(t, f, `{"command":"prepare_job","responseFile":"RESPONSE","args":{"container":null,"services":[]},"state":null}`)
	if r.status != 0 || r.response != "{}\n" || f.calls() != 0 {
		t.Errorf("got %+v, %d calls", r, f.calls())
	}
}

func TestUnsupported(t *testing.T) {
	volume := func(source string) string {
		return strings.Replace(prepare, `"sourceVolumePath":"/data"`, `"sourceVolumePath":`+source, 1)
	}
	tests := []struct{ name, payload, want string }{
		{"relative volume", volume(`"./data"`), `container: volumes: "./data" is neither a name nor an absolute path`},
		{"docker socket", strings.Replace(prepare, `"targetVolumePath":"/d"`, `"targetVolumePath":"/var/run/docker.sock"`, 1), `container: volumes: there is no Docker here, and no socket of it; remove the volume`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{}
			want := result{status: hook.StatusUnsupported, err: "cannot prepare job: " + tt.want, stdout: "::error::cannot prepare job: " + tt.want + "\n", response: untouched}
			if got := call(t, f, tt.payload); got != want {
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

func TestBlankOptionsAreNone(t *testing.T) {
	f := &fake{}
	if r := call(t, f, strings.Replace(prepare, `"createOptions":null`, `"createOptions":"  "`, 1)); r.status != 0 || len(f.prepared) != 1 {
		t.Errorf("got %+v", r)
	}
}

func TestBadPayloads(t *testing.T) {
	change := func(payload, from, to string) string {
		if !strings.Contains(payload, from) {
			t.Fatalf("no %s to change", from)
		}
		return strings.Replace(payload, from, to, 1)
	}
	tests := []struct{ name, payload, want string }{
		{"empty", "\n", "standard input: is empty; this program is started by the actions runner"},
		{"too long", strings.Repeat("x", 16<<20+1), "standard input: is longer than 16 MiB; the job's environment is too large"},
		{"no JSON", prepare[:20], "standard input: is not JSON at byte 20 of its last line; want one object in one line"},
		{"no object", `[]`, "standard input: is a list; want an object"},
		{"null", `null`, "standard input: is null; want an object"},
		{"no command", `{"args":{}}`, "command: is missing; want what the actions runner 2.336 sends"},
		{"command of wrong type", change(prepare, `"prepare_job"`, `7`), "command: is a number; want a string"},
		{"unknown command", change(prepare, "prepare_job", "prepare_jobs"), `command: "prepare_jobs" is unknown; want prepare_job, run_script_step, run_container_step or cleanup_job`},
		{"no arguments", `{"command":"cleanup_job"}`, "args: is missing; want what the actions runner 2.336 sends"},
		{"no response file", change(prepare, `"RESPONSE"`, `null`), "responseFile: is empty or missing; want the path the runner made"},
		{"relative response file", change(prepare, `"RESPONSE"`, `"x.json"`), "responseFile: is not an absolute path; want the path the runner made"},
		{"NUL in response file", change(prepare, `"RESPONSE"`, `"/x\u0000"`), "responseFile: holds a NUL character; want none"},
		{"services of wrong type", change(prepare, `"services":[]`, `"services":{}`), "args.services: is an object; want a list"},
		{"container of wrong type", change(prepare, container, `true`), "args.container: is a boolean; want an object"},
		{"no image", change(prepare, `"image":"node:22",`, ``), "args.container.image: is empty or missing; want the name of an image"},
		{"null image", change(prepare, `"node:22"`, `null`), "args.container.image: is empty or missing; want the name of an image"},
		{"empty image", change(prepare, `"node:22"`, `""`), "args.container.image: is empty or missing; want the name of an image"},
		{"service without image", change(prepare, `"services":[]`, `"services":[{}]`), "args.services[0].image: is empty or missing; want the name of an image"},
		{"password of wrong type", change(prepare, `"hunter2"`, `7`), "args.container.registry.password: is a number; want a string"},
		{"variable of wrong type", change(prepare, `"A":"b"`, `"A":1`), "args.container.environmentVariables.A: is a number; want a string"},
		{"name of variable", change(prepare, `"A":"b"`, `"A=C":"b"`), `args.container.environmentVariables: "A=C" is no name of a variable; want one without '='`},
		{"mount of wrong type", change(prepare, systemMounts, `["/__w"]`), "args.container.systemMountVolumes[0]: is a string; want an object"},
		{"no target", change(prepare, `"targetVolumePath":"/__e",`, ``), "args.container.systemMountVolumes[2].targetVolumePath: is missing; want what the actions runner 2.336 sends"},
		{"relative target", change(prepare, `"targetVolumePath":"/d"`, `"targetVolumePath":"d"`), "args.container.userMountVolumes[0].targetVolumePath: is not an absolute path; want one in the container"},
		{"readOnly of wrong type", change(prepare, `"targetVolumePath":"/__e","readOnly":true`, `"targetVolumePath":"/__e","readOnly":"yes"`), "args.container.systemMountVolumes[2].readOnly: is a string; want a boolean"},
		{"state of wrong type", change(script, `{"job":"3f9c"}`, `"3f9c"`), "state: is a string; want an object"},
		{"job of wrong type", change(script, `"3f9c"`, `9`), "state.job: is a number; want a string"},
		{"no entry point", change(script, `"entryPoint":`, `"entrypoint":`), "args.entryPoint: is missing; want what the actions runner 2.336 sends"},
		{"argument of wrong type", change(script, `"-e"`, `["-e"]`), "args.entryPointArgs[1]: is a list; want a string"},
		{"path of wrong type", change(script, `["/b","/a"]`, `{}`), "args.prependPath: is an object; want a list"},
		{"NUL in argument", change(script, `"-e"`, `"\u0000"`), "args.entryPointArgs[1]: holds a NUL character; want none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{}
			message := "cannot read hook payload: " + tt.want
			want := result{status: hook.StatusPayload, err: message, stdout: "::error::" + message + "\n", response: untouched}
			if got := call(t, f, tt.payload); got != want {
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
	want := result{hook.StatusFailed, "cannot prepare job: no image\n100% \"x\"", "::error::cannot prepare job: no image%0A100%25 \"x\"\n", untouched}
	if r != want {
		t.Errorf("got %+v", r)
	}
}

// TestNoResponse: a guest the runner cannot be told of is ended, and a link
// that a job may have laid is not followed.
func TestNoResponse(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(dir+"/victim", []byte(untouched), 0o644), os.Symlink(dir+"/victim", link)); err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	r := call(t, f, strings.Replace(prepare, "RESPONSE", link, 1))
	if r.status != hook.StatusFailed || r.err != fmt.Sprintf("cannot write response: open %s: too many levels of symbolic links", link) || !reflect.DeepEqual(f.cleaned, []string{"3f9c"}) {
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

func TestStep(t *testing.T) {
	f := &fake{status: 7, output: "said\npartial"}
	if r, want := call(t, f, script), (result{status: 7, stdout: f.output + "\n::error::bash ended with status 7\n", response: untouched}); r != want {
		t.Errorf("got %+v", r)
	}
	want := []brokerapi.ExecRequest{{
		Job: "3f9c", Argv: []string{"bash", "--norc", "-e", "/__w/_temp/x.sh"}, Env: map[string]string{"GITHUB_ACTION": "__run", "X": "$HOME"},
		PrependPath: []string{"/b", "/a"}, Dir: "/__w/r/r",
	}}
	if !reflect.DeepEqual(f.executed, want) {
		t.Errorf("asked for\n%+v\nwant\n%+v", f.executed, want)
	}
}

// TestStepShapes has what older runners and the examples of the reference
// hooks send.
func TestStepShapes(t *testing.T) {
	f := &fake{}
	call(t, f, `{"command":"run_script_step","responseFile":null,"args":{"entryPointArgs":["[\"x\"]"," '\"Mona","the","Octocat\"'"],"entryPoint":"echo","prependPath":"/some/path"},"state":{"job":"a","more":[]}}`)
	want := []brokerapi.ExecRequest{{Job: "a", Argv: []string{"echo", "[x]", `"Mona the Octocat"`}, Env: map[string]string{}, PrependPath: []string{"/some/path"}}}
	if !reflect.DeepEqual(f.executed, want) {
		t.Errorf("asked for\n%+v\nwant\n%+v", f.executed, want)
	}
}

func TestStepNotRun(t *testing.T) {
	const noJob = `cannot run step: no container was prepared for this job; see the log of "Initialize containers"`
	tests := []struct {
		name, from, to string
		err            error
		want           string
		calls          int
	}{
		{"state null", `{"job":"3f9c"}`, `null`, nil, noJob, 0},
		{"state empty", `{"job":"3f9c"}`, `{}`, nil, noJob, 0},
		{"job null", `"3f9c"`, `null`, nil, noJob, 0},
		{"quote", `"-e"`, `"'"`, nil, `cannot run step "__run": the command line has a quote that is not closed; check the step's shell`, 0},
		{"backslash", `x.sh"`, `\\"`, nil, `cannot run step "__run": the command line ends in a backslash; check the step's shell`, 0},
		{"no program", `"bash"`, `"''"`, nil, `cannot run step "__run": the command line is empty; check the step's shell`, 0},
		{"broker", `"-e"`, `"-e"`, errors.New("the guest is gone"), `cannot run step "__run": the guest is gone`, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{err: tt.err}
			want := result{hook.StatusNotStarted, tt.want, "::error::" + tt.want + "\n", untouched}
			if got := call(t, f, strings.Replace(script, tt.from, tt.to, 1)); got != want || f.calls() != tt.calls {
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
	tests := []struct {
		state string
		want  []string
	}{{"null", nil}, {"{}", nil}, {`{"job":null}`, nil}, {`{"job":"3f9c"}`, []string{"3f9c"}}}
	for _, tt := range tests {
		f := &fake{}
		payload := `{"command":"cleanup_job","responseFile":"RESPONSE","args":{},"state":` + tt.state + `}`
		if r := call(t, f, payload); r != (result{response: untouched}) || !reflect.DeepEqual(f.cleaned, tt.want) {
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
	h := &hook.Hook{Broker: &fake{}, Stdin: strings.NewReader(`{"command":"cleanup_job","args":{},"state":{"job":"x"}}`), Stdout: io.Discard, Stderr: io.Discard}
	if status, err := h.Run(ctx); status != 0 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{prepare, script, `{"command":"cleanup_job","args":{},"state":{"job":"x"}}`, `{"command":"run_container_step","args":{"a":[{}]},"state":null}`, `{"command":1e9}`, "\xff", `[`, `"\ud800"`} {
		f.Add([]byte(strings.ReplaceAll(s, "RESPONSE", "/r")))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		p, err := hook.Parse(line)
		if err != nil {
			if p != nil || !strings.HasPrefix(err.Error(), "cannot read hook payload: ") || strings.ContainsAny(err.Error(), "\n\x00") {
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
