package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// pause lets what the guest before has left to the kernel come to an end.
const pause = 500 * time.Millisecond

// prepared measures guests from the request to ready, each some time after the
// one before has ended.
func (b *bench) prepared(ctx context.Context, what string, pause time.Duration) (row, error) {
	work := brokerapi.Mount{Target: "/__w", Source: b.path("work")}
	prepare := brokerapi.PrepareRequest{
		Container: &brokerapi.Container{Image: "runner-base", Mounts: []brokerapi.Mount{work}},
	}
	return measure(what, 21, func() (time.Duration, error) {
		time.Sleep(pause)
		var job string
		d, err := clocked(func() error {
			reply, err := b.client.Prepare(ctx, prepare, io.Discard)
			if err == nil {
				job = reply.Job
			}
			return err
		})
		return d, errors.Join(err, b.client.Cleanup(ctx, job))
	})
}

// firstStep measures guests from the request to the end of a step that comes at
// once.
func (b *bench) firstStep(ctx context.Context) (row, error) {
	run := brokerapi.RunRequest{Argv: []string{"/bin/true"}}
	const what = "a command in a guest of its own, cold, from the request until the guest is removed"
	return measure(what, 11, func() (time.Duration, error) {
		time.Sleep(pause)
		return clocked(func() error {
			_, err := b.client.Run(ctx, run, noOutput())
			return err
		})
	})
}

// workerPath is where the broker finds the worker of the actions runner, beneath
// the directory of a run.
const workerPath = "runner/bin/Runner.Worker"

// worker stands for it where its start alone is measured.
const worker = "#!/bin/sh\necho started\nexit 100\n"

// How soon a worker is to start: what the project has set itself.
const (
	aimWithSpare = 50 * time.Millisecond
	aimCold      = 200 * time.Millisecond
)

// workerStart measures workers from the relay's request to their first output.
func (b *bench) workerStart(ctx context.Context, how string, aim time.Duration) (row, error) {
	r, err := measure("from the request to the worker's first output, "+how, 21, func() (time.Duration, error) {
		time.Sleep(time.Second) // for the spare guest
		job := make(chan brokerapi.JobInfo)
		close(job)

		out := &firstOutput{begin: time.Now()}
		status, err := b.client.Worker(ctx, brokerapi.WorkerRequest{}, job, wire.Streams{Stdout: out})
		if err == nil && status != succeeded {
			err = fmt.Errorf("the worker ended with status %d", status)
		}
		return out.after, err
	})
	r.Aim = aim
	return r, err
}

// firstOutput times the first output of a process.
type firstOutput struct {
	begin time.Time
	after time.Duration
}

func (o *firstOutput) Write(p []byte) (int, error) {
	if o.after == 0 {
		o.after = time.Since(o.begin)
	}
	return len(p), nil
}

// spareStart measures jobs for which a guest waits.
func (b *bench) spareStart(ctx context.Context) (row, error) {
	return b.prepared(ctx, "prepare until the guest is ready for steps, with a spare one", time.Second)
}

// starts measures guests from nothing to ready.
func (b *bench) starts(ctx context.Context) ([]row, error) {
	ours, err := b.prepared(ctx, "prepare until the guest is ready for steps, cold", pause)
	if err != nil {
		return nil, err
	}
	first, err := b.firstStep(ctx)
	if err != nil {
		return nil, err
	}

	nspawn := func(more ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "systemd-nspawn", append([]string{"--quiet", "--register=no", "--keep-unit",
			"--private-network", "--link-journal=no", "--ephemeral", "-D", b.base}, more...)...)
		cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
		return cmd
	}
	const plainly = "systemd-nspawn --ephemeral -D BASE /bin/true, no boot, start to end"
	plain, err := measure(plainly, 3, func() (time.Duration, error) { return clocked(nspawn("/bin/true").Run) })
	if err != nil {
		return nil, err
	}
	const booting = "systemd-nspawn --ephemeral -D BASE --boot, start to READY=1"
	booted, err := measure(booting, 3, func() (time.Duration, error) {
		return untilReady(b.path("notify"), nspawn("--boot", "--notify-ready=yes", "--console=pipe"))
	})
	return []row{ours, first, plain, booted}, err
}

// untilReady starts a command and times how long it takes to send READY=1,
// sd_notify(3).
func untilReady(socket string, cmd *exec.Cmd) (time.Duration, error) {
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return 0, err
	}
	defer os.Remove(socket)
	defer l.Close()

	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket)
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		// SIGTERM has nspawn stop its guest in order and remove its copy.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()

	if err := l.SetReadDeadline(begin.Add(2 * time.Minute)); err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for {
		n, _, err := l.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		if slices.Contains(strings.Split(string(buf[:n]), "\n"), "READY=1") {
			return time.Since(begin), nil
		}
	}
}
