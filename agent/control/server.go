package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mkappliance/mkappliance/agent/wire"
)

// Handler carries out requests. Its methods return without waiting for a job.
// They may be called at the same time.
type Handler interface {
	Status() Status
	// Drain asks for a drain. The job under way is cancelled after limit, if that
	// is not 0; of several limits the earliest counts.
	Drain(limit time.Duration) (Status, error)
	// Pause asks for a drain that ends by itself, unless there is one.
	Pause() (Status, error)
	Resume() (Status, error)
	// JobEnded notes that the worker has ended, while the listener still waits for
	// the relay in its place. During a drain it returns when the listener will take
	// no more jobs, within HoldTime.
	JobEnded() (Status, error)
}

// HoldTime is how long JobEnded may take.
const HoldTime = 5 * time.Second

// Server answers at the socket of one directory.
type Server struct {
	listener net.Listener
	handler  Handler
	clients  sync.WaitGroup
	slots    chan struct{} // one of each client

	peer func(net.Conn) (uid uint32, err error)
}

// Listen opens the socket in dir. Every user may connect: the status holds no
// secrets. Drain and Resume are for root and the user of this process.
func Listen(dir string, h Handler) (*Server, error) {
	path := filepath.Join(dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot listen for control requests: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for control requests: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen for control requests: %w", err), l.Close())
	}
	return &Server{listener: l, handler: h, slots: make(chan struct{}, maxClients), peer: peerUID}, nil
}

// Serve answers until Close.
func (s *Server) Serve() {
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors, say
			continue
		}

		select {
		case s.slots <- struct{}{}:
		default:
			_ = conn.Close() // a client more than there can be in good faith
			continue
		}
		s.clients.Go(func() {
			defer func() { <-s.slots }()
			defer conn.Close()
			s.answer(conn)
		})
	}
	s.clients.Wait()
}

// Close ends Serve. Requests under way are still answered.
func (s *Server) Close() error { return s.listener.Close() }

// answer serves one client. Errors are the client's to see.
func (s *Server) answer(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(timeout))
	status, err := s.handle(conn)
	a := answer{Status: status}
	if err != nil {
		a = answer{Error: err.Error()}
	}
	_ = json.NewEncoder(conn).Encode(a)
}

func (s *Server) handle(conn net.Conn) (Status, error) {
	line, err := bufio.NewReader(io.LimitReader(conn, maxRequest)).ReadBytes('\n')
	if err != nil {
		return Status{}, fmt.Errorf("cannot read request: want a line of at most %d bytes", maxRequest)
	}
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return Status{}, fmt.Errorf("cannot read request: %w", err)
	}

	switch r.Verb {
	case "status":
		return s.handler.Status(), nil
	case "drain", "pause", "resume", "job-ended":
	default:
		return Status{}, fmt.Errorf("unknown request %.40q", r.Verb)
	}

	uid, err := s.peer(conn)
	if err != nil {
		return Status{}, err
	}
	if uid != 0 && int64(uid) != int64(os.Geteuid()) {
		return Status{}, fmt.Errorf("user %d may not %s; only root may", uid, r.Verb)
	}
	switch r.Verb {
	case "pause":
		return s.handler.Pause()
	case "resume":
		return s.handler.Resume()
	case "job-ended":
		return s.handler.JobEnded()
	}
	if r.TimeoutS < 0 || r.TimeoutS > int64(MaxTimeout/time.Second) {
		return Status{}, fmt.Errorf("a timeout of %d s is not from 0 to %s", r.TimeoutS, MaxTimeout)
	}
	return s.handler.Drain(time.Duration(r.TimeoutS) * time.Second)
}

// MaxTimeout is the longest time that a drain may leave to a job. GitHub ends
// jobs of self-hosted runners after 5 days.
const MaxTimeout = 7 * 24 * time.Hour

func peerUID(conn net.Conn) (uint32, error) {
	cred, err := wire.PeerCredentials(conn)
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
