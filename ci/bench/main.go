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
	"slices"
	"strconv"
	"syscall"
	"text/tabwriter"
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
	if len(os.Args) != 3 {
		log.Fatal("usage: bench GUEST-BASE RUNNER-AGENT (as root)")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
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

// row is one line of the result.
type row struct {
	what   string
	median time.Duration
	runs   int
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
	if err := b.makeDirs(); err != nil {
		return err
	}

	spareWorker, err := b.withBroker(ctx, true, b.workerStart("with a spare guest"))
	if err != nil {
		return err
	}
	coldWorker, err := b.withBroker(ctx, false, b.workerStart("cold"))
	if err != nil {
		return err
	}
	spare, err := b.withBroker(ctx, true, b.spareStart)
	if err != nil {
		return err
	}
	start, err := b.withBroker(ctx, false, b.starts)
	if err != nil {
		return err
	}
	steps, err := b.withBroker(ctx, false, b.steps)
	if err != nil {
		return err
	}
	podmanStart, podmanSteps, err := b.podman(ctx)
	if err != nil {
		return err
	}
	programs, err := b.programs(ctx)
	if err != nil {
		return err
	}

	print(os.Stdout, "start of a job's worker", slices.Concat(spareWorker, coldWorker))
	print(os.Stdout, "start of a guest", slices.Concat(start, spare, podmanStart))
	print(os.Stdout, "one step that runs /bin/true", slices.Concat(steps, podmanSteps))
	print(os.Stdout, "the program of the hook, which starts with every step, alone", programs)
	return nil
}

// print writes rows with their ratio to the first, which is ours.
func print(w io.Writer, title string, rows []row) {
	fmt.Fprintf(w, "\n%s\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "median\tratio\truns\t  what")
	first := rows[0].median.Seconds()
	for _, r := range rows {
		s := r.median.Seconds()
		fmt.Fprintf(t, "%.2f ms\t%.1fx\t%d\t  %s\n", s*1000, s/first, r.runs, r.what)
	}
	_ = t.Flush()
}

// measure returns the median of n runs.
func measure(what string, n int, do func() (time.Duration, error)) (row, error) {
	var times []time.Duration
	for range n {
		d, err := do()
		if err != nil {
			return row{}, fmt.Errorf("cannot measure %q: %w", what, err)
		}
		times = append(times, d)
	}
	slices.Sort(times)
	return row{what: what, median: times[n/2], runs: n}, nil
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
		os.WriteFile(b.path("runner/bin/Runner.Worker"), []byte(worker), 0o755),
		os.WriteFile(b.path("registration/.runner"), []byte("{}"), 0o644),
		os.Chown(b.path("work"), runnerID, runnerID),
	)
}

// measurement are some rows that need a broker.
type measurement func(context.Context) ([]row, error)

// withBroker measures with a broker of our own, which keeps a spare guest or
// does not.
func (b *bench) withBroker(ctx context.Context, spare bool, measure measurement) ([]row, error) {
	config := b.path("config.env")
	if err := os.WriteFile(config, fmt.Appendf(nil,
		"RUNNER_SPARE_GUEST=%t\nRUNNER_ACTIONS_RUNNER_DIR=%s\n", spare, b.path("registration")), 0o600); err != nil {
		return nil, err
	}
	id := strconv.Itoa(runnerID)
	b.broker = exec.Command(b.agent, "broker", "--socket", b.client.Socket, "--config", config,
		"--base", b.base, "--jobs-dir", b.path("jobs"), "--images-dir", b.path("images"),
		"--work-root", b.path("work"), "--externals", b.path("externals"),
		"--actions-runner", b.path("runner"), "--worker-logs", b.path("worker-logs"), "--runner-uid", id, "--runner-gid", id)
	if err := b.broker.Start(); err != nil {
		return nil, err
	}
	defer b.stop()

	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := b.client.Reset(ctx)
		if err == nil {
			return measure(ctx)
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
}

func (b *bench) stop() {
	_ = b.broker.Process.Signal(syscall.SIGTERM)
	_ = b.broker.Wait()
}
