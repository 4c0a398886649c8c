package broker

import (
	"context"
	"slices"
	"sync"

	"github.com/mkappliance/mkappliance/agent/wire"
)

// outputLog keeps what a container's process has printed, as far as limit allows:
// the oldest goes first. Its zero value with a limit is ready.
type outputLog struct {
	limit int // bytes of memory

	mu      sync.Mutex
	chunks  []chunk
	size    int           // of all chunks with what each costs, in bytes
	first   int           // how many chunks were dropped before chunks[0]
	ended   bool          // nothing more is written
	changed chan struct{} // closed at the next change; nil while nobody waits
}

type chunk struct {
	kind wire.Kind // Stdout or Stderr
	data []byte
}

// chunkCost is what a chunk takes besides its data: a process may print single bytes.
const chunkCost = 64

// logWriter writes one stream of an outputLog.
type logWriter struct {
	log  *outputLog
	kind wire.Kind
}

func (l *outputLog) writer(kind wire.Kind) logWriter { return logWriter{l, kind} }

// Write implements io.Writer. It never fails.
func (w logWriter) Write(p []byte) (int, error) {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chunks = append(l.chunks, chunk{w.kind, slices.Clone(p)})
	l.size += len(p) + chunkCost
	for l.size > l.limit && len(l.chunks) > 1 {
		l.size -= len(l.chunks[0].data) + chunkCost
		l.chunks = l.chunks[1:]
		l.first++
	}
	l.wake()
	return len(p), nil
}

// end says that nothing more is written.
func (l *outputLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.wake()
}

// wake wakes those who wait. The caller holds mu.
func (l *outputLog) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// copy sends what is there, in the order it was written, and with follow also what
// comes, until the end or that of ctx.
func (l *outputLog) copy(ctx context.Context, follow bool, send func(kind wire.Kind, data []byte) error) error {
	next := 0 // number of the chunk to send, counted from the first ever
	for {
		l.mu.Lock()
		next = max(next, l.first)
		chunks := slices.Clone(l.chunks[next-l.first:])
		over := l.ended || !follow
		if len(chunks) == 0 && !over && l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()

		for _, c := range chunks {
			if err := send(c.kind, c.data); err != nil {
				return err
			}
		}
		next += len(chunks)
		switch {
		case len(chunks) > 0 && follow:
			continue
		case over:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
