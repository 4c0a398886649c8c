package guest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

// Paths in the guest: the agent, the directory of its socket, and what is to be
// mounted.
const (
	guestAgent  = "/run/runner/runner-shim"
	guestSocket = "/run/runner/host"
	guestShare  = "/run/runner/share"
	socketName  = "agent.sock"
)

// argv is the systemd-nspawn(1) command of the guest.
func (g *Guest) argv() []string {
	argv := []string{
		// The kernel ends a job before anything of the host. A guest would inherit
		// the score of the broker, which it ends last. nspawn's own option for it
		// is applied too late on some kernels, when it may not.
		"choom", "-n", strconv.Itoa(oomScore), "--",
		"systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--settings=no",
		"--directory=" + filepath.Join(g.dir, "root"), "--machine=" + g.spec.ID, "--hostname=" + g.spec.ID,
		// The root's ids are the guest's already, by its id-mapped mount.
		fmt.Sprintf("--private-users=%d:%d", rangeBase(g.idRange), rangeSize), "--private-users-ownership=off",
		// Files of /etc are the tree's; Configure writes what differs.
		"--private-network", "--link-journal=no", "--timezone=off", "--resolv-conf=off", "--console=pipe",
		"--bind-ro=" + escape(g.manager.Agent) + ":" + guestAgent,
		"--bind=" + escape(filepath.Join(g.dir, "socket")) + ":" + guestSocket,
		"--bind=" + escape(filepath.Join(g.dir, "share")) + ":" + guestShare,
		fmt.Sprintf("--rlimit=NOFILE=%d:%d", softFiles, hardFiles),
		// The guest's root cannot make a directory there, where nspawn made the others.
		"--bind-ro=" + escape(filepath.Join(g.dir, "empty")) + ":" + filepath.Dir(layout.WorkerSocket),
	}
	if g.spec.Memlock > 0 {
		argv = append(argv, "--rlimit=MEMLOCK="+rlimit(g.spec.Memlock))
	}
	if pids := g.manager.Limits.Pids; pids > 0 {
		// Also where there is no controller for processes.
		argv = append(argv, fmt.Sprintf("--rlimit=NPROC=%d", pids))
	}
	for _, d := range g.spec.Devices {
		argv = append(argv, "--bind="+escape(d.Source)+":"+escape(d.Target))
	}
	if !g.spec.Boot {
		argv = append(argv, "--as-pid2")
	}

	argv = append(argv, guestAgent, "guest-init")
	if g.spec.Boot {
		argv = append(argv, "-become-init")
	}
	return append(argv, guestSocket+"/"+socketName)
}

// oomScore is the worst that a process of a guest starts with; GitHub's worker
// sets it for its steps, too. See proc_pid_oom_score_adj(5).
const oomScore = 500

// Open files that a process may have. The hard limit is that of Docker's containers;
// the soft one is what programs that close all they might have open still bear, and
// what GitHub's own runners have.
const (
	softFiles = 65536
	hardFiles = 1048576
)

// rlimit returns a value as systemd-nspawn(1) takes it.
func rlimit(n uint64) string {
	if n == math.MaxUint64 {
		return "infinity"
	}
	return strconv.FormatUint(n, 10)
}

// escape protects colons in paths, as systemd-nspawn(1) --bind wants it.
func escape(path string) string { return strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(path) }

// spawn starts nspawn in the guest's cgroup.
func (g *Guest) spawn() error {
	if err := os.Mkdir(g.cgroup, 0o755); err != nil {
		return err
	}
	if err := errors.Join(limitNesting(g.cgroup), g.spec.Limits.set(g.cgroup)); err != nil {
		return err
	}
	dir, err := os.Open(g.cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()

	// The guest lives as long as its owner wants, so no context ends it.
	nspawn, err := run.Start(context.Background(), run.Cmd{
		Args: g.argv(),
		Env: []string{
			"PATH=" + os.Getenv("PATH"),
			// Guests see one cgroup tree, on hosts that still have two as well.
			"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",
			// A memory-backed /tmp has a tenth of the RAM: builds need more.
			"SYSTEMD_NSPAWN_TMPFS_TMP=0",
		},
		Stdout: g.output, Stderr: g.output,
		// The guest's processes have nspawn's output, too, and may outlive it.
		WaitDelay:   outputDelay,
		SysProcAttr: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())},
		// A broker that is killed takes its guests along.
		KillWithParent: true,
	})
	if err != nil {
		return err
	}

	go func() {
		<-nspawn.Done()
		g.markEnded()
		close(g.exited)
	}()
	// A killed nspawn leaves the guest's processes running, and steps waiting for
	// them. Done would notice as well, but waits for the output, which is theirs.
	_ = g.watch(nspawn.Pid())
	return nil
}

// outputDelay is how long to wait for the end of nspawn's output once it has
// ended.
const outputDelay = 50 * time.Millisecond

// waitReady waits until the agent in the guest answers.
func (g *Guest) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, g.manager.ReadyTimeout,
		fmt.Errorf("it was not ready after %v (RUNNER_NSPAWN_READY_TIMEOUT_S)", g.manager.ReadyTimeout))
	defer cancel()

	for {
		if conn, err := g.dial(); err == nil {
			defer conn.Close()
			g.leader, err = peer(conn)
			return err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-g.exited:
			return fmt.Errorf("it ended at once: %s", g.output)
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), g.output)
		}
	}
}
