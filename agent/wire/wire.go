// Package wire is the framing spoken between the hook, the broker and the agent
// inside a guest: a kind, a length of four bytes in network order, and the
// payload. Every read is bounded, because the peer may be hostile.
package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Kind is what a frame carries.
type Kind byte

// The kinds of frames, and their payloads.
const (
	Request Kind = 'q' // JSON; opens a conversation
	Reply   Kind = 'r' // JSON; answers one that has no process
	Failure Kind = 'f' // JSON, an Error; ends a conversation that could not be carried out
	Stdout  Kind = 'o' // bytes the process wrote
	Stderr  Kind = 'e' // the same, to its standard error
	Signal  Kind = 's' // one byte, a signal number for the process
	Stdin   Kind = 'i' // bytes for the process to read; none end its input
	Window  Kind = 'w' // a number of bytes in network order: that much more input may be sent
	Job     Kind = 'j' // JSON; describes the job that the process works on
	Started Kind = 'b' // empty; the process runs
	Exit    Kind = 'x' // one byte, the exit status; ends the conversation
)

// Limits of a frame's payload in bytes. A request carries the environment of a
// step, which the kernel bounds at some MiB; data comes in small pieces.
const (
	MaxRequest = 16 << 20
	MaxData    = 64 << 10
)

const headerSize = 5

// Conn sends and receives frames. Sending is safe for concurrent use.
type Conn struct {
	w     io.Writer
	r     *bufio.Reader
	mu    sync.Mutex
	limit uint32
}

// NewConn speaks over rw and refuses to receive payloads above limit.
func NewConn(rw io.ReadWriter, limit int) *Conn {
	return &Conn{w: rw, r: bufio.NewReaderSize(rw, MaxData+headerSize), limit: uint32(limit)}
}

// Send writes one frame.
func (c *Conn) Send(kind Kind, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	frame := make([]byte, headerSize, headerSize+len(payload))
	frame[0] = byte(kind)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	if _, err := c.w.Write(append(frame, payload...)); err != nil {
		return fmt.Errorf("cannot send: %w", err)
	}
	return nil
}

// SendJSON writes one frame with v as JSON.
func (c *Conn) SendJSON(kind Kind, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot send: %w", err)
	}
	if len(payload) > MaxRequest {
		return fmt.Errorf("cannot send: %d bytes are more than the %d allowed", len(payload), MaxRequest)
	}
	return c.Send(kind, payload)
}

// Receive reads one frame. At the end of the stream, between two frames, the
// error is io.EOF.
func (c *Conn) Receive() (Kind, []byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(c.r, header[:]); err != nil {
		if err == io.EOF {
			return 0, nil, io.EOF
		}
		return 0, nil, fmt.Errorf("cannot receive: %w", err)
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size > c.limit {
		return 0, nil, fmt.Errorf("cannot receive: a frame of %d bytes is more than the %d allowed", size, c.limit)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(c.r, payload); err != nil {
		if err == io.EOF { // not the end between two frames
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, fmt.Errorf("cannot receive: %w", err)
	}
	return Kind(header[0]), payload, nil
}

// Writer returns an io.Writer that sends what is written as frames of one kind.
func (c *Conn) Writer(kind Kind) io.Writer { return &frameWriter{c, kind} }

type frameWriter struct {
	conn *Conn
	kind Kind
}

func (w *frameWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, MaxData)
		if err := w.conn.Send(w.kind, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}
