package guestinit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/run"
)

// process is a running process with its cgroup and the agent's ends of its
// pipes.
type process struct {
	*os.Process
	stdout, stderr *os.File
	input          *os.File // to descriptor 0 or 3; nil unless asked for
	unused         *os.File // from descriptor 4; nil unless asked for
	cgroup         string   // empty if it has none of its own
	cancelled      atomic.Bool
}

// killAfter is how long a process may go on after SIGTERM. The runner, which
// sends SIGINT, 7.5 s later SIGTERM, and 2.5 s later kills the hook, is thus
// still told how the step ended.
const killAfter = 2 * time.Second

// run starts a process and serves the conversation about it to the end.
func (s *Server) run(c *wire.Conn, request guestapi.Process) error {
	p, err := s.start(request)
	if err != nil {
		return err
	}

	_ = c.Send(wire.Started, nil) // a broker that is gone shows elsewhere

	input := wire.NewInput(c)
	defer input.Close()
	if request.InputFD {
		go func() {
			// The worker runs no step before it has a job, and takes long enough to
			// start that both may begin at once.
			s.awaitBoot()
			p.feed(input)
		}()
		go func() { _, _ = io.Copy(io.Discard, p.unused) }()
	}
	if request.Stdin {
		go p.feed(input)
	}

	hungUp := make(chan struct{})
	go func() {
		defer close(hungUp)
		p.follow(c, input)
	}()
	var output sync.WaitGroup
	output.Go(func() { relay(c, wire.Stdout, p.stdout) })
	output.Go(func() { relay(c, wire.Stderr, p.stderr) })

	exited := make(chan int, 1)
	go func() { exited <- p.wait() }()
	var status int
	select {
	case status = <-exited:
	case <-hungUp:
		p.kill()
		status = <-exited
	}
	if p.cancelled.Load() {
		p.kill() // what it left in the background too
	}

	// Whatever the process wrote before it ended is delivered; a child it left
	// in the background that keeps the pipes open is not waited for.
	_ = p.stdout.SetReadDeadline(time.Now())
	_ = p.stderr.SetReadDeadline(time.Now())
	output.Wait()
	s.discard(p.stdout)
	s.discard(p.stderr)
	p.stdout, p.stderr = nil, nil
	p.close()
	return c.SendExit(status)
}

// maxDiscarded bounds the pipes that are read for nobody.
const maxDiscarded = 512

// discard reads what processes in the background still write to a pipe, for as long as
// they live, and closes it: with nobody to read, their next line would end them by
// SIGPIPE. A server that a step has started writes a log.
func (s *Server) discard(pipe *os.File) {
	if s.discarded.Add(1) > maxDiscarded {
		s.discarded.Add(-1)
		_ = pipe.Close()
		return
	}
	_ = pipe.SetReadDeadline(time.Time{})
	go func() {
		_, _ = io.Copy(io.Discard, pipe)
		_ = pipe.Close()
		s.discarded.Add(-1)
	}()
}

// start starts the process that a request describes.
func (s *Server) start(request guestapi.Process) (*process, error) {
	p, err := s.tryStart(request)
	if err != nil {
		return nil, fmt.Errorf("cannot start process: %w", err)
	}
	return p, nil
}

func (s *Server) tryStart(request guestapi.Process) (*process, error) {
	if len(request.Argv) == 0 {
		return nil, errors.New("no command given")
	}
	if err := checkSizes(request); err != nil {
		return nil, err
	}
	if request.Dir == "" {
		request.Dir = "/"
	}
	if info, err := os.Stat(request.Dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("working directory %s does not exist in the guest", request.Dir)
	}
	path, err := lookPath(request.Argv[0], request.Env, request.Dir)
	if err != nil {
		return nil, err
	}

	p := &process{}
	if err := s.spawn(p, path, request); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// spawn starts p in a cgroup of its own with pipes for its output.
func (s *Server) spawn(p *process, path string, request guestapi.Process) error {
	attr := attributes(request)
	closeCgroup, err := s.enterCgroup(p, attr.Sys)
	if err != nil {
		return err
	}
	defer closeCgroup()
	closeFiles, err := p.connect(attr, request)
	if err != nil {
		return err
	}
	defer closeFiles()

	path, argv, err := restrict(request, path, attr)
	if err != nil {
		return err
	}
	p.Process, err = os.StartProcess(path, argv, attr)
	return err
}

// attributes are what os.StartProcess is told of a request.
func attributes(request guestapi.Process) *os.ProcAttr {
	attr := &os.ProcAttr{Dir: request.Dir, Env: request.Env, Sys: &syscall.SysProcAttr{Setsid: true}}
	if attr.Env == nil {
		attr.Env = []string{} // nil would be the agent's own
	}
	if request.UID != 0 || request.GID != 0 || len(request.Groups) > 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: request.UID, Gid: request.GID, Groups: request.Groups}
	}
	return attr
}

