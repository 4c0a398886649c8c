package dockercli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

const (
	network = "github_network_0123456789abcdef0123456789abcdef"
	dbID    = "d0" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
	jobID   = "e1" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
	oldID   = "d1" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
)

// fake is a broker with three containers: a service, the job's own, and one that
// has ended.
type fake struct {
	asked  []brokerapi.Docker // but for List
	status int
	err    error
	output string
	input  string // what a process read
	lists  int    // how often it was asked for the containers: the service is healthy from the third time on
}

func (f *fake) Docker(_ context.Context, r brokerapi.Docker, reply any, progress io.Writer) error {
	if r.List == nil {
		f.asked = append(f.asked, r)
	}
	if f.err != nil {
		return f.err
	}
	if progress != nil {
		_, _ = io.WriteString(progress, f.output)
	}

	var answer any = struct{}{}
	switch {
	case r.List != nil:
		list := containers()
		if f.lists++; f.lists > 2 {
			list[0].State.Health.Status = "healthy"
		}
		answer = brokerapi.DockerContainers{Network: network, Containers: list}
	case r.Create != nil:
		answer = brokerapi.DockerCreated{ID: dbID, Warnings: []string{"beware"}}
	case r.Wait != nil:
		answer = brokerapi.DockerExited{Status: 3}
	}
	data, err := json.Marshal(answer)
	if err != nil || reply == nil {
		return err
	}
	return json.Unmarshal(data, reply)
}

func (f *fake) DockerProcess(ctx context.Context, r brokerapi.Docker, s wire.Streams) (int, error) {
	f.asked = append(f.asked, r)
	if s.Stdin != nil {
		data, err := io.ReadAll(s.Stdin)
		if err != nil {
			return 0, err
		}
		f.input = string(data)
	}
	_, _ = io.WriteString(s.Stdout, f.output)
	return f.status, errors.Join(ctx.Err(), f.err)
}

func containers() []brokerapi.ContainerInfo {
	now := time.Now()
	config := brokerapi.ContainerConfig{
		Image: "postgres:17", Env: []string{"PATH=/usr/bin:/bin", "A=b"}, Labels: map[string]string{"a1b2c3": "", "x": "y"},
	}
	healthy := config
	healthy.Healthcheck = &brokerapi.ContainerHealthCmd{Test: []string{"CMD-SHELL", "pg_isready"}}
	return []brokerapi.ContainerInfo{{
		ID: dbID, Name: "/0a_postgres17_b0", Created: now.Add(-5 * time.Second), Path: "docker-entrypoint.sh",
		Args: []string{"postgres", "-c", "shared_buffers=1GB"}, Config: healthy,
		State: brokerapi.ContainerState{Status: "running", Running: true, StartedAt: now.Add(-3 * time.Second),
			Health: &brokerapi.ContainerHealth{Status: "starting"}},
		NetworkSettings: brokerapi.ContainerNetwork{
			Ports: map[string][]brokerapi.PortBinding{
				"5432/tcp": {{HostIP: "127.0.0.1", HostPort: "32768"}, {HostIP: "::1", HostPort: "32768"}}, "53/udp": nil,
			},
			Networks: map[string]brokerapi.NetworkInfo{network: {Aliases: []string{"db"}}},
		},
	}, {
		ID: jobID, Name: "/job", Created: now, Path: "tail", Args: []string{"-f", "/dev/null"}, Config: config,
		State: brokerapi.ContainerState{Status: "running", Running: true, StartedAt: now},
	}, {
		ID: oldID, Name: "/old", Created: now, Path: "true", Config: config,
		State: brokerapi.ContainerState{Status: "exited", ExitCode: 7, FinishedAt: now.Add(-90 * time.Second)},
	}}
}

// result is what one call did.
type result struct {
	status         int
	err            string
	stdout, stderr string
}

// call runs a command line. The environment has TOKEN, A and HOME.
func run(t *testing.T, f *fake, everything bool, args ...string) result {
	t.Helper()
	var stdout, stderr strings.Builder
	env := map[string]string{"TOKEN": "hunter2", "A": "1", "HOME": t.TempDir()}
	c := &CLI{
		Broker: f, Stdin: strings.NewReader("input\n"), Stdout: &stdout, Stderr: &stderr, Dir: "/w/repo",
		Getenv:     func(name string) (string, bool) { value, ok := env[name]; return value, ok },
		Everything: everything,
	}
	status, err := c.Run(t.Context(), args)
	r := result{status: status, stdout: stdout.String(), stderr: stderr.String()}
	if err != nil {
		r.err = err.Error()
	}
	return r
}

