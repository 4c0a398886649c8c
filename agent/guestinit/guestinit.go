// Package guestinit is the agent inside a guest: it starts the processes of
// steps on request of the broker, streams their output and ends their whole
// tree when the broker hangs up.
package guestinit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// Server answers requests on a socket.
type Server struct {
	// Cgroup is a cgroup2 directory in which each process gets a cgroup of its
	// own; empty if there is none that can be written.
	Cgroup string
	// AwaitInit is set where an init system starts beside the agent. The first
	// process waits until it is ready, which the runner leaves it time for; of a
	// worker the input waits.
	AwaitInit bool

	booted    sync.Once
	discarded atomic.Int32 // pipes that are read for nobody
	mu        sync.Mutex
	processes int // started so far, for the names of their cgroups
}

// Serve answers requests until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot accept request: %w", err)
		}
		go s.handle(conn)
	}
}

func (s *Server) handle(conn net.Conn) {
	defer conn.Close()
	c := wire.NewConn(conn, wire.MaxRequest)
	kind, payload, err := c.Receive()
	if err != nil || kind != wire.Request {
		return // a broker that only checked whether the agent is ready
	}

	var request guestapi.Request
	if err := json.Unmarshal(payload, &request); err != nil {
		_ = c.SendFailure(fmt.Errorf("cannot read request: %w", err))
		return
	}
	if err := s.answer(c, request); err != nil {
		_ = c.SendFailure(err)
	}
}

func (s *Server) answer(c *wire.Conn, r guestapi.Request) error {
	switch {
	case r.Exec != nil:
		if !r.Exec.InputFD { // else the input waits
			s.awaitBoot()
		}
		return s.run(c, *r.Exec)
	case r.Configure != nil:
		if err := configure(*r.Configure); err != nil {
			return err
		}
		return c.SendJSON(wire.Reply, struct{}{})
	}
	return errors.New("cannot read request: it asks for nothing")
}

// awaitBoot waits until the init system can be reached, if there is one.
func (s *Server) awaitBoot() {
	if s.AwaitInit {
		s.booted.Do(awaitInit)
	}
}

// OwnCgroup finds the caller's cgroup2 directory, cgroups(7), if it may make
// cgroups there; otherwise it is empty.
func OwnCgroup() string {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			dir := filepath.Join("/sys/fs/cgroup", path)
			if unix.Access(dir, unix.W_OK) == nil {
				return dir
			}
		}
	}
	return ""
}
