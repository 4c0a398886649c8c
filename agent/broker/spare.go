package broker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/mkappliance/mkappliance/agent/guest"
)

// sparePool starts guests. If it is enabled it keeps one of the guest base
// started, the spare guest, and hands that out first.
type sparePool struct {
	guests  Guests
	base    string // directory of the guest base
	enabled bool
	log     *slog.Logger

	mu     sync.Mutex
	next   *pendingGuest // nil if there is none
	closed bool
}

// pendingGuest is a guest that starts.
type pendingGuest struct {
	done  chan struct{} // closed once guest and err are set
	guest Guest
	err   error
}

// refill begins to start a spare guest, unless there is one.
func (p *sparePool) refill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.enabled || p.closed || p.next != nil {
		return
	}

	next := &pendingGuest{done: make(chan struct{})}
	p.next = next
	spec := guest.Spec{ID: newMachineName(), Tree: p.base, Boot: newBakedRoot(p.base).hasInit}
	go func() {
		defer close(next.done)
		// No request waits for it, so nothing but its own time limit ends it.
		if next.guest, next.err = p.guests.Start(context.Background(), spec); next.err != nil {
			p.log.Warn("no spare guest", "error", next.err)
		}
	}()
}

// start returns the spare guest if it is what spec asks for, or starts a guest.
func (p *sparePool) start(ctx context.Context, spec guest.Spec) (Guest, error) {
	if spec.Tree == p.base && len(spec.Devices) == 0 && spec.Memlock == 0 && spec.Limits == (guest.Limits{}) {
		if g, err := p.take(ctx); g != nil || err != nil {
			return g, err
		}
	}
	return p.guests.Start(ctx, spec)
}

// take returns the spare guest once it has started, or nil if there is none. The
// error is that of ctx.
func (p *sparePool) take(ctx context.Context) (Guest, error) {
	p.mu.Lock()
	next := p.next
	p.next = nil
	p.mu.Unlock()
	if next == nil {
		return nil, nil
	}

	select {
	case <-next.done:
	case <-ctx.Done():
		p.putBack(next)
		return nil, fmt.Errorf("cannot start guest: %w", context.Cause(ctx))
	}
	if next.err != nil {
		return nil, nil
	}

	select {
	case <-next.guest.Exited():
		p.log.Warn("spare guest ended by itself")
		if err := next.guest.Stop(); err != nil {
			p.log.Warn("cannot remove spare guest", "error", err)
		}
		return nil, nil
	default:
		return next.guest, nil
	}
}

// putBack keeps a guest for the next job, for which nobody waits any more.
func (p *sparePool) putBack(g *pendingGuest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == nil && !p.closed {
		p.next = g
		return
	}

	// There is another one by now.
	go func() {
		if <-g.done; g.err != nil {
			return
		}
		if err := g.guest.Stop(); err != nil {
			p.log.Warn("cannot remove spare guest", "error", err)
		}
	}()
}

// close stops the spare guest, if there is one, and starts no other.
func (p *sparePool) close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()

	g, err := p.take(context.Background())
	if g == nil {
		return err
	}
	return g.Stop()
}
