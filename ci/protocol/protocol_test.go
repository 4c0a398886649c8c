package protocol_test

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/jobmessage"
	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/protocol"
)

func TestPipe(t *testing.T) {
	var pipe bytes.Buffer
	if err := protocol.WritePipe(&pipe, protocol.NewJobRequest, "aü😀"); err != nil {
		t.Fatal(err)
	}
	if err := protocol.WritePipe(&pipe, protocol.CancelRequest, ""); err != nil {
		t.Fatal(err)
	}
	want := "\x01\x00\x00\x00\x08\x00\x00\x00a\x00\xfc\x00\x3d\xd8\x00\xde" + "\x02\x00\x00\x00\x00\x00\x00\x00"
	if diff := cmp.Diff(want, pipe.String()); diff != "" {
		t.Errorf("bytes (-want +got):\n%s", diff)
	}

	for _, want := range []struct {
		kind int32
		body string
	}{{kind: 1, body: "aü😀"}, {kind: 2}} {
		kind, body, err := protocol.ReadPipe(&pipe)
		if kind != want.kind || body != want.body || err != nil {
			t.Errorf("read %d, %q, %v; want %v", kind, body, err, want)
		}
	}
	tooLong := bytes.NewReader([]byte("\x01\x00\x00\x00\x82\xf0\xfa\x02"))
	if _, _, err := protocol.ReadPipe(tooLong); err == nil {
		t.Error("a message of 50,000,002 bytes is read")
	}
}

// TestPipeEnd: the end of the pipe is not an end to the worker.
func TestPipeEnd(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _, _ = protocol.ReadPipe(read) // until the test closes it
	}()
	if err := write.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Error("reading ended with the pipe")
	case <-time.After(300 * time.Millisecond):
	}
}

// message is in the spelling of the service.
const message = `{
	"jobDisplayName": "build",
	"contextData": {
		"github": {"t": 2, "d": [{"k": "repository", "v": "acme/widgets"}]},
		"matrix": {"t": 2, "d": [{"k": "image", "v": "debian:13"}, {"k": "list", "v": {"t": 1, "a": ["x", 1, true, null]}}]}
	},
	"environmentVariables": [{"type": 2, "map": [{"Key": "A", "Value": "1"}]}],
	"jobContainer": {"type": 3, "expr": "matrix.image"},
	"jobServiceContainers": {"type": 2, "map": [
		{"Key": "db", "Value": {"type": 2, "map": [
			{"Key": "image", "Value": "postgres:18"},
			{"Key": "ports", "Value": {"type": 1, "seq": [5432, "8080:80"]}},
			{"Key": "env", "Value": {"type": 2, "map": [{"Key": "P", "Value": "secret"}]}}
		]}},
		{"Key": "none", "Value": ""}
	]},
	"steps": [
		{"type": "action", "id": "i1", "displayNameToken": "say", "reference": {"type": "script"},
			"inputs": {"type": 2, "map": [{"Key": "script", "Value": "echo hi"}, {"Key": "shell", "Value": "bash"}]},
			"condition": "always()", "continueOnError": true, "timeoutInMinutes": 2},
		{"type": "action", "id": "i2", "reference": {"type": "repository", "repositoryType": "GitHub",
			"name": "acme/hello", "ref": "v1", "path": ""},
			"inputs": {"type": 2, "map": [{"Key": "who", "Value": "me"}]}, "condition": "success()"},
		{"type": "action", "id": "i3", "reference": {"type": "containerRegistry", "image": "alpine"},
			"inputs": {"type": 2, "map": [{"Key": "args", "Value": "true"}]},
			"environment": {"type": 2, "map": [{"Key": "B", "Value": "2"}]}, "condition": "failure()"}
	]
}`

