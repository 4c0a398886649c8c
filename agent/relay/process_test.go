package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// TestMain: the test program is the relay, too, when it is started by its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != Program {
		os.Exit(m.Run())
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	status, err := Main(context.Background(), os.Args, os.Getenv("TEST_SOCKET"), signals)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

// relayProcess is a relay as a process with pipes 3 and 4, as a listener starts
// it. The test has the other end of 3.
type relayProcess struct {
	*exec.Cmd
	stderr bytes.Buffer
	input  *os.File
}

// program returns the path of the relay, in a directory of its own.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), Program)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts a relay that asks the broker at socket, with more variables.
func start(t *testing.T, socket string, more ...string) *relayProcess {
	t.Helper()
	in, input, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	unused, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &relayProcess{Cmd: exec.Command(program(t), "spawnclient", "3", "4"), input: input}
	p.Env = append([]string{"TEST_SOCKET=" + socket}, more...)
	p.Stderr = &p.stderr
	p.ExtraFiles = []*os.File{in, out}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	_ = out.Close()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = input.Close()
		_ = unused.Close()
	})
	return p
}

// status waits for the end of a relay.
func (p *relayProcess) status(t *testing.T) int {
	t.Helper()
	kill := time.AfterFunc(20*time.Second, func() { _ = p.Process.Kill() })
	defer kill.Stop()
	var exit *exec.ExitError
	if err := p.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return p.ProcessState.ExitCode()
}

// TestSignals: those that the listener sends to its worker reach the real one,
// which decides what its status is.
func TestSignals(t *testing.T) {
	sent := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}
	ready := make(chan struct{})
	var got received
	b := newBroker(t, func(c *wire.Conn, _ brokerapi.WorkerRequest) {
		close(ready)
		got = receive(t, c, func(g received) bool { return len(g.signals) == len(sent) })
		_ = c.SendExit(103)
	})
	p := start(t, b.socket)
	<-ready
	for _, s := range sent {
		if err := p.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // two at once have no order
	}
	if status := p.status(t); status != 103 {
		t.Errorf("got status %d, %s", status, &p.stderr)
	}
	b.await()
	if fmt.Sprint(got.signals) != fmt.Sprint(sent) {
		t.Errorf("got signals %v, want %v", got.signals, sent)
	}
}

// awaitEnd serves a relay until its connection ends.
func awaitEnd(c *wire.Conn) {
	for {
		if _, _, err := c.Receive(); err != nil {
			return
		}
	}
}

// TestInheritedEnd: the end of the listener is seen though the relay was started
// with a writing end of its own pipe, as children of a .NET program may be.
func TestInheritedEnd(t *testing.T) {
	in, input, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan struct{})
	b := newBroker(t, func(c *wire.Conn, _ brokerapi.WorkerRequest) {
		close(connected)
		awaitEnd(c)
	})

	p := &relayProcess{Cmd: exec.Command(program(t), "spawnclient", "3", "4")}
	p.Env, p.Stderr = []string{"TEST_SOCKET=" + b.socket}, &p.stderr
	p.ExtraFiles = []*os.File{in, out, input}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	<-connected
	_ = input.Close()
	if status := p.status(t); status != 1 || p.stderr.String() != "error: the listener ended\n" {
		t.Errorf("got status %d, %s", status, &p.stderr)
	}
	b.await()
}

// TestParentDies: the relay ends with its parent, whoever else holds the pipe.
func TestParentDies(t *testing.T) {
	connected := make(chan struct{})
	b := newBroker(t, func(c *wire.Conn, _ brokerapi.WorkerRequest) {
		close(connected)
		awaitEnd(c)
	})
	in, input, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close() // open until the test ends
	parent := exec.Command("sh", "-c", `"$0" spawnclient 3 4 & wait`, program(t))
	parent.Env = []string{"TEST_SOCKET=" + b.socket}
	parent.ExtraFiles = []*os.File{in, input}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}

	<-connected
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	b.await()
}

// fakeService notes that a job has ended.
type fakeService struct{ ended atomic.Int32 }

