package control

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeService records what it is asked for.
type fakeService struct {
	mu     sync.Mutex
	status Status
	calls  []string
}

func (f *fakeService) call(name string) Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, name)
	return f.status
}

func (f *fakeService) set(s Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = s
}

func (f *fakeService) Status() Status { return f.call("status") }

func (f *fakeService) Drain(limit time.Duration) (Status, error) {
	return f.call("drain " + limit.String()), nil
}

func (f *fakeService) Pause() (Status, error) { return f.call("pause"), nil }

func (f *fakeService) Resume() (Status, error) { return Status{}, errors.New("not today") }

func (f *fakeService) JobEnded() (Status, error) { return f.call("job-ended"), nil }

func startServer(t *testing.T) (*Server, *fakeService, *Client) {
	t.Helper()
	dir := t.TempDir()
	f := &fakeService{status: Status{State: Online, Since: time.Now().UTC().Round(0), Jobs: 3}}
	s, err := Listen(dir, f)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve() }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return s, f, &Client{Dir: dir}
}

func TestConversation(t *testing.T) {
	_, f, c := startServer(t)
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f.status, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := c.Drain(t.Context(), 1500*time.Millisecond); err != nil {
		t.Error(err)
	}
	if _, err := c.Resume(t.Context()); err == nil || err.Error() != "cannot resume runner: not today" {
		t.Errorf("resume: got %v", err)
	}
	if err := c.JobEnded(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := c.Pause(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"status", "drain 2s", "job-ended", "pause"}, f.calls); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestOnlyRootMayChange: every user may connect, for the status.
func TestOnlyRootMayChange(t *testing.T) {
	dir := t.TempDir()
	f := &fakeService{}
	s, err := Listen(dir, f)
	if err != nil {
		t.Fatal(err)
	}
	s.peer = func(net.Conn) (uint32, error) { return 12345, nil }
	go s.Serve()
	defer s.Close()
	c := &Client{Dir: dir}

	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
	want := "cannot drain runner: user 12345 may not drain; only root may"
	if _, err := c.Drain(t.Context(), 0); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := c.Resume(t.Context()); err == nil || !strings.Contains(err.Error(), "only root may") {
		t.Errorf("got %v", err)
	}
	st, err := os.Stat(filepath.Join(dir, socketName))
	if err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("the socket has mode %v, %v", st.Mode(), err)
	}
}

func TestHostileRequests(t *testing.T) {
	tests := []struct{ summary, request, want string }{
		{summary: "not JSON", request: "hello\n", want: "cannot read request: invalid character 'h'"},
		{summary: "unknown verb", request: `{"verb":"reboot"}` + "\n", want: `unknown request \"reboot\"`},
		{summary: "too long", request: strings.Repeat("x", maxRequest+1), want: "want a line of at most 4096 bytes"},
		{summary: "negative timeout", request: `{"verb":"drain","timeout_s":-1}` + "\n", want: "is not from 0 to"},
		{summary: "timeout that overflows", request: `{"verb":"drain","timeout_s":9223372036854775807}` + "\n",
			want: "is not from 0 to"},
	}
	_, f, c := startServer(t)
	for _, tt := range tests {
		conn, err := net.Dial("unix", filepath.Join(c.Dir, socketName))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(tt.request)); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(line, tt.want) {
			t.Errorf("%s: got %s, %v", tt.summary, line, err)
		}
		_ = conn.Close()
	}
	if len(f.calls) != 0 {
		t.Errorf("asked for %q", f.calls)
	}
}

// TestTooManyClients: those that connect and say nothing keep maxClients places,
// and are gone after timeout.
func TestTooManyClients(t *testing.T) {
	_, _, c := startServer(t)
	for range maxClients {
		conn, err := net.Dial("unix", filepath.Join(c.Dir, socketName))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("a client more was served")
	}
}

func TestStatusWithoutService(t *testing.T) {
	since := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	tests := []struct {
		summary string
		last    Status
		want    Status
	}{
		{summary: "never ran", want: Status{State: Stopped, Reason: "runner.service does not run"}},
		{summary: "too old", last: Status{State: Deprecated, Since: since, Reason: "too old"},
			want: Status{State: Deprecated, Since: since, Reason: "too old"}},
		{summary: "stopped", last: Status{State: Stopped, Since: since}, want: Status{State: Stopped, Since: since}},
		{summary: "killed", last: Status{State: Busy, Since: since, Job: "x", JobSince: since},
			want: Status{State: Stopped, Since: since, Reason: "runner.service does not run; it was busy before"}},
	}
	for _, tt := range tests {
		c := &Client{Dir: t.TempDir()}
		if tt.last.State != "" {
			if err := SaveStatus(c.Dir, tt.last); err != nil {
				t.Fatal(err)
			}
		}
		got, err := c.Status(t.Context())
		if err != nil {
			t.Errorf("%s: %v", tt.summary, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.summary, diff)
		}
		if _, err := c.Drain(t.Context(), 0); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: drain returned %v", tt.summary, err)
		}
	}
}

// TestLoadStatusOfHostileFiles: user runner owns the directory, and root reads.
func TestLoadStatusOfHostileFiles(t *testing.T) {
	tests := []struct {
		summary string
		make    func(path string) error
		want    string
	}{
		{summary: "link", make: func(p string) error { return os.Symlink("/etc/shadow", p) }, want: "too many levels"},
		{summary: "pipe", make: func(p string) error { return syscall.Mkfifo(p, 0o644) }, want: "is not a regular file"},
		{summary: "directory", make: func(p string) error { return os.Mkdir(p, 0o755) }, want: "is not a regular file"},
		{summary: "huge", make: func(p string) error { return os.WriteFile(p, make([]byte, maxAnswer+1), 0o644) },
			want: "invalid character"},
	}
	for _, tt := range tests {
		dir := t.TempDir()
		if err := tt.make(filepath.Join(dir, statusName)); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadStatus(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v", tt.summary, err)
		}
	}
}

func TestWait(t *testing.T) {
	_, f, c := startServer(t)
	f.set(Status{State: Draining, Drain: &Drain{}, Job: "build"})
	var seen []State
	got, err := c.Wait(t.Context(), func(s Status) {
		seen = append(seen, s.State)
		f.set(Status{State: Drained, Drain: &Drain{}})
	})
	if err != nil || got.State != Drained {
		t.Errorf("got %+v, %v", got, err)
	}
	if diff := cmp.Diff([]State{Draining, Drained}, seen); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	f.set(Status{State: Online})
	if _, err := c.Wait(t.Context(), nil); !errors.Is(err, ErrResumed) {
		t.Errorf("resumed: got %v", err)
	}
	f.set(Status{State: Draining, Drain: &Drain{}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Wait(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no patience: got %v", err)
	}
}
