package run

import (
	"context"
	"sync"
)

// Fake records commands instead of running them. Handle, if set, answers them.
type Fake struct {
	Handle func(ctx context.Context, c Cmd) error

	mu    sync.Mutex
	calls []Cmd
}

// Run implements Runner.
func (f *Fake) Run(ctx context.Context, c Cmd) error {
	f.mu.Lock()
	f.calls = append(f.calls, c)
	f.mu.Unlock()
	if f.Handle == nil {
		return nil
	}
	return f.Handle(ctx, c)
}

// Calls returns the commands seen so far, in order.
func (f *Fake) Calls() []Cmd {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Cmd(nil), f.calls...)
}
