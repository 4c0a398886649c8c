package brokerapi

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/wire"
)

// TestWorker: one connection carries the request, the description of the job,
// input, signals and output, and the worker's own exit status.
func TestWorker(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	frames := make(chan map[wire.Kind]string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		c, got := wire.NewConn(conn, wire.MaxRequest), map[wire.Kind]string{}
		for len(got[wire.Job]) == 0 || len(got[wire.Stdin]) < 5 || len(got[wire.Signal]) == 0 {
			kind, payload, err := c.Receive()
			if err != nil {
				break
			}
			got[kind] += string(payload)
		}
		frames <- got
		_ = c.Send(wire.Stderr, []byte("bye"))
		_ = c.SendExit(102)
	}()

	job, signals := make(chan JobInfo, 1), make(chan os.Signal, 1)
	job <- JobInfo{
		Name: "build", Services: []ServiceInfo{{Key: "db", Image: "postgres:18"}}, Images: []string{"postgres:18"},
	}
	close(job)
	signals <- syscall.SIGTERM
	var stderr bytes.Buffer
	client := &Client{Socket: l.Addr().String()}
	status, err := client.Worker(t.Context(), WorkerRequest{Env: map[string]string{"A": "b"}}, job,
		wire.Streams{Stdin: io.MultiReader(strings.NewReader("input"), never{}), Stderr: &stderr, Signals: signals})
	if err != nil || status != 102 || stderr.String() != "bye" {
		t.Errorf("got status %d, %v, %q", status, err, &stderr)
	}

	want := map[wire.Kind]string{
		wire.Request: `{"worker":{"env":{"A":"b"}}}`,
		wire.Job: `{"name":"build","services":[{"key":"db","image":"postgres:18"}],` +
			`"images":["postgres:18"]}`,
		wire.Stdin: "input", wire.Signal: "\x0f",
	}
	if diff := cmp.Diff(want, <-frames); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

// TestWorkerWithoutJob: a job that nothing is known of is not described.
func TestWorkerWithoutJob(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		c := wire.NewConn(conn, wire.MaxRequest)
		_, _, _ = c.Receive()
		kind, _, _ := c.Receive()
		if kind != wire.Stdin {
			t.Errorf("got frame %q", kind)
		}
		_ = c.SendExit(0)
	}()

	job := make(chan JobInfo)
	close(job)
	client := &Client{Socket: l.Addr().String()}
	status, err := client.Worker(t.Context(), WorkerRequest{}, job, wire.Streams{Stdin: strings.NewReader("")})
	if status != 0 || err != nil {
		t.Errorf("got status %d, %v", status, err)
	}
}

// never is input that does not come.
type never struct{}

func (never) Read([]byte) (int, error) { select {} }

// TestBrokerEnds: however much of the request it has read.
func TestBrokerEnds(t *testing.T) {
	for _, read := range []int{0, 1, 4096} {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = conn.Read(make([]byte, read)) // waits for the request, unless read is 0
		}()

		client := &Client{Socket: l.Addr().String()}
		_, err = client.Run(t.Context(), RunRequest{Argv: []string{"true"}}, wire.Streams{})
		const want = "cannot go on: the broker ended, and the guest with it; see 'journalctl -u runner-guestd'"
		if err == nil || err.Error() != want {
			t.Errorf("%d bytes read: got %v, want %s", read, err, want)
		}
	}
}
