// Command bench measures how fast guests start and steps run, natively, beside
// the tools one would otherwise use, in the same run on the same tree. It
// prints medians and ratios and judges nothing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// runnerID owns the work directory of the measured jobs.
const runnerID = 900

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
	base, agent, dir string
	broker           *exec.Cmd
	client           *brokerapi.Client
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
	start, steps = slices.Concat(start, spare, podmanStart), append(steps, podmanSteps...)
	print(os.Stdout, "start of a guest", start)
	print(os.Stdout, "one step that runs /bin/true", steps)
	return nil
}

// print shows rows with their ratio to the first, which is ours.
func print(w io.Writer, title string, rows []row) {
	fmt.Fprintf(w, "\n%s\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "median\tratio\truns\t  what")
	for _, r := range rows {
		fmt.Fprintf(t, "%.1f ms\t%.1fx\t%d\t  %s\n", r.median.Seconds()*1000, r.median.Seconds()/rows[0].median.Seconds(),
			r.runs, r.what)
	}
	_ = t.Flush()
}

// measure gives the median of n runs.
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

func (b *bench) makeDirs() error {
	for _, d := range []string{"work", "externals"} {
		if err := os.Mkdir(filepath.Join(b.dir, d), 0o755); err != nil {
			return err
		}
	}
	return os.Chown(filepath.Join(b.dir, "work"), runnerID, runnerID)
}

// withBroker measures with a broker of our own, which keeps a spare guest or
// does not.
func (b *bench) withBroker(ctx context.Context, spare bool, measure func(context.Context) ([]row, error)) ([]row,
	error) {
	config := filepath.Join(b.dir, "config.env")
	if err := os.WriteFile(config, fmt.Appendf(nil, "RUNNER_SPARE_GUEST=%t\n", spare), 0o600); err != nil {
		return nil, err
	}
	b.broker = exec.Command(b.agent, "broker", "--socket", b.client.Socket, "--config", config,
		"--base", b.base, "--jobs-dir", filepath.Join(b.dir, "jobs"), "--images-dir", filepath.Join(b.dir, "images"),
		"--work-root", filepath.Join(b.dir, "work"),
		"--externals", filepath.Join(b.dir, "externals"), "--runner-uid", strconv.Itoa(runnerID), "--runner-gid",
		strconv.Itoa(runnerID))
	if err := b.broker.Start(); err != nil {
		return nil, err
	}
	defer b.stop()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := b.client.Reset(ctx); err == nil {
			return measure(ctx)
		} else if time.Now().After(deadline) {
			return nil, err
		}
	}
}

func (b *bench) stop() {
	_ = b.broker.Process.Signal(syscall.SIGTERM)
	_ = b.broker.Wait()
}

// prepared measures guests from the request to ready, each some time after the
// one before has ended.
func (b *bench) prepared(ctx context.Context, what string, pause time.Duration) (row, error) {
	prepare := brokerapi.PrepareRequest{Container: &brokerapi.Container{Image: "runner-base",
		Mounts: []brokerapi.Mount{{Target: "/__w", Source: filepath.Join(b.dir, "work")}}}}
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
	return measure("a command in a guest of its own, cold, from the request until nothing is left", 11,
		func() (time.Duration, error) {
			time.Sleep(500 * time.Millisecond)
			return clocked(func() error {
				_, err := b.client.Run(ctx, run, wire.Streams{Stdout: io.Discard, Stderr: io.Discard})
				return err
			})
		})
}

// spareStart measures jobs for which a guest waits.
func (b *bench) spareStart(ctx context.Context) ([]row, error) {
	r, err := b.prepared(ctx, "prepare until the guest takes steps, with a spare one", time.Second)
	return []row{r}, err
}

// starts measures guests from nothing to ready.
func (b *bench) starts(ctx context.Context) ([]row, error) {
	ours, err := b.prepared(ctx, "prepare until the guest takes steps, cold", 500*time.Millisecond)
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
	plain, err := measure("systemd-nspawn --ephemeral -D BASE /bin/true, no boot, start to end", 3,
		func() (time.Duration, error) {
			return clocked(nspawn("/bin/true").Run)
		})
	if err != nil {
		return nil, err
	}
	booted, err := measure("systemd-nspawn --ephemeral -D BASE --boot, start to READY=1", 3,
		func() (time.Duration, error) {
			return untilReady(filepath.Join(b.dir, "notify"), nspawn("--boot", "--notify-ready=yes", "--console=pipe"))
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
		// SIGTERM has nspawn end its guest in order and remove its copy.
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

// steps measures steps in one booted guest.
func (b *bench) steps(ctx context.Context) ([]row, error) {
	work := filepath.Join(b.dir, "work")
	hook := filepath.Join(b.dir, "hook.sh")
	script := fmt.Sprintf("#!/bin/bash\nexec %q hook %q\n", filepath.Join(filepath.Dir(b.agent), "runner-shim"),
		b.client.Socket)
	if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
		return nil, err
	}
	worker, err := miniworker.New(miniworker.Options{Hook: hook, Work: work, Root: b.dir})
	if err != nil {
		return nil, err
	}
	if r := worker.PrepareJob(ctx, &miniworker.Container{Image: "runner-base"}, nil); r.Conclusion != miniworker.Success {
		return nil, fmt.Errorf("cannot prepare job: %v", r)
	}
	defer worker.Cleanup(ctx)
	var state struct{ Job string }
	if err := unmarshalState(worker, &state); err != nil {
		return nil, err
	}
	none := wire.Streams{Stdout: io.Discard, Stderr: io.Discard}
	step := func(argv ...string) error {
		status, err := b.client.Exec(ctx, brokerapi.ExecRequest{Job: state.Job, Argv: argv}, none)
		if err == nil && status != 0 {
			err = fmt.Errorf("status %d", status)
		}
		return err
	}
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
		n    int
		do   func() error
	}{
		{"through the broker", 101, func() error { return step("/bin/true") }},
		{"through hook and broker, as the runner calls it", 51, func() error {
			if r := worker.RunScriptArgs(ctx, "true", "/bin/true", "", nil); r.Conclusion != miniworker.Success {
				return fmt.Errorf("%v", r)
			}
			return nil
		}},
		{"systemd-run --pipe --wait on the guest's bus, as -M does once machined has found it", 51, func() error {
			cmd := exec.CommandContext(ctx, "systemd-run", "--quiet", "--collect", "--pipe", "--wait", "/bin/true")
			cmd.Env = append(os.Environ(), fmt.Sprintf("DBUS_SYSTEM_BUS_ADDRESS=x-machine-unix:pid=%d", leader))
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		}},
	} {
		r, err := measure(m.what, m.n, func() (time.Duration, error) { return clocked(m.do) })
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// leader finds the guest's first process: the child of the broker's child that
// has a process name space of its own.
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
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", queue[0]))
		for _, task := range tasks {
			data, _ := os.ReadFile(task)
			for child := range strings.FieldsSeq(string(data)) {
				if n, err := strconv.Atoi(child); err == nil {
					queue = append(queue, n)
				}
			}
		}
	}
	return 0, errors.New("cannot find the guest's first process")
}

// unmarshalState reads what prepare_job left for the steps.
func unmarshalState(w *miniworker.Worker, state any) error {
	if err := json.Unmarshal(w.State(), state); err != nil {
		return fmt.Errorf("cannot read the job's state: %w", err)
	}
	return nil
}
