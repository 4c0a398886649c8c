package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

// converse runs Exec against a peer that receives the request and then does
// answer.
func converse(t *testing.T, ctx context.Context, s Streams, answer func(c *Conn)) (int, error) {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		c := NewConn(far, MaxRequest)
		if kind, payload, err := c.Receive(); err != nil || kind != Request || string(payload) != `"do it"` {
			t.Errorf("got request %c %s, %v", kind, payload, err)
		}
		answer(c)
	}()
	status, err := Peer{Name: "the peer", MaxFrame: 100}.Exec(ctx, near, "do it", s)
	<-done
	return status, err
}

func TestExec(t *testing.T) {
	var stdout, stderr bytes.Buffer
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	status, err := converse(t, t.Context(), Streams{Stdout: &stdout, Stderr: &stderr, Signals: signals}, func(c *Conn) {
		_ = c.Send(Stdout, []byte("out"))
		_ = c.Send(Stderr, []byte("err"))
		kind, payload, err := c.Receive()
		if signal, signalErr := ReadSignal(payload); kind != Signal || signal != syscall.SIGTERM {
			t.Errorf("got %c %v, %v", kind, payload, errors.Join(err, signalErr))
		}
		_ = c.SendExit(143)
	})
	if status != 143 || err != nil || stdout.String() != "out" || stderr.String() != "err" {
		t.Errorf("got status %d, %v, output %q, %q", status, err, &stdout, &stderr)
	}
}

// TestStarted: a process that runs is reported once, whatever the peer repeats.
func TestStarted(t *testing.T) {
	started := make(chan struct{})
	status, err := converse(t, t.Context(), Streams{Started: started}, func(c *Conn) {
		_ = c.Send(Started, nil)
		<-started
		_ = c.Send(Started, nil)
		_ = c.SendExit(7)
	})
	if status != 7 || err != nil {
		t.Errorf("got status %d, %v", status, err)
	}
	if status, err := converse(t, t.Context(), Streams{}, func(c *Conn) {
		_ = c.Send(Started, nil)
		_ = c.SendExit(7)
	}); status != 7 || err != nil {
		t.Errorf("where nobody asks: got status %d, %v", status, err)
	}
}

// TestHostilePeer: whatever a guest sends in place of an exit status is an
// error, and none of it is taken for one.
func TestHostilePeer(t *testing.T) {
	for _, test := range []struct {
		summary string
		answer  func(c *Conn)
		want    string
	}{{
		summary: "an exit frame without a status",
		answer:  func(c *Conn) { _ = c.Send(Exit, nil) },
		want:    "cannot understand the peer: unexpected frame 'x'",
	}, {
		summary: "an exit frame of two bytes",
		answer:  func(c *Conn) { _ = c.Send(Exit, []byte{0, 0}) },
		want:    "cannot understand the peer: unexpected frame 'x'",
	}, {
		summary: "a frame of another conversation",
		answer:  func(c *Conn) { _ = c.SendJSON(Reply, struct{}{}) },
		want:    "cannot understand the peer: unexpected frame 'r'",
	}, {
		summary: "a frame above the limit",
		answer:  func(c *Conn) { _ = c.Send(Stdout, make([]byte, 101)) },
		want:    "the peer ended: cannot receive: a frame of 101 bytes is more than the 100 allowed",
	}, {
		summary: "nothing",
		answer:  func(*Conn) {},
		want:    "the peer ended: EOF",
	}, {
		summary: "a failure that is not one",
		answer:  func(c *Conn) { _ = c.Send(Failure, []byte("text")) },
		want:    "cannot read failure: invalid character 'e' in literal true (expecting 'r')",
	}, {
		summary: "a failure that drives the terminal",
		answer:  func(c *Conn) { _ = c.Send(Failure, []byte(`{"message":"a\u001b[2Jb\r\n::c"}`)) },
		want:    "a[2Jb\n::c",
	}, {
		summary: "a grant for input that there is not",
		answer:  func(c *Conn) { _ = c.Send(Window, []byte{0, 0, 0, 1}) },
		want:    "cannot understand the peer: unexpected frame 'w'",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			status, err := converse(t, t.Context(), Streams{}, test.answer)
			if err == nil || err.Error() != test.want || status != 0 {
				t.Errorf("got status %d, %v; want %s", status, err, test.want)
			}
		})
	}
}

func TestExecEndsWithContext(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := converse(t, ctx, Streams{}, func(c *Conn) {
		cancel(cause)
		if _, _, err := c.Receive(); err != io.EOF {
			t.Errorf("got %v, want the end of the connection", err)
		}
	})
	if err != cause {
		t.Errorf("got %v, want %v", err, cause)
	}
}

// TestFailure: a code survives wrapping and the way over a connection.
func TestFailure(t *testing.T) {
	sent := errors.Join(errors.New("first"), Unsupported("cannot run %s: %w", "x", io.ErrUnexpectedEOF))
	if CodeOf(sent) != CodeUnsupported || !errors.Is(sent, io.ErrUnexpectedEOF) {
		t.Errorf("got code %q of %v", CodeOf(sent), sent)
	}

	var buf bytes.Buffer
	c := NewConn(&buf, MaxData)
	if err := c.SendFailure(sent); err != nil {
		t.Fatal(err)
	}
	_, payload, err := c.Receive()
	if err != nil {
		t.Fatal(err)
	}
	got := readFailure(payload)
	if CodeOf(got) != CodeUnsupported || got.Error() != sent.Error() {
		t.Errorf("got %v with code %q, want %v", got, CodeOf(got), sent)
	}
	if code := CodeOf(errors.New("plain")); code != CodeOther {
		t.Errorf("got code %q of a plain error", code)
	}

	if err := c.SendFailure(errors.New(strings.Repeat("\x01", 1<<20))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Receive(); err != nil {
		t.Errorf("a long failure cannot be received: %v", err)
	}
}

func TestCall(t *testing.T) {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		c := NewConn(far, MaxRequest)
		_, _, _ = c.Receive()
		_ = c.Send(Stdout, []byte("pulling\n"))
		_ = c.SendJSON(Reply, 7)
	}()
	var progress bytes.Buffer
	var reply int
	err := Peer{Name: "the peer", MaxFrame: 100}.Call(t.Context(), near, "ask", &reply, &progress)
	if err != nil || reply != 7 || progress.String() != "pulling\n" {
		t.Errorf("got %d, %v, progress %q", reply, err, &progress)
	}
}
