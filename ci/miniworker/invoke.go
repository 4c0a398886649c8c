package miniworker

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Delays of the runner's ProcessInvoker.
const (
	afterInterrupt = 7500 * time.Millisecond
	afterTerminate = 2500 * time.Millisecond
	pipeWait       = 5 * time.Second
)

// hookFailed is what a user sees for any failure of a hook (actions/runner#3178).
const hookFailed = "Executing the custom container implementation failed. Please contact your self hosted runner " +
	"administrator."

// call runs the hook once and hands its answer to accept. commands are the
// step's file commands, nil for the hook's own steps.
func (w *Worker) call(ctx context.Context, name, command string, args any, commands fileCommands,
	accept func(*response) error) StepResult {
	started := time.Now()
	result := StepResult{Name: name, Conclusion: Success}
	err := w.callHook(ctx, command, args, commands, accept, &result)
	if err != nil {
		result.Conclusion = Failure
		result.Errors = append(result.Errors, err.Error(), hookFailed)
		for _, e := range result.Errors {
			w.line("##[error]" + e)
		}
	}
	result.Duration = time.Since(started)
	return result
}

func (w *Worker) callHook(ctx context.Context, command string, args any, commands fileCommands,
	accept func(*response) error, result *StepResult) error {
	responseFile := w.path("_temp/_runner_hook_responses/" + guid() + ".json")
	request, err := encode(hookInput{Command: command, ResponseFile: responseFile, Args: args, State: w.State()})
	if err != nil {
		return err
	}
	result.Request = string(request)

	argv, err := w.hookArgv()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(responseFile), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(responseFile, nil, 0o644); err != nil {
		return err
	}

	w.line("##[group]Run '" + w.opt.Hook + "'")
	w.line("shell: " + argv[0] + " --noprofile --norc -e -o pipefail {0}")
	w.line("##[endgroup]")
	result.Exit, err = w.invoke(ctx, process{argv: argv, dir: w.workspace, env: w.hookEnv(commands), stdin: request},
		&result.Output)
	if err != nil {
		return err
	}

	if result.Exit != 0 {
		return runnerErrorf("Process completed with exit code %d.", result.Exit)
	}
	prepare, _ := args.(prepareJobArgs)
	r, text, err := w.readResponse(responseFile, command, prepare.Container != nil)
	result.Response = text
	if err != nil || accept == nil {
		return err
	}
	return accept(r)
}

// hookArgv names the interpreter by the hook's extension. bash is looked for
// in GITHUB_PATH too, which the job controls: so does the runner.
func (w *Worker) hookArgv() ([]string, error) {
	switch hook := w.opt.Hook; {
	case strings.HasSuffix(hook, ".sh"):
		path := strings.Join(append(w.prepended(), lookup(w.opt.Env, "PATH")), ":")
		if bash := which("bash", path); bash != "" {
			return []string{bash, "--noprofile", "--norc", "-e", "-o", "pipefail", hook}, nil
		}
		return []string{which("sh", path), "-e", hook}, nil
	case strings.HasSuffix(hook, ".js"):
		return []string{filepath.Join(w.opt.Root, "externals/node20/bin/node"), hook}, nil
	default:
		return nil, runnerErrorf("Invalid file extension at '%s'.", hook)
	}
}

// which is WhichUtil.Which: the first file of that name, executable or not.
func which(name, path string) string {
	for _, dir := range strings.Split(path, ":") {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); dir != "" && err == nil && st.Mode().IsRegular() {
			return p
		}
	}
	return ""
}

// process is one program to run.
type process struct {
	argv  []string
	dir   string
	env   []string
	stdin []byte
	// stdout gets the lines of standard output alone as well; nil for none.
	stdout *[]string
}

// invoke is ProcessInvoker.ExecuteAsync: it returns the exit status (128 + N
// for signal N), or an error if the process could not start or was cancelled.
func (w *Worker) invoke(ctx context.Context, p process, output *[]string) (int, error) {
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Dir, cmd.Env = p.dir, p.env
	cmd.Stdin = bytes.NewReader(p.stdin)
	cmd.WaitDelay = pipeWait // for standard input only: outputs are files to os/exec

	var readers sync.WaitGroup
	var ends []*os.File
	var mu sync.Mutex
	emit := func(line string, copies ...*[]string) {
		line = w.mask(line)
		mu.Lock()
		for _, to := range copies {
			*to = append(*to, line)
		}
		mu.Unlock()
		w.line(line)
	}
	copies := []*[]string{output}
	if p.stdout != nil {
		copies = append(copies, p.stdout)
	}
	for _, to := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		r, wr, err := os.Pipe()
		if err != nil {
			return -1, err
		}
		*to, ends = wr, append(ends, wr)
		defer r.Close()
		lists := copies
		readers.Go(func() { readLines(r, func(line string) { emit(line, lists...) }) })
		copies = []*[]string{output} // of standard error
	}

	err := cmd.Start()
	// Otherwise the readers would not see the end of what the process writes.
	for _, end := range ends {
		_ = end.Close()
	}
	if err != nil {
		return -1, err
	}
	// The job is to die before the runner when memory runs out: best effort, as
	// in the runner.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("500"), 0o644)

	exited := make(chan struct{})
	stopKiller := make(chan struct{})
	go func() { defer close(stopKiller); terminate(ctx, cmd.Process, exited) }()
	_ = cmd.Wait() // the status is read from ProcessState
	close(exited)
	<-stopKiller
	waitReaders(&readers, &mu)
	if ctx.Err() != nil {
		return exitStatus(cmd.ProcessState), runnerError("The operation was canceled.")
	}
	return exitStatus(cmd.ProcessState), nil
}

// waitReaders waits for the end of the pipes, or 5 s: a child that keeps them
// open is not waited for. A reader that goes on would append to the output
// after that, so the lock is kept from it for good.
func waitReaders(readers *sync.WaitGroup, mu *sync.Mutex) {
	done := make(chan struct{})
	go func() { readers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(pipeWait):
		mu.Lock()
	}
}

// terminate signals the one process, not its group, as the runner does.
func terminate(ctx context.Context, p *os.Process, exited <-chan struct{}) {
	select {
	case <-exited:
		return
	case <-ctx.Done():
	}
	for _, s := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, afterInterrupt}, {syscall.SIGTERM, afterTerminate}, {syscall.SIGKILL, time.Hour}} {
		_ = p.Signal(s.signal) // it may have ended by now
		select {
		case <-exited:
			return
		case <-time.After(s.wait):
		}
	}
}

func exitStatus(p *os.ProcessState) int {
	if ws, ok := p.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.ExitCode()
}

// readLines is StreamReader.ReadLine: lines end in \n, \r or \r\n, a partial
// last line counts, bytes that are not UTF-8 become U+FFFD.
func readLines(r io.Reader, emit func(string)) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), 64<<20)
	s.Split(splitLine)
	for s.Scan() {
		emit(strings.ToValidUTF8(s.Text(), "\uFFFD"))
	}
}

func splitLine(data []byte, atEOF bool) (advance int, token []byte, err error) {
	i := bytes.IndexAny(data, "\r\n")
	switch {
	case i < 0 && atEOF && len(data) > 0:
		return len(data), data, nil
	case i < 0:
		return 0, nil, nil
	case data[i] == '\r' && i+1 == len(data) && !atEOF:
		return 0, nil, nil // is a \n next?
	case data[i] == '\r' && i+1 < len(data) && data[i+1] == '\n':
		return i + 2, data[:i], nil
	}
	return i + 1, data[:i], nil
}
