package relay

import (
	"io"
	"sync"
)

// maxSpool is more than the largest message has, in bytes. The listener kills
// the worker if a message is not taken from the pipe within 30 s, also
// while its guest starts slowly.
const maxSpool = 64 << 20

// spool keeps what the listener sends until the guest takes it. Writing waits
// only while it is full, so that the end of the pipe is noticed at once.
type spool struct {
	mu      sync.Mutex
	changed sync.Cond // on mu
	bytes   []byte
	closed  bool
}

func newSpool() *spool {
	s := &spool{}
	s.changed.L = &s.mu
	return s
}

func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.bytes)+len(p) > maxSpool && !s.closed {
		s.changed.Wait()
	}
	if s.closed {
		return 0, io.ErrClosedPipe
	}

	s.bytes = append(s.bytes, p...)
	s.changed.Broadcast()
	return len(p), nil
}

func (s *spool) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.bytes) == 0 && !s.closed {
		s.changed.Wait()
	}
	if s.closed {
		return 0, io.ErrClosedPipe
	}

	n := copy(p, s.bytes)
	s.bytes = s.bytes[n:]
	if len(s.bytes) == 0 {
		s.bytes = nil // it held secrets, and is rarely needed again
	}
	s.changed.Broadcast()
	return n, nil
}

// Close ends reading and writing.
func (s *spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes, s.closed = nil, true
	s.changed.Broadcast()
	return nil
}
