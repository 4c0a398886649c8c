package guestinit

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/wire"
)

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"one/tool": 0o755, "two/tool": 0o755, "two/other": 0o755, "one/other": 0o644} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
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

// ask runs one request against a server and gives what came back.
func ask(t *testing.T, request any) (stdout string, last wire.Kind, payload []byte) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = (&Server{}).Serve(t.Context(), l) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c := wire.NewConn(conn, wire.MaxData)
	if err := c.SendJSON(wire.Request, request); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for {
		kind, payload, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if kind != wire.Stdout {
			return out.String(), kind, payload
		}
		out.Write(payload)
	}
}

func TestProcess(t *testing.T) {
	path := []string{"PATH=" + os.Getenv("PATH")}
	out, kind, status := ask(t, Request{Exec: &Exec{Argv: []string{"sh", "-c", "pwd; env | grep -v -E '^(PWD|SHLVL|_)='; exit 7"}, Env: append(path, "A=b c"), Dir: "/tmp"}})
	if kind != wire.Exit || status[0] != 7 || !strings.HasPrefix(out, "/tmp\n") || !strings.Contains(out, "A=b c\n") || strings.Contains(out, "HOME=") {
		t.Errorf("got %c %v, %q", kind, status, out)
	}
	_, kind, message := ask(t, Request{Exec: &Exec{Argv: []string{"x"}, Dir: "/no/such"}})
	if want := "cannot start process: working directory /no/such does not exist in the guest"; kind != wire.Failure || string(message) != want {
		t.Errorf("got %c %s, want %s", kind, message, want)
	}
	for request, want := range map[*Exec]string{
		{Argv: []string{"true", strings.Repeat("x", 200_000)}}:                       "cannot start process: an argument of 200000 bytes is too long: Linux takes 131071; put it into a file",
		{Argv: []string{"true"}, Env: []string{"BIG=" + strings.Repeat("x", 1<<20)}}: "cannot start process: variable BIG with 1048580 bytes is too long: Linux takes 131071; put the value into a file",
	} {
		if _, kind, message := ask(t, Request{Exec: request}); kind != wire.Failure || string(message) != want {
			t.Errorf("got %c %s, want %s", kind, message, want)
		}
	}
	if _, kind, message := ask(t, Request{}); kind != wire.Failure || string(message) != "cannot read request: it asks for nothing" {
		t.Errorf("got %c %s", kind, message)
	}
	_, kind, message = ask(t, json.RawMessage(`{"exec":1}`))
	if kind != wire.Failure || !strings.HasPrefix(string(message), "cannot read request: ") {
		t.Errorf("got %c %s", kind, message)
	}
}

// TestOutputBeforeTheEndIsWhole: a child keeps the pipe open and writes on, yet
// all that the process itself wrote arrives, and the step ends with it.
func TestOutputBeforeTheEndIsWhole(t *testing.T) {
	begin := time.Now()
	script := "(sleep 20) & head -c 1000000 /dev/zero | tr '\\0' x"
	out, kind, _ := ask(t, Request{Exec: &Exec{Argv: []string{"sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}}})
	if kind != wire.Exit || len(out) != 1000000 {
		t.Errorf("got %c and %d bytes, want all 1000000", kind, len(out))
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("the child held the step up for %v", d)
	}
}