// connect opens the process's files: its standard input, pipes to write to, and
// the descriptors of guestapi.Process.InputFD. The process's ends, in attr, are
// closed by closeFiles.
func (p *process) connect(attr *os.ProcAttr, request guestapi.Process) (closeFiles func(), err error) {
	closeAll := func() {
		for _, f := range attr.Files {
			_ = f.Close()
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()

	if request.Stdin && request.InputFD {
		return nil, errors.New("a process has one input")
	}
	if request.Stdin {
		err = p.pipeTo(attr)
	} else {
		var null *os.File
		null, err = os.Open(os.DevNull)
		attr.Files = []*os.File{null}
	}
	if err != nil {
		return nil, err
	}
	if err := p.pipeFrom(attr, &p.stdout); err != nil {
		return nil, err
	}
	if err := p.pipeFrom(attr, &p.stderr); err != nil {
		return nil, err
	}
	// Its user can open /dev/stdout and /dev/stderr, which many programs log to.
	for _, output := range attr.Files[1:] {
		if err := output.Chown(int(request.UID), int(request.GID)); err != nil {
			return nil, err
		}
	}
	if !request.InputFD {
		return closeAll, nil
	}
	if err := p.pipeTo(attr); err != nil {
		return nil, err
	}
	return closeAll, p.pipeFrom(attr, &p.unused)
}

// pipeTo makes the process's next descriptor the reading end of the pipe of its
// input.
func (p *process) pipeTo(attr *os.ProcAttr) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	p.input = write
	attr.Files = append(attr.Files, read)
	return nil
}

// pipeFrom makes the process's next descriptor the writing end of a pipe.
func (p *process) pipeFrom(attr *os.ProcAttr, end **os.File) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	*end = read
	attr.Files = append(attr.Files, write)
	return nil
}

// maxString is MAX_ARG_STRLEN, which bounds one argument or variable with its
// final NUL, execve(2).
const maxString = 32 * 4096

// checkSizes names what execve(2) would refuse with E2BIG only.
func checkSizes(request guestapi.Process) error {
	for _, s := range request.Argv {
		if len(s) >= maxString {
			return fmt.Errorf("an argument of %d bytes is too long: Linux takes %d; put it into a file", len(s), maxString-1)
		}
	}
	for _, s := range request.Env {
		if len(s) >= maxString {
			name, _, _ := strings.Cut(s, "=")
			return fmt.Errorf("variable %.80s with %d bytes is too long: Linux takes %d; put the value into a file",
				name, len(s), maxString-1)
		}
	}
	return nil
}

// enterCgroup makes a cgroup for the process and has it start in there.
func (s *Server) enterCgroup(p *process, attr *syscall.SysProcAttr) (closeFD func(), err error) {
	if s.Cgroup == "" {
		return func() {}, nil
	}
	s.mu.Lock()
	s.processes++
	p.cgroup = filepath.Join(s.Cgroup, fmt.Sprintf("step-%d", s.processes))
	s.mu.Unlock()

	if err := os.Mkdir(p.cgroup, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.Open(p.cgroup)
	if err != nil {
		return nil, err
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	return func() { _ = dir.Close() }, nil
}

// follow passes signals on to the process group, and input to the process,
// until the broker hangs up. Signals are how a step is cancelled.
func (p *process) follow(c *wire.Conn, input *wire.Input) {
	for {
		kind, payload, err := c.Receive()
		if err != nil {
			return
		}
		if kind == wire.Stdin {
			if input.Put(payload) != nil {
				return // not our broker
			}
			continue
		}
		signal, err := wire.ReadSignal(payload)
		if kind != wire.Signal || err != nil {
			continue
		}

		p.cancelled.Store(true)
		if signal == syscall.SIGTERM {
			defer time.AfterFunc(killAfter, p.kill).Stop()
		}
		// The process may be gone already; then there is nobody to tell.
		_ = syscall.Kill(-p.Pid, signal)
	}
}

// feed writes input to the process until its end, or until the process reads no
// more.
func (p *process) feed(input *wire.Input) {
	_, _ = io.Copy(p.input, input)
	_ = p.input.Close()
}

// wait waits for the process itself, not for its children.
func (p *process) wait() int {
	state, err := p.Wait()
	if err != nil {
		return 255
	}
	return run.ExitStatus(state)
}

// kill ends the process and everything it has started. With a cgroup it returns
// when all of that is gone: a cancelled step has ended when its status is known.
func (p *process) kill() {
	if p.cgroup == "" || os.WriteFile(filepath.Join(p.cgroup, "cgroup.kill"), []byte("1"), 0) != nil {
		_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
		return
	}
	for deadline := time.Now().Add(killWait); populated(p.cgroup) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// killWait is how long killed processes may take to disappear. With killAfter it
// is less than the runner leaves the hook after SIGTERM.
const killWait = 400 * time.Millisecond

// populated reports whether there are processes in a cgroup or beneath it,
// cgroups(7).
func populated(cgroup string) bool {
	events, err := os.ReadFile(filepath.Join(cgroup, "cgroup.events"))
	return err == nil && strings.Contains(string(events), "populated 1")
}

// close releases what the agent itself holds of the process.
func (p *process) close() {
	for _, pipe := range []*os.File{p.stdout, p.stderr, p.input, p.unused} {
		if pipe != nil {
			_ = pipe.Close()
		}
	}
	if p.cgroup != "" {
		// It stays while a child in the background still runs, as it may.
		_ = os.Remove(p.cgroup)
	}
}
