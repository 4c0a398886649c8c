package register

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/mkappliance/mkappliance/agent/config"
)

// relay writes the actions runner's output on and keeps its beginning. It works
// by lines, so that a token cannot hide across two writes, and drops empty ones.
type relay struct {
	to    io.Writer
	token config.Token

	mu      sync.Mutex
	partial []byte
	output  []string // at most maxOutput lines
}

const (
	maxOutput = 200      // lines that are kept
	maxLine   = 64 << 10 // bytes of a line before it is broken
)

// Write implements io.Writer. Standard output and error come from two
// goroutines.
func (r *relay) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()

	r.partial = append(r.partial, p...)
	for {
		i := bytes.IndexByte(r.partial, '\n')
		if i < 0 {
			break
		}
		r.line(string(r.partial[:i]))
		r.partial = r.partial[i+1:]
	}

	if len(r.partial) >= maxLine {
		// The end may be the beginning of a token: it waits for the rest.
		text := r.token.Redact(string(r.partial))
		keep := len(text) - len(r.token.Reveal())
		r.line(text[:keep])
		r.partial = []byte(text[keep:])
	}
	return len(p), nil
}

// flush writes the last line, which has no line feed.
func (r *relay) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line(string(r.partial))
	r.partial = nil
}

func (r *relay) line(s string) {
	s = strings.TrimSpace(r.token.Redact(s))
	if s == "" {
		return
	}
	if len(r.output) < maxOutput {
		r.output = append(r.output, s)
	}
	fmt.Fprintln(r.to, "runner:", s)
}
