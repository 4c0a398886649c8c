package supervise

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

// listenerArgs returns the argument vector of the listener.
func listenerArgs(cfg *config.Config) []string {
	return []string{filepath.Join(cfg.ActionsRunnerDir, "bin", "Runner.Listener"), "run", "--startuptype", "service"}
}

// listenerEnv returns the listener's whole environment. Every hook and every
// step on the host inherits it, so the token is not in it.
func listenerEnv(cfg *config.Config, home string) []string {
	env := []string{
		"PATH=" + layout.Path,
		"HOME=" + home,
		"LANG=C.UTF-8",
		"ACTIONS_RUNNER_CONTAINER_HOOKS=" + filepath.Join(cfg.HooksDir, "container-hooks.sh"),
		// Without it "too old" is status 1, which means many things.
		"ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1",
		// Hexadecimal. .NET starts with a thread a processor and adds them slowly: with
		// two, each job with a container waits 0.9 s for a thread to write to the hook.
		"DOTNET_ThreadPool_ForceMinWorkerThreads=10",
		"RUNNER_JOBS=" + string(cfg.Jobs), // for the program in the place of the worker
	}
	if cfg.Jobs == config.JobsContainer {
		env = append(env, "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER=true")
	}
	return slices.Concat(env, cfg.CACerts.Environ(), cfg.Proxy)
}

// Lines of the listener that mark an event. The name of a job stands in two of
// them and may hold anything, line breaks too.
var (
	readyPattern    = regexp.MustCompile(`^(\S+ \S+Z: )?Listening for Jobs$`) // it has a session
	jobStartPattern = regexp.MustCompile(`^\S+ \S+Z: Running job: `)
	jobEndPattern   = regexp.MustCompile( // the worker of a job has ended
		` completed with result: (Succeeded|Failed|Canceled|Skipped|Abandoned)$`)
)

// stopWait is how long the listener may take to cancel its job and end. The
// actions runner itself waits 30 s for the job.
const stopWait = 45 * time.Second

// listen runs the listener once, to its end.
func (s *Supervisor) listen(ctx context.Context) (outcome, error) {
	if ctx.Err() != nil {
		return outcome{}, nil
	}
	process, output, err := s.startListener()
	if err != nil {
		return outcome{}, err
	}
	defer output.Close()

	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.forwardStop(ctx, processGroup{process})
	}()
	var o outcome
	read := make(chan struct{})
	go func() {
		defer close(read)
		o.output = s.follow(output)
	}()

	o.status = process.Status()
	<-stopped
	drain(output, read)

	_, err = os.Stat(filepath.Join(s.Config.ActionsRunnerDir, ".runner"))
	o.registered = err == nil
	return o, nil
}

// startListener starts the listener. The caller closes output, where standard
// output and standard error arrive.
func (s *Supervisor) startListener() (process *run.Process, output *os.File, err error) {
	output, write, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot start the listener: %w", err)
	}
	defer write.Close()

	// No context ends it: forwardStop asks it to cancel its job.
	process, err = run.Start(context.Background(), run.Cmd{
		Args:   listenerArgs(s.Config),
		Dir:    s.Config.ActionsRunnerDir,
		Env:    listenerEnv(s.Config, s.Home),
		Stdout: write,
		Stderr: write,
		// A process group of its own: ^C in a terminal reaches only us, and we
		// pass it on once.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		_ = output.Close()
		return nil, nil, fmt.Errorf("cannot start the listener: %w; "+
			"check RUNNER_ACTIONS_RUNNER_DIR, and that the image has a runner component", err)
	}
	return process, output, nil
}

// drainWait is how long output may still come from processes that the listener
// left behind.
const drainWait = 2 * time.Second

// drain waits until the reader of output is done, for drainWait at most: then
// it closes output, which ends the reader.
func drain(output io.Closer, read <-chan struct{}) {
	select {
	case <-read:
	case <-time.After(drainWait):
		_ = output.Close()
		<-read
	}
}

// stoppable is a process that can be stopped.
type stoppable interface {
	interrupt()
	kill()
	Done() <-chan struct{} // closed when it has ended
}

// processGroup is a process that leads a group. It may have ended already, so
// errors do not matter.
type processGroup struct{ *run.Process }

func (p processGroup) interrupt() { _ = p.Signal(os.Interrupt) }
func (p processGroup) kill()      { _ = syscall.Kill(-p.Pid(), syscall.SIGKILL) }

// forwardStop interrupts the listener when ctx ends, as the actions runner's
// own service wrapper does: the job under way is cancelled and the session
// closed. It kills a listener that has not ended after stopWait.
func (s *Supervisor) forwardStop(ctx context.Context, listener stoppable) {
	select {
	case <-listener.Done():
		return
	case <-ctx.Done():
	}

	s.Notify("STOPPING=1\nSTATUS=stopping the listener")
	s.logf("stopping the listener")
	listener.interrupt()
	select {
	case <-listener.Done():
	case <-time.After(stopWait):
		s.logf("the listener did not stop within %s; killing it", stopWait)
		listener.kill()
	}
}

// follow logs the listener's output, acts on the events it shows, and returns
// the symptoms.
//
// A job's name may have line breaks, so from the first job on any line may be a
// workflow's. Symptoms are not looked for any more then: what stops the listener
// stops the next one as well, before it has a job.
func (s *Supervisor) follow(output io.Reader) symptoms {
	var found symptoms
	hadJob := false
	lines := bufio.NewScanner(output)
	lines.Buffer(make([]byte, 0, 4096), 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		s.logf("runner: %s", line)

		switch {
		case jobStartPattern.MatchString(line):
			hadJob = true
		case jobEndPattern.MatchString(line):
			// The job may have kept the actions runner from calling its clean-up.
			s.resetGuests(context.Background())
		case readyPattern.MatchString(line):
			s.Notify("READY=1\nSTATUS=listening for jobs")
		case !hadJob:
			found.add(line)
		}
	}

	// A line that is too long ends the loop, but must not stop the listener.
	_, _ = io.Copy(io.Discard, output)
	return found
}
