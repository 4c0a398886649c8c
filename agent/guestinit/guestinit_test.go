package guestinit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []struct {
		name string
		mode os.FileMode
	}{{"one/tool", 0o755}, {"two/tool", 0o755}, {"two/other", 0o755}, {"one/other", 0o644}} {
		path := filepath.Join(dir, file.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, file.mode); err != nil {
			t.Fatal(err)
		}
	}

	path := "PATH=" + filepath.Join(dir, "one") + ":" + filepath.Join(dir, "two")
	for _, test := range []struct {
		name string
		env  []string
		dir  string
		want string
		err  string
	}{
		{"tool", []string{path}, "/", "one/tool", ""},
		{"other", []string{path}, "/", "two/other", ""}, // the first is not executable
		{"tool", []string{"PATH=two"}, dir, "two/tool", ""},
		{"./one/tool", []string{path}, dir, "one/tool", ""},
		{"nosuch", []string{"PATH=/x"}, "/", "", `command "nosuch" is not in the guest's PATH (/x)`},
		{"tool", nil, "/", "", `command "tool" is not in the guest's PATH ()`},
		{"/no/such", nil, "/", "", "/no/such does not exist in the guest"},
	} {
		got, err := lookPath(test.name, test.env, test.dir)
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%s: got %v, want %s", test.name, err, test.err)
			}
			continue
		}
		if want := filepath.Join(dir, test.want); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", test.name, got, err, want)
		}
	}
}

// serve starts an agent and returns a connection to it.
func serve(t *testing.T) net.Conn {
	t.Helper()
	return serveIn(t, "")
}

// serveIn starts an agent with a cgroup.
func serveIn(t *testing.T, cgroup string) net.Conn {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = (&Server{Cgroup: cgroup}).Serve(t.Context(), l) }()

	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// exec sends one request to an agent and follows the process.
func exec(t *testing.T, request any) (stdout string, status int, err error) {
	t.Helper()
	var out bytes.Buffer
	peer := wire.Peer{Name: "the guest", MaxFrame: wire.MaxData}
	status, err = peer.Exec(t.Context(), serve(t), request, wire.Streams{Stdout: &out})
	return out.String(), status, err
}

func TestProcess(t *testing.T) {
	out, status, err := exec(t, guestapi.Request{Exec: &guestapi.Process{
		Argv: []string{"sh", "-c", "pwd; env | grep -v -E '^(PWD|SHLVL|_)='; exit 7"},
		Env:  []string{"PATH=" + os.Getenv("PATH"), "A=b c"}, Dir: "/tmp",
	}})
	if err != nil || status != 7 || !strings.HasPrefix(out, "/tmp\n") || !strings.Contains(out, "A=b c\n") ||
		strings.Contains(out, "HOME=") {
		t.Errorf("got status %d, %v, %q", status, err, out)
	}
}

func TestRefusedProcess(t *testing.T) {
	big := strings.Repeat("x", 200_000)
	for _, test := range []struct {
		summary string
		request any
		want    string
	}{{
		summary: "no such directory",
		request: guestapi.Request{Exec: &guestapi.Process{Argv: []string{"x"}, Dir: "/no/such"}},
		want:    "cannot start process: working directory /no/such does not exist in the guest",
	}, {
		summary: "no command",
		request: guestapi.Request{Exec: &guestapi.Process{}},
		want:    "cannot start process: no command given",
	}, {
		summary: "long argument",
		request: guestapi.Request{Exec: &guestapi.Process{Argv: []string{"true", big}}},
		want:    "cannot start process: an argument of 200000 bytes is too long: Linux takes 131071; put it into a file",
	}, {
		summary: "long variable",
		request: guestapi.Request{Exec: &guestapi.Process{Argv: []string{"true"}, Env: []string{"BIG=" + big}}},
		want: "cannot start process: variable BIG with 200004 bytes is too long: Linux takes 131071; put the value " +
			"into a file",
	}, {
		summary: "nothing asked for",
		request: guestapi.Request{},
		want:    "cannot read request: it asks for nothing",
	}, {
		summary: "not a request",
		request: json.RawMessage(`{"exec":1}`),
		want: "cannot read request: json: cannot unmarshal number into Go struct field Request.exec of type " +
			"guestapi.Process",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			_, _, err := exec(t, test.request)
			var failure *wire.Error
			if !errors.As(err, &failure) || failure.Message != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// TestOutputBeforeTheEndIsWhole: a child keeps the pipe open and writes on, yet
// all that the process itself wrote arrives, and the step ends with it.
func TestOutputBeforeTheEndIsWhole(t *testing.T) {
	begin := time.Now()
	script := "(sleep 20) & head -c 1000000 /dev/zero | tr '\\0' x"
	out, _, err := exec(t, guestapi.Request{Exec: &guestapi.Process{
		Argv: []string{"sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")},
	}})
	if err != nil || len(out) != 1000000 {
		t.Errorf("got %v and %d bytes, want all 1000000", err, len(out))
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("the child held the step up for %v", d)
	}
}

// TestBackground: what a step leaves running can write on (S22, S24, X3, X4).
func TestBackground(t *testing.T) {
	file := filepath.Join(t.TempDir(), "done")
	script := "(trap '' HUP; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.02; head -c 100000 /dev/zero; echo >&2; done; " +
		"echo done >" + file + ") & echo started"
	out, status, err := exec(t, guestapi.Request{Exec: &guestapi.Process{
		Argv: []string{"sh", "-ec", script}, Env: []string{"PATH=" + os.Getenv("PATH")},
	}})
	if err != nil || status != 0 || !strings.HasPrefix(out, "started\n") {
		t.Fatalf("got %q, status %d, %v", out, status, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if data, err := os.ReadFile(file); err == nil && string(data) == "done\n" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the process in the background has ended early")
		}
	}
}

// TestOutputOfUser: a process that is not root's opens its output by name (S31, X6,
// X7, V53).
func TestOutputOfUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("it becomes another user")
	}
	out, status, err := exec(t, guestapi.Request{Exec: &guestapi.Process{
		Argv: []string{
			"sh",
			"-ec",
			"echo one >/dev/stdout; echo two | tee /dev/stderr >/dev/stdout; echo three >/dev/stderr",
		},
		Env: []string{"PATH=" + os.Getenv("PATH")}, UID: 65534, GID: 65534,
	}})
	if err != nil || status != 0 || out != "one\ntwo\n" {
		t.Errorf("got %q, status %d, %v", out, status, err)
	}
}

