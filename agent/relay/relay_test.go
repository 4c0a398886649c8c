package relay

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// message returns a message of the listener.
func message(kind uint32, body string) []byte {
	units := utf16.Encode([]rune(body))
	out := binary.LittleEndian.AppendUint32(nil, kind)
	out = binary.LittleEndian.AppendUint32(out, uint32(2*len(units)))
	for _, u := range units {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

const job = `{"jobDisplayName":"build","jobContainer":"node:24","billingOwnerId":"x"}`

// fakeBroker answers one client at its socket.
type fakeBroker struct {
	t      *testing.T
	socket string
	done   chan struct{} // closed when serve has returned
}

// newBroker answers the first client by serve, which is called with the client
// after its request. The connection ends with serve.
func newBroker(t *testing.T, serve func(c *wire.Conn, r brokerapi.WorkerRequest)) *fakeBroker {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	b := &fakeBroker{t: t, socket: l.Addr().String(), done: make(chan struct{})}
	t.Cleanup(func() {
		_ = l.Close()
		b.await()
	})

	go func() {
		defer close(b.done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		c := wire.NewConn(conn, wire.MaxRequest)
		_, payload, err := c.Receive()
		if err != nil {
			return // a client that ended at once
		}
		var e brokerapi.Envelope
		if err := json.Unmarshal(payload, &e); err != nil || e.Worker == nil {
			t.Errorf("got request %s, %v", payload, err)
			return
		}
		serve(c, *e.Worker)
	}()
	return b
}

func (b *fakeBroker) await() {
	b.t.Helper()
	select {
	case <-b.done:
	case <-time.After(30 * time.Second):
		b.t.Error("the broker still has the client")
	}
}

// received is what a client sent.
type received struct {
	input   []byte
	jobs    []brokerapi.JobInfo
	signals []syscall.Signal
}

// receive takes frames as the broker does until enough, and lets the worker read
// all input.
func receive(t *testing.T, c *wire.Conn, enough func(received) bool) received {
	t.Helper()
	var got received
	in := wire.NewInput(c)
	defer in.Close()
	go func() { _, _ = io.Copy(io.Discard, in) }()

	for !enough(got) {
		kind, payload, err := c.Receive()
		if err != nil {
			t.Errorf("got %v after %d bytes", err, len(got.input))
			return got
		}

		switch kind {
		case wire.Stdin:
			got.input = append(got.input, payload...)
			if err := in.Put(payload); err != nil {
				t.Error(err)
			}
		case wire.Job:
			var info brokerapi.JobInfo
			if err := json.Unmarshal(payload, &info); err != nil {
				t.Error(err)
			}
			got.jobs = append(got.jobs, info)
		case wire.Signal:
			signal, err := wire.ReadSignal(payload)
			if err != nil {
				t.Error(err)
			}
			got.signals = append(got.signals, signal)
		default:
			t.Errorf("got frame %q", kind)
		}
	}
	return got
}

// listener is a pipe to a relay, through which it sends input and stays.
func listener(t *testing.T, input io.Reader) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	go func() { _, _ = io.Copy(onlyWriter{w}, input) }()
	return r
}

// onlyWriter hides what io.Copy would use in place of Write.
type onlyWriter struct{ io.Writer }

// TestRun: the worker gets every byte of the listener, the broker the job, and
// the listener the worker's output and status, however the bytes are cut.
func TestRun(t *testing.T) {
	input := slices.Concat(message(1, job), message(2, ""))
	info := brokerapi.JobInfo{Name: "build", Container: "node:24", Images: []string{"node:24"}}
	long := strings.Replace(job, `"x"`, `"`+strings.Repeat("0123456789", 1<<20)+`"`, 1)
	huge := slices.Concat(message(1, long), message(3, ""))

	tests := []struct {
		summary string
		input   []byte
		cut     func(io.Reader) io.Reader
		status  int
		jobs    []brokerapi.JobInfo
	}{
		{summary: "whole", input: input, status: 100, jobs: []brokerapi.JobInfo{info}},
		{summary: "byte by byte", input: input, cut: iotest.OneByteReader, status: 101, jobs: []brokerapi.JobInfo{info}},
		{summary: "huge", input: huge, status: 102, jobs: []brokerapi.JobInfo{info}},
		{summary: "broken JSON", input: message(1, `{"jobDisplayName":`), status: 103},
		{summary: "another type", input: message(7, job), status: 104},
		{summary: "a length that is refused", input: bytes.Repeat([]byte{0xff}, 100_000), status: 105},
		{summary: "a crash", input: input, status: 134, jobs: []brokerapi.JobInfo{info}},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			var got received
			var env map[string]string
			b := newBroker(t, func(c *wire.Conn, r brokerapi.WorkerRequest) {
				env = r.Env
				got = receive(t, c, func(g received) bool {
					return len(g.input) == len(test.input) && len(g.jobs) == len(test.jobs)
				})
				_ = c.Send(wire.Stdout, []byte("out"))
				_ = c.Send(wire.Stderr, []byte("err"))
				_ = c.SendExit(test.status)
			})
			var from io.Reader = bytes.NewReader(test.input)
			if test.cut != nil {
				from = test.cut(from)
			}

			var stdout, stderr bytes.Buffer
			r := &Relay{
				Broker: &brokerapi.Client{Socket: b.socket}, Environ: []string{"A=b=c", "bad"},
				Input: listener(t, from), Stdout: &stdout, Stderr: &stderr,
			}
			status, err := r.Run(t.Context())
			if err != nil || status != test.status || stdout.String() != "out" || stderr.String() != "err" {
				t.Errorf("got status %d, %v, %q, %q", status, err, &stdout, &stderr)
			}
			b.await()
			if !bytes.Equal(got.input, test.input) {
				t.Errorf("the worker got %d bytes that are not the %d sent", len(got.input), len(test.input))
			}
			if diff := cmp.Diff(test.jobs, got.jobs); diff != "" {
				t.Errorf("jobs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]string{"A": "b=c"}, env); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEveryCut: two writes of the listener, cut at any byte, are the same to the
// worker and to the broker.
func TestEveryCut(t *testing.T) {
	input := append(message(1, job), message(2, "")...)
	for cut := range input {
		var got received
		b := newBroker(t, func(c *wire.Conn, _ brokerapi.WorkerRequest) {
			got = receive(t, c, func(g received) bool { return len(g.input) == len(input) && len(g.jobs) == 1 })
			_ = c.SendExit(100)
		})
		in, out := io.Pipe()
		go func() {
			_, _ = out.Write(input[:cut])
			_, _ = out.Write(input[cut:])
		}()
		r := &Relay{Broker: &brokerapi.Client{Socket: b.socket}, Input: in}
		if status, err := r.Run(t.Context()); status != 100 || err != nil {
			t.Errorf("cut at %d: got status %d, %v", cut, status, err)
		}
		b.await()
		if !bytes.Equal(got.input, input) || got.jobs[0].Name != "build" {
			t.Errorf("cut at %d: got %q and %v", cut, got.input, got.jobs)
		}
	}
}

// TestSlowGuest: a listener gets rid of a message of the largest size before any
// guest reads it.
func TestSlowGuest(t *testing.T) {
	release := make(chan struct{})
	b := newBroker(t, func(c *wire.Conn, _ brokerapi.WorkerRequest) {
		<-release
		_ = c.SendExit(100)
	})
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := (&Relay{Broker: &brokerapi.Client{Socket: b.socket}, Input: in}).Run(t.Context())
		ended <- err
	}()

	_ = out.SetWriteDeadline(time.Now().Add(20 * time.Second))
	if _, err := out.Write(make([]byte, 50_000_008)); err != nil {
		t.Errorf("the listener is kept waiting: %v", err)
	}
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestListenerGone: the end of the pipe ends the job, though nobody reads what
// stands before it.
func TestListenerGone(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b := newBroker(t, func(c *wire.Conn, _ brokerapi.WorkerRequest) {
		go func() {
			_, _ = out.Write(append(message(1, job), make([]byte, 1<<20)...))
			_ = out.Close()
		}()
		awaitEnd(c) // a guest that reads nothing
	})

	_, err = (&Relay{Broker: &brokerapi.Client{Socket: b.socket}, Input: in}).Run(t.Context())
	if !errors.Is(err, ErrListenerGone) {
		t.Errorf("got %v, want %v", err, ErrListenerGone)
	}
	b.await()
}

// TestListenerGoneEarly: a listener may be gone before the broker is reached.
func TestListenerGoneEarly(t *testing.T) {
	for range 20 {
		b := newBroker(t, func(c *wire.Conn, _ brokerapi.WorkerRequest) { awaitEnd(c) })
		_, err := (&Relay{Broker: &brokerapi.Client{Socket: b.socket}, Input: strings.NewReader("")}).Run(t.Context())
		if !errors.Is(err, ErrListenerGone) {
			t.Errorf("got %v, want %v", err, ErrListenerGone)
		}
	}
}

// TestNoGuest: each way in which there is no guest, or none any more, is an
// error of one line.
func TestNoGuest(t *testing.T) {
	for _, test := range []struct {
		summary string
		serve   func(c *wire.Conn, r brokerapi.WorkerRequest) // nil: nobody listens
		want    string
	}{{
		summary: "no broker",
		want: "cannot reach the broker: dial unix SOCKET: connect: no such file or directory; " +
			"is runner-guestd.socket active?",
	}, {
		summary: "the broker refuses",
		serve: func(c *wire.Conn, _ brokerapi.WorkerRequest) {
			_ = c.SendFailure(errors.New("cannot start guest: no space left on device"))
		},
		want: "cannot start guest: no space left on device",
	}, {
		summary: "the broker dies",
		serve:   func(*wire.Conn, brokerapi.WorkerRequest) {},
		want:    "cannot go on: the broker ended, and the guest with it; see 'journalctl -u runner-guestd'",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "none")
			if test.serve != nil {
				socket = newBroker(t, test.serve).socket
			}
			r := &Relay{Broker: &brokerapi.Client{Socket: socket}, Input: listener(t, bytes.NewReader(message(1, job)))}
			status, err := r.Run(t.Context())
			if err == nil || strings.ReplaceAll(err.Error(), socket, "SOCKET") != test.want || status != 0 {
				t.Errorf("got status %d, %v; want %s", status, err, test.want)
			}
		})
	}
}
