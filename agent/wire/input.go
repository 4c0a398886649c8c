package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// InputWindow is how much input may be on its way, in bytes: what the receiver
// of Stdin frames keeps at most. Each Window frame allows the sender as much
// again as the process has read. So the receiver never has to stop receiving
// for a process that does not read, and signals behind the input reach it.
const InputWindow = 256 << 10

// Input is the receiving end of a process's input: Put takes the payloads of
// Stdin frames as they come, Read returns their bytes and lets the peer send as
// much again.
type Input struct {
	conn *Conn

	mu      sync.Mutex
	arrived sync.Cond // on mu: of bytes, or of the end
	bytes   []byte
	window  int   // how many bytes the peer may still send
	ended   bool  // by an empty frame
	err     error // by Close
}

// NewInput returns the input that comes over c.
func NewInput(c *Conn) *Input {
	in := &Input{conn: c, window: InputWindow}
	in.arrived.L = &in.mu
	return in
}

// Put takes the payload of a Stdin frame. It never blocks. A peer that sends
// more than it may, or goes on after the end, is an error.
func (in *Input) Put(payload []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.ended:
		return errors.New("cannot take input: it has ended before")
	case len(payload) > in.window:
		return fmt.Errorf("cannot take input: %d bytes are more than the %d allowed", len(payload), in.window)
	}

	in.window -= len(payload)
	in.bytes = append(in.bytes, payload...)
	in.ended = len(payload) == 0
	in.arrived.Signal()
	return nil
}

// Read waits for input. Its end is io.EOF. One goroutine may read.
func (in *Input) Read(p []byte) (int, error) {
	n, err := in.take(p)
	if n > 0 {
		// A peer that is gone shows where its frames are received.
		_ = in.conn.Send(Window, binary.BigEndian.AppendUint32(nil, uint32(n)))
	}
	return n, err
}

func (in *Input) take(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.bytes) == 0 && !in.ended && in.err == nil {
		in.arrived.Wait()
	}
	switch {
	case in.err != nil:
		return 0, in.err
	case len(in.bytes) == 0:
		return 0, io.EOF
	}

	n := copy(p, in.bytes)
	in.bytes = in.bytes[n:]
	in.window += n
	return n, nil
}

// Close ends reading with io.ErrClosedPipe: nothing more will come.
func (in *Input) Close() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.bytes, in.err = nil, io.ErrClosedPipe
	in.arrived.Signal()
	return nil
}

// outlet is the sending end of a process's input.
type outlet struct {
	conn   *Conn
	ended  <-chan struct{}
	opened chan struct{} // holds one element after a grant

	mu     sync.Mutex
	window int // how many bytes may be sent
}

// newOutlet returns an outlet that sends until ended is closed.
func newOutlet(c *Conn, ended <-chan struct{}) *outlet {
	return &outlet{conn: c, ended: ended, opened: make(chan struct{}, 1), window: InputWindow}
}

// grant takes the payload of a Window frame. No peer may allow more than the
// whole window, or grants would add up without bound.
func (o *outlet) grant(payload []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(payload) != 4 {
		return errors.New("cannot read window: it is not a number of four bytes")
	}
	n := binary.BigEndian.Uint32(payload)
	if n == 0 || uint64(n) > uint64(InputWindow-o.window) {
		return fmt.Errorf("cannot read window: %d more bytes are not what the peer has read", n)
	}

	o.window += int(n)
	select {
	case o.opened <- struct{}{}:
	default:
	}
	return nil
}

// copy sends what it reads, and then the end. One that cannot be sent is not
// reported: receiving fails as well then.
func (o *outlet) copy(r io.Reader) {
	buf := make([]byte, MaxData)
	for {
		size, ok := o.await()
		if !ok {
			return
		}
		n, err := r.Read(buf[:min(size, len(buf))])
		if n > 0 && o.send(buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = o.conn.Send(Stdin, nil)
			return
		}
	}
}

// await returns the window once it is open, or false when the process ended.
func (o *outlet) await() (window int, ok bool) {
	for {
		o.mu.Lock()
		window = o.window
		o.mu.Unlock()
		if window > 0 {
			return window, true
		}

		select {
		case <-o.opened:
		case <-o.ended:
			return 0, false
		}
	}
}

func (o *outlet) send(p []byte) error {
	// Before it is sent: the peer's grant may come back at once.
	o.mu.Lock()
	o.window -= len(p)
	o.mu.Unlock()
	return o.conn.Send(Stdin, p)
}