// TestHangUp: the process and its children end with the connection.
func TestHangUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pids := &firstLine{done: cancel}
	peer := wire.Peer{Name: "the guest", MaxFrame: wire.MaxData}
	request := guestapi.Request{Exec: &guestapi.Process{
		Argv: []string{"sh", "-c", "sleep 100 & echo $! $$; wait"}, Env: []string{"PATH=" + os.Getenv("PATH")},
	}}
	_, err := peer.Exec(ctx, serve(t), request, wire.Streams{Stdout: pids})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the context's error", err)
	}

	for _, pid := range strings.Fields(pids.line.String()) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); syscall.Kill(n, 0) == nil && !isZombie(n); {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is still there", n)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// TestCancelled: when the status of a cancelled step is known, nothing that it
// started is left.
func TestCancelled(t *testing.T) {
	cgroup := makeCgroup(t)
	signals := make(chan os.Signal, 1)
	ready := &firstLine{done: func() { signals <- syscall.SIGINT }}
	peer := wire.Peer{Name: "the guest", MaxFrame: wire.MaxData}
	// Ending many processes, each with memory of its own, takes a while.
	request := guestapi.Request{Exec: &guestapi.Process{
		Argv: []string{"bash", "-c", `for i in {1..50}; do
			(trap "" INT; x=$(head -c 1000000 /dev/zero | tr '\0' x); sleep 100; : $x) & done; sleep 0.5; echo ready; wait`},
		Env: []string{"PATH=" + os.Getenv("PATH")},
	}}
	status, err := peer.Exec(t.Context(), serveIn(t, cgroup), request, wire.Streams{Stdout: ready, Signals: signals})
	if err != nil || status != 128+int(syscall.SIGINT) {
		t.Errorf("got status %d, %v", status, err)
	}

	left, err := filepath.Glob(filepath.Join(cgroup, "step-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
}

// makeCgroup makes a cgroup, or skips the test.
func makeCgroup(t *testing.T) string {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil || len(mounts) == 0 {
		t.Skipf("needs cgroup2: %v", err)
	}
	dir, err := os.MkdirTemp(mounts[0].Mountpoint, "guestinit-")
	if err != nil {
		t.Skipf("needs a cgroup: %v", err)
	}
	t.Cleanup(func() {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
		for deadline := time.Now().Add(10 * time.Second); populated(dir) && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		below, _ := filepath.Glob(filepath.Join(dir, "step-*"))
		for _, dir := range append(below, dir) {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	return dir
}

// TestInputFD: a process reads at descriptor 3 what the broker sends, and what it
// writes to 4 is discarded, however much.
func TestInputFD(t *testing.T) {
	input := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	var out bytes.Buffer
	peer := wire.Peer{Name: "the guest", MaxFrame: wire.MaxData}
	request := guestapi.Request{Exec: &guestapi.Process{
		Argv: []string{"sh", "-c", "head -c 1000000 /dev/zero >&4; test -p /dev/fd/3 && cat <&3; exit 100"},
		Env:  []string{"PATH=" + os.Getenv("PATH")}, InputFD: true,
	}}
	status, err := peer.Exec(t.Context(), serve(t), request, wire.Streams{Stdin: bytes.NewReader(input), Stdout: &out})
	if err != nil || status != 100 || !bytes.Equal(out.Bytes(), input) {
		t.Errorf("got status %d, %v, %d bytes; want 100 and %d", status, err, out.Len(), len(input))
	}
}

// TestStdin: a process reads as its standard input what the broker sends, to the
// end.
func TestStdin(t *testing.T) {
	input := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	var out bytes.Buffer
	peer := wire.Peer{Name: "the guest", MaxFrame: wire.MaxData}
	process := guestapi.Process{Argv: []string{"cat"}, Env: []string{"PATH=" + os.Getenv("PATH")}, Stdin: true}
	status, err := peer.Exec(t.Context(), serve(t), guestapi.Request{Exec: &process},
		wire.Streams{Stdin: bytes.NewReader(input), Stdout: &out})
	if err != nil || status != 0 || !bytes.Equal(out.Bytes(), input) {
		t.Errorf("got status %d, %v, %d bytes; want 0 and %d", status, err, out.Len(), len(input))
	}

	process.InputFD = true
	_, err = peer.Exec(t.Context(), serve(t), guestapi.Request{Exec: &process}, wire.Streams{})
	if err == nil || err.Error() != "cannot start process: a process has one input" {
		t.Errorf("with two inputs: got %v", err)
	}
}

// TestInputUnread: a process that does not read its input gets signals, and ends
// when the broker hangs up.
func TestInputUnread(t *testing.T) {
	for _, test := range []struct {
		summary string
		script  string
		hangUp  bool
	}{
		{summary: "signal", script: "echo ready; exec sleep 100"},
		{summary: "hang-up", script: "echo ready; exec sleep 100", hangUp: true},
		{summary: "closed", script: "exec 3<&-; echo ready; exec sleep 100"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			signals := make(chan os.Signal, 1)
			ready := &firstLine{done: func() { signals <- syscall.SIGINT }}
			if test.hangUp {
				ready.done = cancel
			}

			peer := wire.Peer{Name: "the guest", MaxFrame: wire.MaxData}
			request := guestapi.Request{Exec: &guestapi.Process{
				Argv: []string{"sh", "-c", test.script}, Env: []string{"PATH=" + os.Getenv("PATH")}, InputFD: true,
			}}
			status, err := peer.Exec(ctx, serve(t), request, wire.Streams{Stdin: endless{}, Stdout: ready, Signals: signals})
			if test.hangUp {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want the context's error", err)
				}
			} else if err != nil || status != 128+int(syscall.SIGINT) {
				t.Errorf("got status %d, %v; want 130", status, err)
			}
		})
	}
}

// TestInputWithoutFD: input for a process that has not asked for it does no harm.
func TestInputWithoutFD(t *testing.T) {
	// A caller may have left descriptors open to this test. An agent in a guest
	// has none of those.
	for fd := 3; fd < 10; fd++ {
		syscall.CloseOnExec(fd)
	}

	peer := wire.Peer{Name: "the guest", MaxFrame: wire.MaxData}
	request := guestapi.Request{Exec: &guestapi.Process{
		Argv: []string{"sh", "-c", "test ! -e /dev/fd/3 && cat"}, Env: []string{"PATH=" + os.Getenv("PATH")},
	}}
	status, err := peer.Exec(t.Context(), serve(t), request, wire.Streams{Stdin: endless{}})
	if err != nil || status != 0 {
		t.Errorf("got status %d, %v", status, err)
	}
}

// TestHostileInput: a peer that sends more input than it was allowed is taken
// for gone, and the process ends.
func TestHostileInput(t *testing.T) {
	conn := serve(t)
	c := wire.NewConn(conn, wire.MaxData)
	if err := c.SendJSON(wire.Request, guestapi.Request{Exec: &guestapi.Process{
		Argv: []string{"sleep", "100"}, Env: []string{"PATH=" + os.Getenv("PATH")}, InputFD: true,
	}}); err != nil {
		t.Fatal(err)
	}

	go func() {
		for range 2 * wire.InputWindow / wire.MaxData * 2 {
			_ = c.Send(wire.Stdin, make([]byte, wire.MaxData))
		}
	}()
	for {
		kind, payload, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if kind == wire.Exit {
			if payload[0] != 128+byte(syscall.SIGKILL) {
				t.Errorf("got status %d, want 137", payload[0])
			}
			return
		}
	}
}

// endless is input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// firstLine calls done when it has received a line.
type firstLine struct {
	line bytes.Buffer
	done func()
}

func (w *firstLine) Write(p []byte) (int, error) {
	w.line.Write(p)
	if bytes.ContainsRune(p, '\n') {
		w.done()
	}
	return len(p), nil
}

// isZombie reports whether a process has ended and is not waited for yet:
// nobody adopts orphans in some containers.
func isZombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}