// TestRunner has the calls of the actions runner, DockerCommandManager.cs of
// actions/runner 2.336.0, with the answers that it reads.
func TestRunner(t *testing.T) {
	create := []string{"--name", "x", "--label", "a1b2c3", "--network", network, "-e", "A", "-e", "B=c", "-e", "NOTSET",
		"--entrypoint", "tail", "debian:13", "-f", "/dev/null"}
	for _, test := range []struct {
		summary string
		args    []string
		want    result
		asked   []brokerapi.Docker
	}{{
		summary: "1: version of the server",
		args:    []string{"version", "--format", "'{{.Server.APIVersion}}'"},
		want:    result{stdout: "'1.47'\n"},
	}, {
		summary: "2: version of the client",
		args:    []string{"version", "--format", "'{{.Client.APIVersion}}'"},
		want:    result{stdout: "'1.47'\n"},
	}, {
		summary: "3: containers of earlier jobs",
		args:    []string{"ps", "--all", "--quiet", "--no-trunc", "--filter", "label=a1b2c3"},
		want:    result{stdout: dbID + "\n" + jobID + "\n" + oldID + "\n"},
	}, {
		summary: "3: there are none",
		args:    []string{"ps", "--all", "--quiet", "--no-trunc", "--filter", "label=ffffff"},
	}, {
		summary: "4: networks of earlier jobs",
		args:    []string{"network", "prune", "--force", "--filter", "label=a1b2c3"},
	}, {
		summary: "5: a network",
		args:    []string{"network", "create", "--label", "a1b2c3", network},
		want:    result{stdout: network + "\n"},
		asked:   []brokerapi.Docker{{Network: &brokerapi.DockerNetwork{Name: network}}},
	}, {
		summary: "6: pull",
		args:    []string{"pull", "postgres:17"},
		want:    result{stdout: "pulling\npostgres:17\n"},
		asked:   []brokerapi.Docker{{Pull: &brokerapi.DockerPull{Image: "postgres:17"}}},
	}, {
		summary: "8: create",
		args:    append([]string{"create"}, create...),
		want:    result{stdout: dbID + "\n", stderr: "pulling\nWARNING: beware\n"},
		asked:   []brokerapi.Docker{{Create: &brokerapi.DockerCreate{Args: create, Env: map[string]string{"A": "1"}}}},
	}, {
		summary: "9: start",
		args:    []string{"start", dbID},
		want:    result{stdout: dbID + "\n", stderr: "pulling\n"},
		asked:   []brokerapi.Docker{{Start: &brokerapi.DockerStart{Container: dbID}}},
	}, {
		summary: "10: is it running",
		args: []string{"ps", "--all", "--filter", "id=" + dbID, "--filter", "status=running", "--no-trunc",
			"--format", "{{.ID}} {{.Status}}"},
		want: result{stdout: dbID + " Up 3 seconds (health: starting)\n"},
	}, {
		summary: "10: it is not",
		args: []string{"ps", "--all", "--filter", "id=" + oldID, "--filter", "status=running", "--no-trunc",
			"--format", "{{.ID}} {{.Status}}"},
	}, {
		summary: "10: what became of it",
		args:    []string{"ps", "--all", "--filter", "id=" + oldID, "--no-trunc", "--format", "{{.ID}} {{.Status}}"},
		want:    result{stdout: oldID + " Exited (7) About a minute ago\n"},
	}, {
		summary: "11: ports",
		args:    []string{"port", dbID},
		want:    result{stdout: "5432/tcp -> 127.0.0.1:32768\n5432/tcp -> [::1]:32768\n"},
	}, {
		summary: "12: environment",
		args:    []string{"inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", jobID},
		want:    result{stdout: "PATH=/usr/bin:/bin\nA=b\n\n"},
	}, {
		summary: "12b: health",
		args:    []string{"inspect", "--format={{if .Config.Healthcheck}}{{print .State.Health.Status}}{{end}}", dbID},
		want:    result{stdout: "healthy\n"},
	}, {
		summary: "12b: no health check",
		args:    []string{"inspect", "--format={{if .Config.Healthcheck}}{{print .State.Health.Status}}{{end}}", jobID},
		want:    result{stdout: "\n"},
	}, {
		summary: "13: logs",
		args:    []string{"logs", "--details", dbID},
		want:    result{stdout: "pulling\n"},
		asked:   []brokerapi.Docker{{Logs: &brokerapi.DockerLogs{Container: dbID}}},
	}, {
		summary: "13: remove",
		args:    []string{"rm", "--force", dbID},
		want:    result{stdout: dbID + "\n"},
		asked:   []brokerapi.Docker{{Remove: &brokerapi.DockerRemove{Container: dbID, Force: true}}},
	}, {
		summary: "13: remove the network",
		args:    []string{"network", "rm", network},
		want:    result{stdout: network + "\n"},
		asked:   []brokerapi.Docker{{Network: &brokerapi.DockerNetwork{Name: network, Remove: true}}},
	}, {
		summary: "14: a step",
		args: []string{"exec", "-i", "--workdir", "/__w/r/r", "-e", "A", "-e", "NOTSET", jobID, "sh", "-e",
			"/__w/_temp/x.sh"},
		want: result{status: 7, stdout: "pulling\n"},
		asked: []brokerapi.Docker{{Exec: &brokerapi.DockerExec{
			Container: jobID, Argv: []string{"sh", "-e", "/__w/_temp/x.sh"},
			Env: map[string]string{"A": "1"}, Dir: "/__w/r/r", Input: true}}},
	}, {
		summary: "15: build",
		args:    []string{"build", "-t", "a1b2c3:0f", "-f", "/w/_actions/a/Dockerfile", "/w/_actions/a"},
		want:    result{status: 7, stdout: "pulling\n"},
		asked: []brokerapi.Docker{{Build: &brokerapi.DockerBuild{Dockerfile: "/w/_actions/a/Dockerfile",
			Context: "/w/_actions/a", Tags: []string{"a1b2c3:0f"}}}},
	}, {
		summary: "16: run",
		args: []string{"run", "--name", "n", "--label", "a1b2c3", "--workdir", "/github/workspace", "--rm", "-e", "TOKEN",
			"--network", network, "alpine:3", "echo", "-e", "A"},
		want: result{status: 7, stdout: "pulling\n"},
		asked: []brokerapi.Docker{{Run: &brokerapi.DockerCreate{
			Args: []string{"--name", "n", "--label", "a1b2c3", "--workdir", "/github/workspace", "--rm", "-e", "TOKEN",
				"--network", network, "alpine:3", "echo", "-e", "A"},
			Env: map[string]string{"TOKEN": "hunter2"}}}},
	}} {
		t.Run(test.summary, func(t *testing.T) {
			f := &fake{status: 7, output: "pulling\n"}
			got := run(t, f, true, test.args...)
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if diff := cmp.Diff(test.asked, f.asked); diff != "" {
				t.Errorf("asked for, -want +got:\n%s", diff)
			}

			// The broker's errors reach the caller, and nothing passes for success.
			if test.asked == nil {
				return
			}
			got = run(t, &fake{err: errors.New("cannot do that")}, true, test.args...)
			if got.status == 0 || got.err != "cannot do that" || got.stdout != "" {
				t.Errorf("with a broker that fails: %+v", got)
			}
		})
	}
}

