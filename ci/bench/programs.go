package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"time"
)

// shim is the program of the hook.
func (b *bench) shim() string { return filepath.Join(filepath.Dir(b.agent), "runner-shim") }

// programs measures programs that do nothing but start and end: runner-shim
// without arguments prints its usage. The difference to /bin/true is that of the
// Go run time and of the packages' initialisation, which every step pays.
func (b *bench) programs(ctx context.Context) ([]row, error) {
	var rows []row
	for _, m := range []struct {
		what string
		path string
		took func(*exec.Cmd, time.Duration) time.Duration
	}{
		{what: "runner-shim, start to end", path: b.shim(), took: elapsed},
		{what: "runner-shim, processor time", path: b.shim(), took: processorTime},
		{what: "/bin/true, start to end", path: "/bin/true", took: elapsed},
		{what: "/bin/true, processor time", path: "/bin/true", took: processorTime},
	} {
		r, err := measure(m.what, 201, func() (time.Duration, error) {
			cmd := exec.CommandContext(ctx, m.path)
			d, err := clocked(cmd.Run)
			if exit := new(exec.ExitError); errors.As(err, &exit) {
				err = nil // 2, after the usage
			}
			if err != nil {
				return 0, err
			}
			return m.took(cmd, d), nil
		})
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func elapsed(_ *exec.Cmd, d time.Duration) time.Duration { return d }

// processorTime is the time that all processors spent on the process, user and
// system.
func processorTime(cmd *exec.Cmd, _ time.Duration) time.Duration {
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
