package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// steps measures steps in one booted guest.
func (b *bench) steps(ctx context.Context) ([]row, error) {
	worker, err := b.newWorker()
	if err != nil {
		return nil, err
	}
	if r := worker.PrepareJob(ctx, &miniworker.Container{Image: "runner-base"}, nil); r.Conclusion != miniworker.Success {
		return nil, fmt.Errorf("cannot prepare job: %v", r)
	}
	defer worker.Cleanup(ctx)
	var state struct{ Job string }
	if err := json.Unmarshal(worker.State(), &state); err != nil {
		return nil, fmt.Errorf("cannot read the job's state: %w", err)
	}

	step := func(argv ...string) error {
		status, err := b.client.Exec(ctx, brokerapi.ExecRequest{Job: state.Job, Argv: argv}, noOutput())
		if err == nil && status != 0 {
			err = fmt.Errorf("status %d", status)
		}
		return err
	}
	// The services that still start would be measured too.
	if err := step("sh", "-c", "systemctl is-system-running --wait >/dev/null || true"); err != nil {
		return nil, err
	}
	leader, err := leader(b.broker.Process.Pid)
	if err != nil {
		return nil, err
	}

	var rows []row
	for _, m := range []struct {
		what string
		runs int
		do   func() error
	}{
		{what: "through the broker", runs: 101, do: func() error { return step("/bin/true") }},
		{what: "through hook and broker, as the runner calls it", runs: 51, do: func() error {
			if r := worker.RunScriptArgs(ctx, "true", "/bin/true", "", nil); r.Conclusion != miniworker.Success {
				return fmt.Errorf("%v", r)
			}
			return nil
		}},
		{what: "systemd-run --pipe --wait on the guest's bus, as -M does once machined has found it", runs: 51,
			do: func() error { return silent(systemdRun(ctx, leader)) }},
	} {
		r, err := measure(m.what, m.runs, func() (time.Duration, error) { return clocked(m.do) })
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// newWorker returns a worker that calls the hook as the runner would.
func (b *bench) newWorker() (*miniworker.Worker, error) {
	hook := b.path("hook.sh")
	script := fmt.Sprintf("#!/bin/bash\nexec %q hook %q\n", b.shim(), b.client.Socket)
	if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
		return nil, err
	}
	return miniworker.New(miniworker.Options{Hook: hook, Work: b.path("work"), Root: b.dir})
}

func systemdRun(ctx context.Context, leader int) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "systemd-run", "--quiet", "--collect", "--pipe", "--wait", "/bin/true")
	cmd.Env = append(os.Environ(), fmt.Sprintf("DBUS_SYSTEM_BUS_ADDRESS=x-machine-unix:pid=%d", leader))
	return cmd
}

// leader finds the guest's first process: the child of the broker's child that
// has a process namespace of its own.
func leader(pid int) (int, error) {
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return 0, err
	}
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", queue[0]))
		if err == nil && ns != own {
			return queue[0], nil
		}
		queue = append(queue, children(queue[0])...)
	}
	return 0, errors.New("cannot find the guest's first process")
}

// children returns the child processes of a process; none if it has ended.
func children(pid int) []int {
	var pids []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		for child := range strings.FieldsSeq(string(data)) {
			if n, err := strconv.Atoi(child); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}