func TestReadJobMessage(t *testing.T) {
	var m protocol.JobMessage
	if err := json.Unmarshal([]byte(message), &m); err != nil {
		t.Fatal(err)
	}
	got, err := m.Job()
	if err != nil {
		t.Fatal(err)
	}
	want := miniworker.Job{
		Name: "build", Repository: "acme/widgets", Env: map[string]string{"A": "1"},
		Container: &miniworker.Container{Image: "debian:13"},
		Services: []miniworker.Container{{Key: "db", Image: "postgres:18", Ports: []string{"5432", "8080:80"},
			Env: map[string]string{"P": "secret"}}},
		Steps: []miniworker.Step{
			{ID: "i1", Name: "say", Run: "echo hi", Shell: "bash", If: "always", ContinueOnError: true,
				TimeoutSeconds: 120, Env: map[string]string{}},
			{ID: "i2", Action: "acme/hello/v1", With: map[string]string{"who": "me"}, Env: map[string]string{}},
			{ID: "i3", Uses: &miniworker.Container{Image: "alpine", Command: "true"}, If: "failure",
				Env: map[string]string{"B": "2"}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
}

// TestJobMessage writes a job as a message and reads it back.
func TestJobMessage(t *testing.T) {
	job := miniworker.Job{
		Name: "build", Repository: "acme/widgets", Env: map[string]string{"A": "<&>"},
		Container: &miniworker.Container{Image: "a", Options: "--cpus 1", Volumes: []string{"v:/v"},
			Ports: []string{"80"}, Env: map[string]string{"E": "1"},
			Credentials: &miniworker.Credentials{Username: "me", Password: "secret"}},
		Services: []miniworker.Container{{Key: "db", Image: "b"},
			{Key: "service2", Image: "c", Entrypoint: "/bin/x", Command: "y z"}},
		Steps: []miniworker.Step{
			{ID: "1", Name: "n", Run: "true", WorkingDirectory: "sub", TimeoutSeconds: 1, Env: map[string]string{"B": "2"}},
			{ID: "2", Action: "acme/hello/v1", Main: "post.js", With: map[string]string{"in": "out"},
				Env: map[string]string{}},
			{ID: "3", Action: "acme/image/v1", If: "failure", Env: map[string]string{},
				Uses: &miniworker.Container{Dockerfile: "Dockerfile", Command: "x", Entrypoint: "/e"}},
		},
	}
	data, err := json.Marshal(protocol.NewJobMessage(job, protocol.Run{StepIDs: []string{"1", "2", "3"}}))
	if err != nil {
		t.Fatal(err)
	}
	var m protocol.JobMessage
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	got, err := m.Job()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(job, got); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
}

// TestRelayReads: what runner-shim reads of a message as it passes.
func TestRelayReads(t *testing.T) {
	job := miniworker.Job{Name: "build", Matrix: map[string]string{"version": "18"},
		Container: &miniworker.Container{Image: "debian:13"},
		Services: []miniworker.Container{{Key: "db", Image: "${{ matrix.version }}", Env: map[string]string{"P": "x"}},
			{Image: "redis"}}}
	data, err := json.Marshal(protocol.NewJobMessage(job, protocol.Run{}))
	if err != nil {
		t.Fatal(err)
	}
	var pipe bytes.Buffer
	if err := protocol.WritePipe(&pipe, protocol.NewJobRequest, string(data)); err != nil {
		t.Fatal(err)
	}
	got, err := jobmessage.Read(&pipe)
	if err != nil {
		t.Fatal(err)
	}
	want := brokerapi.JobInfo{Name: "build", Container: "debian:13", Images: []string{"debian:13", "18", "redis"},
		Services: []brokerapi.ServiceInfo{{Key: "db", Image: "18"}, {Key: "service2", Image: "redis"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
}

func TestUnknownExpression(t *testing.T) {
	m := protocol.JobMessage{JobContainer: protocol.Token{Value: protocol.Expression("format('{0}', matrix.x)")}}
	if _, err := m.Job(); err == nil {
		t.Error("an expression that the double does not know is evaluated")
	}
}
