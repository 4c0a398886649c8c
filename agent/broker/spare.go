package broker

import (
	"context"
	"sync"

	"github.com/mkappliance/mkappliance/agent/guest"
)

// spare keeps a guest of the base tree started, for a container to come.
type spare struct {
	mu   sync.Mutex
	next *pending
}

// pending is a guest that starts.
type pending struct {
	done  chan struct{} // closed once guest and err are set
	guest Guest
	err   error
}

// startSpare begins to start a guest, if there is to be one and is none.
func (s *Server) startSpare() {
	s.spare.mu.Lock()
	defer s.spare.mu.Unlock()
	if !s.settings.Spare || s.spare.next != nil {
		return
	}
	p := &pending{done: make(chan struct{})}
	s.spare.next = p
	go func() {
		defer close(p.done)
		// Nobody waits for it, so nothing but its own time limit ends it.
		if p.guest, p.err = s.parts.Guests.Start(context.Background(), s.spareSpec()); p.err != nil {
			s.log.Warn("no spare guest", "error", p.err)
		}
	}()
}

func (s *Server) spareSpec() guest.Spec {
	base := s.baseRoot()
	return guest.Spec{ID: machineName(newID()), Tree: base.tree, Boot: base.hasInit}
}

// takeGuest gives the spare guest if it is what spec wants, or starts one.
func (s *Server) takeGuest(ctx context.Context, spec guest.Spec) (Guest, error) {
	if spec.Tree == s.settings.Base && len(spec.Devices) == 0 && spec.Limits == (guest.Limits{}) {
		if g := s.takeSpare(); g != nil {
			return g, nil
		}
	}
	return s.parts.Guests.Start(ctx, spec)
}

// takeSpare gives the spare guest, once it has started; nil if there is none.
func (s *Server) takeSpare() Guest {
	s.spare.mu.Lock()
	p := s.spare.next
	s.spare.next = nil
	s.spare.mu.Unlock()
	if p == nil {
		return nil
	}
	<-p.done
	if p.guest == nil {
		return nil
	}
	select {
	case <-p.guest.Exited():
		if err := p.guest.Stop(); err != nil {
			s.log.Warn("spare guest ended by itself", "error", err)
		}
		return nil
	default:
		return p.guest
	}
}

// endSpare ends the spare guest, if there is one.
func (s *Server) endSpare() error {
	if g := s.takeSpare(); g != nil {
		return g.Stop()
	}
	return nil
}
