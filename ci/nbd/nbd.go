// Package nbd serves one disk to QEMU by the protocol of network block devices,
// fixed newstyle (NetworkBlockDevice/nbd, doc/proto.md), and shows each change of
// it to its owner, in order, flushes too.
package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Kind is what a request does.
type Kind uint8

// The kinds of requests that reach Device.Apply.
const (
	Write Kind = iota + 1
	Zero       // as Write, of zeros
	Trim       // the content is of no more use
	Flush      // makes durable what was answered before
)

// Request is a request that changes the disk, or makes changes durable.
type Request struct {
	Kind           Kind
	Offset, Length int64 // in bytes; 0 of a Flush
	Data           []byte
	// FUA asks for a change that is durable when it is answered.
	FUA bool
	// Answered is the number of requests that had been answered when this one came. A
	// Flush promises those, and none that is still under way.
	Answered int64
}

// Device is the disk that a server offers.
type Device interface {
	io.ReaderAt
	Size() int64 // bytes
	// Apply carries a request out. Requests come one after the other.
	Apply(Request) error
}

// Server serves one device to one client after the other.
type Server struct {
	device   Device
	listener net.Listener
	done     chan struct{} // closed when nothing is served any more
	answered atomic.Int64

	mu     sync.Mutex
	conn   net.Conn // of the client that is served
	closed bool
}

// Serve serves a device at a Unix socket until Close.
func Serve(socket string, device Device) (*Server, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("cannot serve disk: %w", err)
	}
	s := &Server{device: device, listener: listener, done: make(chan struct{})}
	go s.accept()
	return s, nil
}

// Close ends the connection of the client, and waits until no request is under
// way.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	if s.conn != nil {
		_ = s.conn.Close()
	}
	s.mu.Unlock()

	err := s.listener.Close()
	<-s.done
	return err
}

func (s *Server) accept() {
	defer close(s.done)
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		if !s.take(conn) {
			_ = conn.Close()
			return
		}
		_ = s.serve(conn) // the client notices
		_ = conn.Close()
	}
}

// take notes the connection that Close has to end, and reports whether it may be
// served.
func (s *Server) take(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return !s.closed
}

// queue is how many requests are read ahead: as many a disk may have under way.
const queue = 16

// serve negotiates, and then answers requests one by one. They are read ahead, so
// that a flush that comes while a write is under way is known to come too early for
// it.
func (s *Server) serve(conn net.Conn) error {
	in, out := bufio.NewReaderSize(conn, 1<<16), bufio.NewWriterSize(conn, 1<<16)
	ok, err := negotiate(in, out, s.device.Size())
	if err != nil || !ok {
		return err
	}

	requests := make(chan call, queue)
	stop := make(chan struct{})
	defer close(stop)
	failed := make(chan error, 1)
	go func() {
		defer close(requests)
		failed <- s.receive(in, requests, stop)
	}()

	for c := range requests {
		if err := s.answer(out, c); err != nil {
			return err
		}
	}
	return <-failed
}

// call is a request as it comes.
type call struct {
	Request
	read   bool // not a change
	errno  uint32
	handle uint64
}

// receive reads requests until the client ends.
func (s *Server) receive(in io.Reader, requests chan<- call, stop <-chan struct{}) error {
	for {
		c, err := readCall(in, s.device.Size())
		if errors.Is(err, errDisconnect) {
			return nil
		}
		if err != nil {
			return err
		}
		c.Answered = s.answered.Load()
		select {
		case requests <- c:
		case <-stop:
			return nil
		}
	}
}

// answer carries a request out and replies.
func (s *Server) answer(out *bufio.Writer, c call) error {
	var data []byte
	switch {
	case c.errno != 0:
	case c.read:
		data = make([]byte, c.Length)
		if _, err := s.device.ReadAt(data, c.Offset); err != nil {
			c.errno, data = errnoIO, nil
		}
	default:
		if err := s.device.Apply(c.Request); err != nil {
			c.errno = errnoIO
		}
		// From here on the client may know of it.
		s.answered.Add(1)
	}

	if err := writeAll(out, uint32(magicReply), c.errno, c.handle, data); err != nil {
		return err
	}
	return out.Flush()
}

// writeAll writes values in network byte order.
func writeAll(w io.Writer, values ...any) error {
	for _, value := range values {
		if err := binary.Write(w, binary.BigEndian, value); err != nil {
			return err
		}
	}
	return nil
}
