// Package tail keeps the end of what a program prints, for messages about its end.
package tail

import (
	"strings"
	"sync"
)

// Buffer keeps the last Limit bytes that are written to it. It is safe for
// concurrent use.
type Buffer struct {
	Limit int // bytes

	mu  sync.Mutex
	buf []byte
}

// Write implements io.Writer. It never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	if over := len(b.buf) - b.Limit; over > 0 {
		// In place, so that a program that prints much does not make the buffer grow.
		b.buf = append(b.buf[:0], b.buf[over:]...)
	}
	return len(p), nil
}

// String returns what is kept, without the white space around it.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.TrimSpace(string(b.buf))
}

// LastLines returns at most the last n lines of String.
func (b *Buffer) LastLines(n int) string {
	lines := strings.Split(b.String(), "\n")
	return strings.TrimSpace(strings.Join(lines[max(0, len(lines)-n):], "\n"))
}
