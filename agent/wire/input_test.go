package wire

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// receiveInput passes a peer's Stdin frames to in until their end.
func receiveInput(t *testing.T, c *Conn, in *Input) {
	t.Helper()
	for {
		kind, payload, err := c.Receive()
		if err != nil || kind != Stdin {
			t.Errorf("got frame %c, %v", kind, err)
			return
		}
		if err := in.Put(payload); err != nil {
			t.Error(err)
			return
		}
		if len(payload) == 0 {
			return
		}
	}
}

// TestInput: all that is written on one side is read on the other, in order,
// though it is many times the window.
func TestInput(t *testing.T) {
	sent := make([]byte, 20*InputWindow+1)
	_, _ = rand.Read(sent)
	var got []byte
	status, err := converse(t, t.Context(), Streams{Stdin: bytes.NewReader(sent)}, func(c *Conn) {
		in := NewInput(c)
		read := make(chan struct{})
		go func() {
			defer close(read)
			got, _ = io.ReadAll(in)
		}()
		receiveInput(t, c, in)
		<-read
		_ = c.SendExit(0)
	})
	if status != 0 || err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got status %d, %v, and %d bytes, the same: %v", status, err, len(got), bytes.Equal(got, sent))
	}
}

// TestInputUnread: a peer whose process does not read is sent one window and no
// more, and signals still reach it.
func TestInputUnread(t *testing.T) {
	signals := make(chan os.Signal)
	endless := readerFunc(func(p []byte) (int, error) { return len(p), nil })
	status, err := converse(t, t.Context(), Streams{Stdin: endless, Signals: signals}, func(c *Conn) {
		in, total := NewInput(c), 0
		for total < InputWindow {
			kind, payload, err := c.Receive()
			if err != nil || kind != Stdin || in.Put(payload) != nil {
				t.Errorf("got frame %c, %v", kind, err)
				return
			}
			total += len(payload)
		}

		go func() { signals <- syscall.SIGINT }()
		if kind, payload, err := c.Receive(); err != nil || kind != Signal {
			t.Errorf("got frame %c with %d bytes, %v; want the signal", kind, len(payload), err)
		}
		_ = c.SendExit(130)
	})
	if status != 130 || err != nil {
		t.Errorf("got status %d, %v", status, err)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestInputEnds: the end of the input, and a failure of it, reach the peer
// after what came before.
func TestInputEnds(t *testing.T) {
	for _, test := range []struct {
		summary string
		input   io.Reader
		want    string
	}{
		{summary: "empty", input: strings.NewReader("")},
		{summary: "some", input: strings.NewReader("some"), want: "some"},
		{
			summary: "failing", want: "some",
			input: io.MultiReader(strings.NewReader("some"), iotest.ErrReader(io.ErrNoProgress)),
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := converse(t, t.Context(), Streams{Stdin: test.input}, func(c *Conn) {
				in := NewInput(c)
				receiveInput(t, c, in)
				if got, err := io.ReadAll(in); err != nil || string(got) != test.want {
					t.Errorf("got %q, %v; want %q", got, err, test.want)
				}
				_ = c.SendExit(0)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHostileSender: a peer that sends more than it may, or after the end, is
// found out, and nothing of it is kept.
func TestHostileSender(t *testing.T) {
	for _, test := range []struct {
		summary string
		frames  [][]byte
		want    string
	}{{
		summary: "more than the window at once",
		frames:  [][]byte{make([]byte, InputWindow+1)},
		want:    "cannot take input: 262145 bytes are more than the 262144 allowed",
	}, {
		summary: "more than the window in pieces",
		frames:  [][]byte{make([]byte, InputWindow), {0}},
		want:    "cannot take input: 1 bytes are more than the 0 allowed",
	}, {
		summary: "input after the end",
		frames:  [][]byte{nil, {0}},
		want:    "cannot take input: it has ended before",
	}, {
		summary: "a second end",
		frames:  [][]byte{nil, nil},
		want:    "cannot take input: it has ended before",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			in := NewInput(NewConn(&bytes.Buffer{}, MaxData))
			var err error
			for _, frame := range test.frames {
				err = errors.Join(err, in.Put(frame))
			}
			if err == nil || err.Error() != test.want || len(in.bytes) > InputWindow {
				t.Errorf("got %v with %d bytes kept; want %s", err, len(in.bytes), test.want)
			}
		})
	}
}

// TestHostileReceiver: a guest cannot make the broker send without bound.
func TestHostileReceiver(t *testing.T) {
	for _, test := range []struct {
		summary string
		grant   []byte
		want    string
	}{{
		summary: "a grant for what was not sent",
		grant:   []byte{0, 0, 0, 1},
		want:    "cannot read window: 1 more bytes are not what the peer has read",
	}, {
		summary: "the largest grant",
		grant:   []byte{0xff, 0xff, 0xff, 0xff},
		want:    "cannot read window: 4294967295 more bytes are not what the peer has read",
	}, {
		summary: "a grant of nothing",
		grant:   []byte{0, 0, 0, 0},
		want:    "cannot read window: 0 more bytes are not what the peer has read",
	}, {
		summary: "a short grant",
		grant:   []byte{1},
		want:    "cannot read window: it is not a number of four bytes",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			never, _ := io.Pipe()
			_, err := converse(t, t.Context(), Streams{Stdin: never}, func(c *Conn) { _ = c.Send(Window, test.grant) })
			if err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// TestInputClose: a reader does not wait for a peer that is gone.
func TestInputClose(t *testing.T) {
	in := NewInput(NewConn(&bytes.Buffer{}, MaxData))
	time.AfterFunc(10*time.Millisecond, func() { _ = in.Close() })
	if n, err := in.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %d, %v", n, err)
	}
}

// TestJob: the description of a job is sent once, between the other frames.
func TestJob(t *testing.T) {
	job := make(chan any, 2)
	job <- map[string]string{"name": "build"}
	job <- "another"
	_, err := converse(t, t.Context(), Streams{Job: job}, func(c *Conn) {
		if kind, payload, err := c.Receive(); err != nil || kind != Job || string(payload) != `{"name":"build"}` {
			t.Errorf("got frame %c %s, %v", kind, payload, err)
		}
		_ = c.SendExit(0)
	})
	if err != nil || len(job) != 1 {
		t.Errorf("got %v, and %d descriptions are left, want 1", err, len(job))
	}
}
