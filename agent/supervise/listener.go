package supervise

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

// listenerArgs is the argument vector of the listener.
func listenerArgs(cfg *config.Config) []string {
	return []string{filepath.Join(cfg.ActionsRunnerDir, "bin", "Runner.Listener"), "run", "--startuptype", "service"}
}

// listenerEnv is the listener's whole environment, which every hook and every
// step on the host inherits.
func listenerEnv(cfg *config.Config, home string) []string {
	env := []string{
		"PATH=" + layout.Path,
		"HOME=" + home,
		"LANG=C.UTF-8",
		"ACTIONS_RUNNER_CONTAINER_HOOKS=" + filepath.Join(cfg.HooksDir, "container-hooks.sh"),
		// Without it "too old" is status 1, which means many things.
		"ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1",
	}
	if cfg.RequireJobContainer {
		env = append(env, "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER=true")
	}
	return append(env, cfg.Proxy...)
}

// readyText is what the listener prints once it has a session.
const readyText = "Listening for Jobs"

// jobEndText is what the listener prints once a job's worker has ended.
const jobEndText = " completed with result: "

// stopWait is how long the listener may take to cancel its job and go. The
// runner's own wait is 30 s.
const stopWait = 45 * time.Second

// listen runs the listener once, to its end.
func (s *Supervisor) listen(ctx context.Context) (outcome, error) {
	var o outcome
	if ctx.Err() != nil {
		return o, nil
	}
	output, write, err := os.Pipe()
	if err != nil {
		return o, fmt.Errorf("cannot start the listener: %w", err)
	}
	defer output.Close()

	// No context ends it: forwardStop asks it to cancel its job.
	p, err := run.Start(context.Background(), run.Cmd{
		Args: listenerArgs(s.Config),
		Dir:  s.Config.ActionsRunnerDir, Env: listenerEnv(s.Config, s.Home),
		Stdout: write, Stderr: write,
		// A process group of its own: ^C in a terminal is ours to pass on, once.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	})
	_ = write.Close()
	if err != nil {
		return o, fmt.Errorf("cannot start the listener: %w; check RUNNER_ACTIONS_RUNNER_DIR, and that the image has a runner component", err)
	}

	stopped := make(chan struct{})
	go func() { defer close(stopped); s.forwardStop(ctx, p) }()
	read := make(chan struct{})
	go func() { defer close(read); o.said = s.follow(output) }()
	o.status = p.Status()
	<-stopped
	s.drain(output, read)

	_, err = os.Stat(filepath.Join(s.Config.ActionsRunnerDir, ".runner"))
	o.configured = err == nil
	return o, nil
}

// drainWait is how long output may still come from processes the listener
// left behind.
const drainWait = 2 * time.Second

func (s *Supervisor) drain(output io.Closer, read <-chan struct{}) {
	select {
	case <-read:
	case <-time.After(drainWait):
		_ = output.Close() // ends the reader
		<-read
	}
}

// forwardStop passes a stop on as SIGINT, as the runner's own service wrapper
// does: the job under way is cancelled, the session is closed.
func (s *Supervisor) forwardStop(ctx context.Context, p *run.Process) {
	select {
	case <-p.Done():
		return
	case <-ctx.Done():
	}
	s.Notify("STOPPING=1\nSTATUS=stopping the listener")
	s.logf("stopping the listener")
	_ = p.Signal(os.Interrupt) // it may have ended by now
	select {
	case <-p.Done():
	case <-time.After(stopWait):
		s.logf("the listener did not stop within %s; killing it", stopWait)
		_ = syscall.Kill(-p.Pid(), syscall.SIGKILL) // the whole group
	}
}

// follow passes the listener's output on and looks for what it tells.
func (s *Supervisor) follow(output io.Reader) symptoms {
	var said symptoms
	lines := bufio.NewScanner(output)
	lines.Buffer(make([]byte, 0, 4096), 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		s.logf("runner: %s", line)
		said.see(line)
		if strings.Contains(line, jobEndText) {
			// The job may have kept the runner from calling its clean-up.
			s.resetGuests(context.Background())
		}
		if strings.Contains(line, readyText) {
			s.Notify("READY=1\nSTATUS=listening for jobs")
		}
	}
	return said
}
