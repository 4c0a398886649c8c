package broker

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// TestMalformedRequests sends what no client of ours does.
func TestMalformedRequests(t *testing.T) {
	for _, test := range []struct {
		summary string
		send    func(c *wire.Conn) error
		want    string // "" if the broker hangs up
	}{
		{
			summary: "not JSON", send: func(c *wire.Conn) error { return c.Send(wire.Request, []byte("{")) },
			want: "cannot read request: ",
		},
		{
			summary: "no verb", send: func(c *wire.Conn) error { return c.SendJSON(wire.Request, struct{}{}) },
			want: "it names no verb",
		},
		{summary: "another frame", send: func(c *wire.Conn) error { return c.Send(wire.Exit, []byte{0}) }},
		{summary: "a frame above the limit", send: func(c *wire.Conn) error {
			_ = c.Send(wire.Request, make([]byte, wire.MaxRequest+1)) // broken off
			return nil
		}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			l.serve()
			conn, err := net.Dial("unix", l.client.Socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			c := wire.NewConn(conn, wire.MaxRequest)
			if err := test.send(c); err != nil {
				t.Fatal(err)
			}
			kind, payload, err := c.Receive()
			if test.want == "" {
				if err == nil {
					t.Errorf("got %c %s, want the end", kind, payload)
				}
				return
			}
			if err != nil || kind != wire.Failure || !strings.Contains(string(payload), test.want) {
				t.Errorf("got %c %s, %v, want a failure with %q", kind, payload, err, test.want)
			}
		})
	}
}

func TestCheckPeer(t *testing.T) {
	s := &Server{resources: resources{settings: Settings{RunnerUID: os.Getuid() + 1}}}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if err := s.checkPeer(near); err == nil {
		t.Error("a connection without a peer was let in")
	}

	l := newLab(t)
	l.settings.RunnerUID = os.Getuid() + 1
	l.serve()
	if err := l.client.Reset(t.Context()); (err == nil) != (os.Getuid() == 0) {
		t.Errorf("user %d, who is not the runner, got %v", os.Getuid(), err)
	}
}

// brokenListener fails once.
type brokenListener struct{ net.Listener }

func (brokenListener) Accept() (net.Conn, error) { return nil, errors.New("broken") }
func (brokenListener) Close() error              { return nil }

func TestServeFails(t *testing.T) {
	l := newLab(t)
	l.settings.Spare = true
	s := l.newServer()
	err := s.Serve(context.Background(), brokenListener{})
	if err == nil || err.Error() != "cannot accept client: broken" {
		t.Errorf("got %v", err)
	}
	l.checkNothingLeft()
}

// TestServeEnds ends the broker during a step. Nothing may be left; the lab
// checks that.
func TestServeEnds(t *testing.T) {
	l := newLab(t)
	l.settings.Spare = true
	l.guests.onExec = sleeping
	l.serve()
	job := l.prepare(ownContainer()).Job
	go func() {
		r := brokerapi.ExecRequest{Job: job, Argv: []string{"sleep"}}
		_, _ = l.client.Exec(context.Background(), r, wire.Streams{})
	}()
	l.eventually("a guest", func() bool { return len(l.guests.running()) == 1 })
}
