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
	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

// listenerArgs returns the argument vector of the listener.
func listenerArgs(cfg *config.Config) []string {
	return []string{filepath.Join(cfg.ActionsRunnerDir, "bin", "Runner.Listener"), "run", "--startuptype", "service"}
}

// listenerEnv returns the listener's whole environment. Every hook and every
// step on the host inherits it, so the token is not in it.
func listenerEnv(cfg *config.Config, home, controlDir string) []string {
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
		// For the program in the place of the worker.
		"RUNNER_JOBS=" + string(cfg.Jobs),
	}
	if controlDir != "" {
		env = append(env, control.DirVariable+"="+controlDir)
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
	jobStartPattern = regexp.MustCompile(`^\S+ \S+Z: Running job: (.*)`)
	jobEndPattern   = regexp.MustCompile( // the worker of a job has ended
		` completed with result: (Succeeded|SucceededWithIssues|Failed|Canceled|Skipped|Abandoned)$`)
	versionPattern  = regexp.MustCompile(`^Current runner version: '([0-9A-Za-z.+-]{1,64})'$`)
	conflictPattern = regexp.MustCompile(`^A session for this runner already exists\.$`)
)

// exitingLine is what the listener prints first when it is interrupted.
const exitingLine = "Exiting..."

// maxJobName is how many bytes of a job's name are shown.
const maxJobName = 256

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

	var o outcome
	listener := processGroup{process, s.Config.ActionsRunnerDir}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		o.drained = s.forwardStop(ctx, listener)
	}()
	read := make(chan struct{})
	go func() {
		defer close(read)
		o.output = s.follow(output, listener.hasWorker)
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
		Env:    listenerEnv(s.Config, s.Home, s.ControlDir),
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

// stoppable is a listener that can be stopped.
type stoppable interface {
	interrupt()
	kill()
	Done() <-chan struct{} // closed when it has ended
	hasWorker() bool       // it has a child that runs a job
	message() string       // names a message that it works on, see pendingMessage
}

// processGroup is a process that leads a group. It may have ended already, so
// errors do not matter.
type processGroup struct {
	*run.Process
	root string // directory of the actions runner
}

func (p processGroup) interrupt()      { _ = p.Signal(os.Interrupt) }
func (p processGroup) kill()           { _ = syscall.Kill(-p.Pid(), syscall.SIGKILL) }
func (p processGroup) hasWorker() bool { return hasWorker(p.Pid()) }
func (p processGroup) message() string { return pendingMessage(filepath.Join(p.root, "_diag")) }

// forwardStop interrupts the listener when ctx ends, as the actions runner's
// own service wrapper does: the job under way is cancelled and the session
// closed. It does the same for a drain, when no job is under way, and reports
// whether it did. It kills a listener that has not ended after stopWait.
func (s *Supervisor) forwardStop(ctx context.Context, listener stoppable) (drained bool) {
	switch s.awaitStop(ctx, listener) {
	case ended:
		return false
	case stopping:
		s.Notify("STOPPING=1\nSTATUS=stopping the listener")
		s.logf("stopping the listener")
	case draining:
		drained = true
		s.Notify("STATUS=draining")
		s.logf("stopping the listener to drain")
	}

	listener.interrupt()
	select {
	case <-listener.Done():
	case <-time.After(stopWait):
		s.logf("the listener did not stop within %s; killing it", stopWait)
		listener.kill()
	}
	return drained
}

// follow logs the listener's output, acts on the events it shows, and returns
// the symptoms.
//
// A job's name may have line breaks, so from the first job on any line may be a
// workflow's. Symptoms are not looked for any more then: what stops the listener
// stops the next one as well, before it has a job.
func (s *Supervisor) follow(output io.Reader, hasWorker func() bool) symptoms {
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

		switch start := jobStartPattern.FindStringSubmatch(line); {
		case start != nil:
			hadJob = true
			s.state.startJob(bounded(start[1]))
		case jobEndPattern.MatchString(line):
			s.followEnd(hasWorker)
		case readyPattern.MatchString(line):
			s.Notify("READY=1\nSTATUS=listening for jobs")
			s.state.fire(listening, "")
		case line == exitingLine:
			s.state.noteExit()
		case !hadJob:
			found.add(line)
			s.followStart(line)
		}
	}

	// A line that is too long ends the loop, but must not stop the listener.
	_, _ = io.Copy(io.Discard, output)
	return found
}

// followEnd acts on a line that looks like the end of a job.
func (s *Supervisor) followEnd(hasWorker func() bool) {
	if hasWorker() {
		return // a name with a line break
	}
	s.state.endJob()
	// The job may have kept the actions runner from calling its clean-up.
	s.resetGuests(context.Background())
}

// followStart acts on a line from before the first job.
func (s *Supervisor) followStart(line string) {
	if version := versionPattern.FindStringSubmatch(line); version != nil {
		s.state.update(func(status *control.Status) { status.RunnerVersion = version[1] })
	}
	if day := Deadline(line, handler{s.state}.Status().RunnerVersion, time.Now()); !day.IsZero() {
		s.state.update(func(status *control.Status) { status.RunnerDeadline = day })
	}
	if conflictPattern.MatchString(line) {
		s.state.fire(sessionConflict, restartReasons[statusConflict])
	}
}

// bounded returns the beginning of a job's name, as text.
func bounded(name string) string {
	return strings.ToValidUTF8(name[:min(len(name), maxJobName)], "")
}
