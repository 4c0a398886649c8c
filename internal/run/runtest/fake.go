// Package runtest holds the double of a run.Executor for tests.
package runtest

import (
	"context"
	"sync"

	"github.com/mkappliance/mkappliance/internal/run"
)

// Fake records commands instead of running them. Handle, if set, answers them.
type Fake struct {
	Handle func(ctx context.Context, c run.Cmd) error

	mu    sync.Mutex
	calls []run.Cmd
}

// Exec implements run.Executor.
func (f *Fake) Exec(ctx context.Context, c run.Cmd) error {
	f.mu.Lock()
	f.calls = append(f.calls, c)
	f.mu.Unlock()
	if f.Handle == nil {
		return nil
	}
	return f.Handle(ctx, c)
}

// Calls returns the commands seen so far, in order.
func (f *Fake) Calls() []run.Cmd {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]run.Cmd(nil), f.calls...)
}