// TestLogin: credentials in a directory of their own are those of the pull that
// follows.
func TestLogin(t *testing.T) {
	for _, test := range []struct {
		server, image string
		want          bool
		sent          string // for which server
	}{
		{server: "ghcr.io", image: "ghcr.io/a/b:1", want: true, sent: "ghcr.io"},
		{server: "ghcr.io", image: "quay.io/a/b:1"},
		{server: "ghcr.io", image: "b"},
		{server: "", image: "a/b", want: true},
		{server: "https://index.docker.io/v1/", image: "postgres", want: true},
		{server: "docker.io", image: "docker.io/library/postgres", want: true},
		{server: "http://localhost:5000/v2/", image: "localhost:5000/a", want: true, sent: "localhost:5000"},
	} {
		dir := t.TempDir()
		args := []string{"--config", dir, "login", test.server, "-u", "u", "--password-stdin"}
		if test.server == "" {
			args = []string{"--config", dir, "login", "-u", "u", "--password-stdin"}
		}
		if r := run(t, &fake{}, true, args...); r != (result{stdout: "Login Succeeded\n"}) {
			t.Errorf("%s: got %+v", test.server, r)
		}
		if info, err := os.Stat(filepath.Join(dir, "config.json")); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: config.json is %v, %v", test.server, info, err)
		}

		f := &fake{}
		run(t, f, true, "--config", dir, "pull", test.image)
		want := &brokerapi.Credentials{Username: "u", Password: "input", Server: test.sent}
		if !test.want {
			want = nil
		}
		if diff := cmp.Diff(want, f.asked[0].Pull.Credentials); diff != "" {
			t.Errorf("%s of %q, -want +got:\n%s", test.image, test.server, diff)
		}

		run(t, f, true, "--config", dir, "logout", test.server)
		run(t, f, true, "--config", dir, "pull", test.image)
		if c := f.asked[1].Pull.Credentials; c != nil {
			t.Errorf("%s: after logging out, credentials are sent", test.server)
		}
	}
}

