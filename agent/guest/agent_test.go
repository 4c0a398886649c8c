package guest

import (
	"os"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/internal/run"
)

// TestWatchAgent: a guest has ended when its agent has.
func TestWatchAgent(t *testing.T) {
	agent, err := run.Start(t.Context(), run.Cmd{Args: []string{"sleep", "100"}, Kill: true})
	if err != nil {
		t.Fatal(err)
	}
	g := &Guest{leader: agent.Pid(), cgroup: "/nonexistent", ended: make(chan struct{})}
	if err := g.watchAgent(); err != nil {
		t.Fatal(err)
	}

	select {
	case <-g.Exited():
		t.Fatal("ended before its agent")
	case <-time.After(20 * time.Millisecond):
	}
	if err := agent.Signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	select {
	case <-g.Exited():
	case <-time.After(10 * time.Second):
		t.Error("goes on without its agent")
	}
}
