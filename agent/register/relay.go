package register

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/mkappliance/mkappliance/agent/config"
)

// relay passes the runner's output on, line by line so that a token cannot
// hide across two writes, without empty lines, and remembers it.
type relay struct {
	to    io.Writer
	token config.Token

	mu      sync.Mutex
	partial []byte
	said    []string
}

// maxSaid bounds what is remembered, maxLine one line.
const (
	maxSaid = 200
	maxLine = 64 << 10
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
		// What begins a token at its end waits for the rest.
		text := r.token.Redact(string(r.partial))
		keep := len(text) - len(r.token.Reveal())
		r.line(text[:keep])
		r.partial = []byte(text[keep:])
	}
	return len(p), nil
}

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
	if len(r.said) < maxSaid {
		r.said = append(r.said, s)
	}
	fmt.Fprintln(r.to, "runner:", s)
}