func (f *fakeService) Status() control.Status                      { return control.Status{} }
func (f *fakeService) Drain(time.Duration) (control.Status, error) { return control.Status{}, nil }
func (f *fakeService) Pause() (control.Status, error)              { return control.Status{}, nil }
func (f *fakeService) Resume() (control.Status, error)             { return control.Status{}, nil }
func (f *fakeService) JobEnded() (control.Status, error) {
	f.ended.Add(1)
	return control.Status{}, nil
}

// TestReportsEnd: the service learns that a job has ended before the listener
// does. It does not learn of an end without a result, which the listener reports
// to GitHub only if it is not stopped.
func TestReportsEnd(t *testing.T) {
	tests := []struct {
		summary string
		status  int
		reports int32
	}{
		{summary: "succeeded", status: 100, reports: 1},
		{summary: "abandoned", status: 105, reports: 1},
		{summary: "crashed", status: 1},
		{summary: "killed", status: 137},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			service := &fakeService{}
			dir := t.TempDir()
			server, err := control.Listen(dir, service)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			go server.Serve()
			b := newBroker(t, func(c *wire.Conn, _ brokerapi.WorkerRequest) { _ = c.SendExit(tt.status) })

			p := start(t, b.socket, control.DirVariable+"="+dir)
			if status := p.status(t); status != tt.status {
				t.Errorf("got status %d, %s", status, &p.stderr)
			}
			if got := service.ended.Load(); got != tt.reports {
				t.Errorf("%d reports, want %d", got, tt.reports)
			}
		})
	}
}

// TestEndsWithoutService: a service that does not answer costs the job nothing.
func TestEndsWithoutService(t *testing.T) {
	b := newBroker(t, func(c *wire.Conn, _ brokerapi.WorkerRequest) { _ = c.SendExit(100) })
	p := start(t, b.socket, control.DirVariable+"="+t.TempDir())
	if status := p.status(t); status != 100 || p.stderr.Len() > 0 {
		t.Errorf("got status %d, %s", status, &p.stderr)
	}
}

// TestOnHost: with RUNNER_JOBS=host the relay becomes the real worker, which
// has the same arguments, environment and pipes.
func TestOnHost(t *testing.T) {
	path := program(t)
	script := "#!/bin/sh\necho \"$0 $* $RUNNER_JOBS\"\ncat <&3\nexit 102\n"
	if err := os.WriteFile(path+".real", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	in, input, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(input, "message")
	_ = input.Close()

	p := &relayProcess{Cmd: exec.Command(path, "spawnclient", "3", "4")}
	var stdout bytes.Buffer
	p.Env, p.Stdout, p.Stderr, p.ExtraFiles = []string{"RUNNER_JOBS=host"}, &stdout, &p.stderr, []*os.File{in, in}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	want := path + ".real spawnclient 3 4 host\nmessage"
	if status := p.status(t); status != 102 || stdout.String() != want {
		t.Errorf("got status %d, %q, %s", status, &stdout, &p.stderr)
	}
}

// TestArguments: what no listener sends is refused in one line.
func TestArguments(t *testing.T) {
	for _, test := range []struct {
		summary string
		args    []string
		want    string
	}{
		{summary: "none", want: "want the arguments spawnclient IN OUT, got []"},
		{summary: "another verb", args: []string{"x", "3", "4"}, want: `want the arguments spawnclient IN OUT, got ["x"`},
		{summary: "a word", args: []string{"spawnclient", "x", "4"}, want: `"x" is not the descriptor of a pipe`},
		{summary: "standard output", args: []string{"spawnclient", "1", "4"}, want: `"1" is not the descriptor of a pipe`},
		{summary: "a closed one", args: []string{"spawnclient", "3", "999"}, want: `"3" is not the descriptor of a pipe`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			cmd := exec.Command(program(t), test.args...)
			cmd.Env = []string{}
			output, err := cmd.CombinedOutput()
			if err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(output), test.want) {
				t.Errorf("got %v, %s; want %s", err, output, test.want)
			}
		})
	}
}
