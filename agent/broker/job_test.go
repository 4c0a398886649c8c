package broker

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// TestContainerAfterCleanup has a container step that found its job before a
// cleanup, and starts its guest after it.
func TestContainerAfterCleanup(t *testing.T) {
	l := newLab(t)
	s := l.serve()
	id := l.prepare(brokerapi.PrepareRequest{Container: &brokerapi.Container{Image: base}}).Job
	j := s.findJob(id)
	if err := l.client.Cleanup(t.Context(), id); err != nil {
		t.Fatal(err)
	}

	m := &member{root: s.baseRoot()}
	if _, err := j.runMember(t.Context(), m, []string{"true"}, wire.Streams{}); err == nil {
		t.Error("a step ran in a job that has ended")
	}
	if err := j.launch(t.Context(), m); !errors.Is(err, errEnded) {
		t.Errorf("got %v, want %v", err, errEnded)
	}
	if started := len(l.guests.all()); started != 1 {
		t.Errorf("%d guests were started, want the job's own", started)
	}
}

// TestContainerDuringCleanup runs container steps in a job's network while the
// job is ended. Without a lock around what they share, -race reports it.
func TestContainerDuringCleanup(t *testing.T) {
	l := newLab(t)
	l.networks.onClose = func() { time.Sleep(5 * time.Millisecond) }
	s := l.serve()
	for range 20 {
		id := l.prepare(brokerapi.PrepareRequest{Container: &brokerapi.Container{Image: base}}).Job
		j := s.findJob(id)
		cleaned := make(chan struct{})
		var calls sync.WaitGroup
		calls.Go(func() {
			defer close(cleaned)
			if err := l.client.Cleanup(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
		for range 3 {
			calls.Go(func() {
				for running := true; running; {
					select {
					case <-cleaned:
						running = false
					default:
					}
					m := &member{root: s.baseRoot()}
					_, _ = j.runMember(t.Context(), m, []string{"true"}, wire.Streams{})
				}
			})
		}
		calls.Wait()
	}
}