// TestElsewhere: where a Docker could answer, it gets all but what is about the
// job's containers.
func TestElsewhere(t *testing.T) {
	for _, line := range []string{
		"version", "info", "images", "pull alpine", "login -u u -p p", "build .", "buildx build .", "compose up -d",
		"network create other", "network rm other", "network ls", "run --rm alpine true", "run --network other alpine",
		"create alpine", "exec other true", "exec -it other sh", "logs other", "inspect other",
		"inspect --type image " + dbID,
		"rm -f other", "port other", "stop other", "kill other", "wait other", "start other", "run --nonsense alpine",
		"-H tcp://x ps", "--context y exec " + dbID + " true", "", "exec", "exec --nonsense " + dbID,
	} {
		f := &fake{}
		c := &CLI{Broker: f, Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) (string, bool) { return "", false }}
		if _, err := c.Run(t.Context(), strings.Fields(line)); !errors.Is(err, ErrElsewhere) || len(f.asked) > 0 {
			t.Errorf("docker %s: got %v, asked for %v", line, err, f.asked)
		}
	}

	for _, line := range []string{
		"exec " + dbID + " true", "exec " + dbID[:8] + " true", "exec job true", "container exec job true", "logs job",
		"inspect job", "rm -f job", "port job", "stop job", "kill job", "wait job", "start job", "network rm " + network,
		"run --network " + network + " alpine true", "run --network=" + network + " alpine",
		"create --net " + network + " alpine",
	} {
		if r := run(t, &fake{}, false, strings.Fields(line)...); r.err != "" || r.status != 0 {
			t.Errorf("docker %s: got %+v", line, r)
		}
	}
}

func TestWithoutDocker(t *testing.T) {
	r := run(t, &fake{}, true, "compose", "up")
	want := `cannot run docker ["compose" "up"]: there is no Docker in this guest; ` +
		"add docker.io to the packages of its guest base in images.toml"
	if r != (result{status: StatusFailed, err: want}) {
		t.Errorf("got %+v", r)
	}
}

func TestFind(t *testing.T) {
	for _, test := range []struct{ name, want, err string }{
		{name: dbID, want: dbID},
		{name: "d0", want: dbID},
		{name: "job", want: jobID},
		{name: "/job", want: jobID},
		{name: "d", err: `several containers have an id that begins with "d"`},
		{name: "jo", err: "No such container: jo"},
		{name: "", err: "No such container: "},
	} {
		x, err := find(containers(), test.name)
		switch {
		case test.err != "" && (err == nil || err.Error() != test.err):
			t.Errorf("%q: got %v, want %s", test.name, err, test.err)
		case test.err == "" && (err != nil || x.ID != test.want):
			t.Errorf("%q: got %v, %v", test.name, x, err)
		}
	}
}

func TestPs(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{line: "ps -q", want: "d00123456789\ne10123456789\n"},
		{line: "container ls -aq", want: "d00123456789\ne10123456789\nd10123456789\n"},
		{line: "ps -q -l", want: "d00123456789\n"},
		{line: "ps -aq -n 2", want: "d00123456789\ne10123456789\n"},
		{line: "ps -q --filter name=postgres", want: "d00123456789\n"},
		{line: "ps -q --filter name=^job$ --filter name=postgres", want: "d00123456789\ne10123456789\n"},
		{line: "ps -q --filter status=exited", want: "d10123456789\n"},
		{line: "ps -q --filter label=x=z", want: ""},
		{line: "ps -q --filter label=x=y --filter name=job", want: "e10123456789\n"},
		{line: "ps -q --filter ancestor=postgres --filter network=" + network, want: "d00123456789\n"},
		{line: "ps -q --filter health=starting", want: "d00123456789\n"},
		{line: "ps --format {{.Names}}:{{.Image}}:{{.Ports}}", want: "0a_postgres17_b0:postgres:17:53/udp, " +
			"127.0.0.1:32768->5432/tcp, [::1]:32768->5432/tcp\njob:postgres:17:\n"},
		{line: `ps --filter name=job --format {{.Label("x")}}`, want: ""},
		{line: "ps --filter name=job", want: "" +
			"CONTAINER ID   IMAGE         COMMAND               CREATED                   STATUS                   PORTS   " +
			"NAMES\n" +
			"e10123456789   postgres:17   \"tail -f /dev/null\"   Less than a second ago   Up Less than a second            " +
			"job\n"},
	} {
		got := run(t, &fake{}, true, strings.Fields(test.line)...)
		if strings.Contains(test.line, "Label(") {
			if !strings.Contains(got.err, "cannot parse --format") {
				t.Errorf("%s: got %+v", test.line, got)
			}
			continue
		}
		if got.err != "" || squeeze(got.stdout) != squeeze(test.want) {
			t.Errorf("%s: got %+v\nwant %s", test.line, got, test.want)
		}
	}
}

