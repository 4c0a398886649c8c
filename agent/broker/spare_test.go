package broker

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/mkappliance/mkappliance/agent/guest"
)

// newPool returns a pool of the guest base "/base", with a spare guest.
func newPool(guests *fakeGuests) *sparePool {
	p := &sparePool{guests: guests, base: "/base", enabled: true, log: slog.New(slog.DiscardHandler)}
	p.refill()
	return p
}

// awaitSpare waits until the spare guest has started, or failed to.
func awaitSpare(p *sparePool) {
	p.mu.Lock()
	next := p.next
	p.mu.Unlock()
	<-next.done
}

func TestSpare(t *testing.T) {
	for _, test := range []struct {
		summary string
		spec    guest.Spec
		before  func(p *sparePool) // what happens to the spare guest
		spare   bool               // whether it is handed out
		left    int                // guests that run then: it, the one handed out, or both
	}{
		{summary: "hit", spec: guest.Spec{Tree: "/base"}, spare: true, left: 1},
		{summary: "another tree", spec: guest.Spec{Tree: "/other"}, left: 2},
		{summary: "devices", spec: guest.Spec{Tree: "/base", Devices: []guest.Device{{Source: "/dev/kvm"}}}, left: 2},
		{summary: "limits", spec: guest.Spec{Tree: "/base", Limits: guest.Limits{Pids: 1}}, left: 2},
		{summary: "dead", spec: guest.Spec{Tree: "/base"}, before: func(p *sparePool) {
			p.next.guest.Kill()
		}, left: 1},
		{summary: "taken", spec: guest.Spec{Tree: "/base"}, before: func(p *sparePool) {
			_, _ = p.start(context.Background(), guest.Spec{Tree: "/base"})
		}, left: 2},
	} {
		t.Run(test.summary, func(t *testing.T) {
			guests := &fakeGuests{}
			p := newPool(guests)
			awaitSpare(p)
			if test.before != nil {
				test.before(p)
			}

			g, err := p.start(t.Context(), test.spec)
			if err != nil {
				t.Fatal(err)
			}
			if spare := g == Guest(guests.all()[0]); spare != test.spare {
				t.Errorf("the spare guest was handed out: %v, want %v", spare, test.spare)
			}
			if running := len(guests.running()); running != test.left {
				t.Errorf("%d guests run, want %d", running, test.left)
			}
			if !test.spare && g.ID() != test.spec.ID {
				t.Errorf("started %s, want what was asked for", g.ID())
			}
		})
	}
}

// TestSpareFails has no spare guest, which a job must not notice.
func TestSpareFails(t *testing.T) {
	guests := &fakeGuests{onStart: func(context.Context, guest.Spec) error { return errors.New("broken") }}
	p := newPool(guests)
	awaitSpare(p)
	guests.onStart = nil
	if _, err := p.start(t.Context(), guest.Spec{Tree: "/base"}); err != nil {
		t.Error(err)
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
}

// TestSpareCancel ends a request that waits for the spare guest, which is kept
// for the next one.
func TestSpareCancel(t *testing.T) {
	for _, test := range []struct {
		summary  string
		refilled bool // there is another spare guest by then
		closed   bool // the broker has ended
		left     int
	}{
		{summary: "kept", left: 1},
		{summary: "one too many", refilled: true, left: 1},
		{summary: "the broker ended", closed: true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			waits, start := make(chan struct{}), make(chan struct{})
			guests := &fakeGuests{onStart: func(context.Context, guest.Spec) error {
				<-start
				return nil
			}}
			p := newPool(guests)
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error)
			go func() {
				close(waits)
				_, err := p.start(ctx, guest.Spec{Tree: "/base"})
				result <- err
			}()
			<-waits
			l := &lab{T: t}
			l.eventually("a request that waits", func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.next == nil
			})
			if test.refilled {
				p.refill()
			}
			if test.closed {
				_ = p.close()
			}
			cancel()
			if err := <-result; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}

			close(start)
			started := 1
			if test.refilled {
				started++
			}
			l.eventually("the spare guest", func() bool {
				return len(guests.all()) == started && len(guests.running()) == test.left
			})
			if err := p.close(); err != nil {
				t.Error(err)
			}
			l.eventually("the end of all", func() bool { return len(guests.running()) == 0 })
		})
	}
}

func TestSpareDisabledOrClosed(t *testing.T) {
	guests := &fakeGuests{}
	p := &sparePool{guests: guests, base: "/base"}
	p.refill()
	if p.next != nil {
		t.Error("a disabled pool starts a guest")
	}

	p = newPool(guests)
	p.refill() // there is one already
	awaitSpare(p)
	if err := p.close(); err != nil {
		t.Error(err)
	}
	p.refill()
	if p.next != nil || len(guests.all()) != 1 || len(guests.running()) != 0 {
		t.Errorf("%d guests were started and %d run, want one that was stopped", len(guests.all()), len(guests.running()))
	}
}

// TestSpareOfJobs follows the spare guest through two jobs and the broker's end.
func TestSpareOfJobs(t *testing.T) {
	l := newLab(t)
	l.settings.Spare = true
	s := l.serve()
	count := func(n int) func() bool { return func() bool { return len(l.guests.all()) == n } }

	l.eventually("a spare guest", count(1))
	job := l.prepare(ownContainer()).Job
	if n := len(l.guests.all()); n != 1 {
		t.Errorf("%d guests were started for the first job, want the spare one alone", n)
	}
	if config, _ := l.guests.all()[0].configured(); config.Hostname != l.guests.all()[0].ID() {
		t.Errorf("the spare guest is configured with %+v", config)
	}
	if _, err := l.exec(job, "true"); err != nil {
		t.Error(err)
	}
	if err := l.client.Cleanup(t.Context(), job); err != nil {
		t.Error(err)
	}
	l.eventually("another spare guest", count(2))

	// The broker ends with a job and without a spare guest: no other is started.
	l.prepare(ownContainer())
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if n := len(l.guests.all()); n != 2 {
		t.Errorf("%d guests were started, want 2", n)
	}
}

func TestBakedRoot(t *testing.T) {
	l := newLab(t)
	if root := newBakedRoot(l.settings.Base); !root.hasInit {
		t.Error("a tree with sbin/init does not boot")
	}
	if err := os.Remove(filepath.Join(l.settings.Base, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	if root := newBakedRoot(l.settings.Base); root.hasInit {
		t.Error("a tree without sbin/init boots")
	}
}
