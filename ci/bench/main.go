// Command bench measures how fast guests start and steps run, natively, beside
// the tools one would otherwise use, in the same run on the same tree. It
// prints medians and ratios and judges nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// runnerID owns the work directory of the measured jobs.
const runnerID = layout.RunnerUID

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if isWorker() {
		if err := asWorker(ctx); err != nil {
			log.Fatal(err)
		}
		os.Exit(succeeded)
	}

	if len(os.Args) != 3 {
		log.Fatal("usage: bench GUEST-BASE RUNNER-AGENT (as root)")
	}
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

// bench is one run: a broker with its directories.
type bench struct {
	base   string // guest base tree
	agent  string // runner-agent; runner-shim lies beside it
	dir    string
	broker *exec.Cmd
	client *brokerapi.Client
}

func run(ctx context.Context, base, agent string) error {
	base, baseErr := filepath.Abs(base)
	agent, agentErr := filepath.Abs(agent)
	dir, err := os.MkdirTemp("", "bench-")
	if err := errors.Join(baseErr, agentErr, err); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{base: base, agent: agent, dir: dir, client: &brokerapi.Client{Socket: filepath.Join(dir, "socket")}}
	// A worker in a guest passes the directories on the way to it.
	if err := errors.Join(os.Chmod(dir, 0o755), b.makeDirs()); err != nil {
		return err
	}

	r, err := b.measureAll(ctx)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	return nil
}

// measureAll measures everything, with a broker of its own for each part.
func (b *bench) measureAll(ctx context.Context) (r results, err error) {
	for _, part := range []struct {
		spare   bool
		measure func(context.Context) error
	}{
		{spare: true, measure: func(ctx context.Context) (err error) {
			r.spareWorker, err = b.workerStart(ctx, "with a spare guest", aimWithSpare)
			return err
		}},
		{spare: false, measure: func(ctx context.Context) (err error) {
			r.coldWorker, err = b.workerStart(ctx, "without one", aimCold)
			return err
		}},
		{spare: true, measure: func(ctx context.Context) (err error) { r.spare, err = b.spareStart(ctx); return err }},
		{spare: false, measure: func(ctx context.Context) (err error) { r.starts, err = b.starts(ctx); return err }},
		{spare: false, measure: func(ctx context.Context) (err error) { r.steps, err = b.steps(ctx); return err }},
		{spare: false, measure: func(ctx context.Context) (err error) { r.inside, err = b.inside(ctx); return err }},
	} {
		if err := b.withBroker(ctx, part.spare, part.measure); err != nil {
			return r, err
		}
	}

	if r.podman, err = b.podman(ctx); err != nil {
		return r, err
	}
	r.programs, err = b.programs(ctx)
	return r, err
}

// clocked times do.
func clocked(do func() error) (time.Duration, error) {
	begin := time.Now()
	err := do()
	return time.Since(begin), err
}

// silent runs a command, whose output is shown only if it fails.
func silent(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// noOutput are the streams of a step whose output nobody reads.
func noOutput() wire.Streams { return wire.Streams{Stdout: io.Discard, Stderr: io.Discard} }

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) makeDirs() error {
	for _, name := range []string{"work", "externals", "runner/bin", "runner/externals", "registration"} {
		if err := os.MkdirAll(b.path(name), 0o755); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(b.path(workerPath), []byte(worker), 0o755),
		os.WriteFile(b.path("registration/.runner"), []byte("{}"), 0o644),
		os.Chown(b.path("work"), runnerID, runnerID),
	)
}

// withBroker measures with a broker of our own, which keeps a spare guest or
// does not.
func (b *bench) withBroker(ctx context.Context, spare bool, measure func(context.Context) error) error {
	config := b.path("config.env")
	if err := os.WriteFile(config, fmt.Appendf(nil,
		"RUNNER_SPARE_GUEST=%t\nRUNNER_ACTIONS_RUNNER_DIR=%s\n", spare, b.path("registration")), 0o600); err != nil {
		return err
	}
	id := strconv.Itoa(runnerID)
	b.broker = exec.Command(b.agent, "broker", "--socket", b.client.Socket, "--config", config,
		"--base", b.base, "--jobs-dir", b.path("jobs"), "--images-dir", b.path("images"),
		"--work-root", b.path("work"), "--externals", b.path("externals"),
		"--actions-runner", b.path("runner"), "--worker-logs", b.path("worker-logs"), "--runner-uid", id, "--runner-gid", id)
	if err := b.broker.Start(); err != nil {
		return err
	}
	defer b.stop()

	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := b.client.Reset(ctx)
		if err == nil {
			return measure(ctx)
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

func (b *bench) stop() {
	_ = b.broker.Process.Signal(syscall.SIGTERM)
	_ = b.broker.Wait()
}
