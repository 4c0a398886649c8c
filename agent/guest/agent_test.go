package guest

import (
	"os"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/internal/run"
)

// TestWatch: a guest has ended when a process has that it needs.
func TestWatch(t *testing.T) {
	process, err := run.Start(t.Context(), run.Cmd{Args: []string{"sleep", "100"}, Kill: true})
	if err != nil {
		t.Fatal(err)
	}
	g := &Guest{cgroup: "/nonexistent", ended: make(chan struct{})}
	if err := g.watch(process.Pid()); err != nil {
		t.Fatal(err)
	}

	select {
	case <-g.Exited():
		t.Fatal("ended before it")
	case <-time.After(20 * time.Millisecond):
	}
	if err := process.Signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	select {
	case <-g.Exited():
	case <-time.After(10 * time.Second):
		t.Error("goes on without it")
	}
}