// squeeze makes the width of columns irrelevant.
func squeeze(s string) string {
	for strings.Contains(s, "  ") {
		s = strings.ReplaceAll(s, "  ", " ")
	}
	return s
}

func TestInspect(t *testing.T) {
	r := run(t, &fake{}, true, "inspect", "job", "other")
	if r.status != StatusFailed || r.err != "No such container: other" {
		t.Errorf("got %+v", r)
	}
	var list []struct {
		ID    string `json:"Id"`
		State struct{ Running bool }
	}
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil || len(list) != 1 || list[0].ID != jobID ||
		!list[0].State.Running {
		t.Errorf("got %s, %v", r.stdout, err)
	}
	if r := run(t, &fake{}, true, "inspect", "other"); r.stdout != "[]\n" || r.status != StatusFailed {
		t.Errorf("got %+v", r)
	}
	r = run(t, &fake{}, true, "inspect", "-f", `{{json .Config.Labels}} {{upper (index .Config.Env 1)}}`, "job")
	if r.stdout != "{\"a1b2c3\":\"\",\"x\":\"y\"} A=B\n" {
		t.Errorf("got %+v", r)
	}
}

func TestProcesses(t *testing.T) {
	f := &fake{output: "one\ntwo\nthree\n"}
	if r := run(t, f, false, "logs", "--tail", "2", "job"); r.stdout != "two\nthree\n" {
		t.Errorf("got %+v", r)
	}
	if r := run(t, f, false, "logs", "--tail", "0", "job"); r.stdout != "" {
		t.Errorf("got %+v", r)
	}
	if r := run(t, f, false, "wait", "job"); r.stdout != "3\n" || r.status != 0 {
		t.Errorf("got %+v", r)
	}

	f = &fake{}
	run(t, f, false, "stop", "-t", "3", "job")
	run(t, f, false, "stop", "--timeout", "0", "--signal", "SIGINT", "job")
	run(t, f, false, "kill", "-s", "hup", "job")
	run(t, f, false, "kill", "job")
	want := []brokerapi.Docker{
		{Stop: &brokerapi.DockerStop{Container: "job", Grace: 3 * time.Second}},
		{Stop: &brokerapi.DockerStop{Container: "job", Signal: 2, Grace: time.Millisecond}},
		{Stop: &brokerapi.DockerStop{Container: "job", Signal: 1}},
		{Stop: &brokerapi.DockerStop{Container: "job", Signal: 9}},
	}
	if diff := cmp.Diff(want, f.asked); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	// Input is read where it is asked for, and nowhere else.
	for _, test := range []struct {
		line string
		want string
	}{
		{line: "exec -i job cat", want: "input\n"},
		{line: "exec job cat"},
		{line: "run -i --rm alpine cat", want: "input\n"},
		{line: "run --rm alpine cat -i"},
	} {
		f := &fake{}
		if r := run(t, f, true, strings.Fields(test.line)...); r.err != "" || f.input != test.want {
			t.Errorf("%s: got %+v, input %q", test.line, r, f.input)
		}
	}
	f = &fake{}
	if r := run(t, f, true, "run", "-d", "--name", "x", "alpine"); r.stdout != dbID+"\n" || len(f.asked) != 2 ||
		f.asked[1].Start == nil || f.asked[1].Start.Container != dbID {
		t.Errorf("got %+v, asked for %+v", r, f.asked)
	}
	if r := run(t, f, true, "exec", "-it", "job", "sh"); r.err != "the input device is not a TTY" || r.status != 1 {
		t.Errorf("got %+v", r)
	}
}

// TestRemoveForce: removing what is gone already succeeds, as with docker.
func TestRemoveForce(t *testing.T) {
	f := &fake{err: wire.WithCode(wire.CodeNotFound, fmt.Errorf("No such container: x"))}
	if r := run(t, f, true, "rm", "-f", "x"); r.status != 0 && r.err != "" {
		t.Errorf("got %+v", r)
	}
}
