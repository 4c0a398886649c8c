package guestinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/run"
)

// run starts the process and serves the conversation about it to the end.
func (s *Server) run(c *wire.Conn, request Exec) error {
	step, err := s.start(request)
	if err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		step.obey(c)
	}()
	var relays sync.WaitGroup
	for kind, pipe := range map[wire.Kind]*os.File{wire.Stdout: step.stdout, wire.Stderr: step.stderr} {
		relays.Go(func() { relay(c, kind, pipe) })
	}
	exited := make(chan int, 1)
	go func() { exited <- step.wait() }()
	var status int
	select {
	case status = <-exited:
	case <-gone:
		step.kill()
		status = <-exited
	}
	// Whatever the process wrote before it ended is delivered; a child it left
	// in the background that keeps the pipes open is not waited for.
	if step.cancelled.Load() {
		step.kill() // what it left in the background too
	}
	_ = step.stdout.SetReadDeadline(time.Now())
	_ = step.stderr.SetReadDeadline(time.Now())
	relays.Wait()
	step.close()
	return c.Send(wire.Exit, []byte{byte(status)})
}

// step is a running process with its cgroup and the reading ends of its pipes.
type step struct {
	process        *os.Process
	stdout, stderr *os.File
	cgroup         string
	cancelled      atomic.Bool
}

// killAfter is how long a process may go on after SIGTERM. The runner, which
// sends SIGINT, 7.5 s later SIGTERM, and 2.5 s later kills the hook, is thus
// still told how the step ended.
const killAfter = 2 * time.Second

func (s *Server) start(request Exec) (_ *step, err error) {
	if len(request.Argv) == 0 {
		return nil, errors.New("cannot start process: no command given")
	}
	if err := request.checkSizes(); err != nil {
		return nil, fmt.Errorf("cannot start process: %w", err)
	}
	if request.Dir == "" {
		request.Dir = "/"
	}
	if info, err := os.Stat(request.Dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("cannot start process: working directory %s does not exist in the guest", request.Dir)
	}
	path, err := lookPath(request.Argv[0], request.Env, request.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot start process: %w", err)
	}
	st := &step{}
	attr := request.attributes()
	closeCgroup, err := s.enterCgroup(st, attr.Sys)
	if err != nil {
		return nil, fmt.Errorf("cannot start process: %w", err)
	}
	defer closeCgroup()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("cannot start process: %w", err)
	}
	defer null.Close()
	var ends [2]*os.File
	for i, end := range []**os.File{&st.stdout, &st.stderr} {
		if *end, ends[i], err = os.Pipe(); err != nil {
			return nil, fmt.Errorf("cannot start process: %w", err)
		}
		defer ends[i].Close()
	}
	attr.Files = []*os.File{null, ends[0], ends[1]}
	path, argv := request.without(path, attr)
	if st.process, err = os.StartProcess(path, argv, attr); err != nil {
		st.close()
		return nil, fmt.Errorf("cannot start process: %w", err)
	}
	return st, nil
}

func (e Exec) attributes() *os.ProcAttr {
	attr := &os.ProcAttr{Dir: e.Dir, Env: e.Env, Sys: &syscall.SysProcAttr{Setsid: true}}
	if attr.Env == nil {
		attr.Env = []string{} // nil would be the agent's own
	}
	if e.UID != 0 || e.GID != 0 || len(e.Groups) > 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: e.UID, Gid: e.GID, Groups: e.Groups}
	}
	return attr
}

// without puts the program that drops capabilities before the process, if it is
// to have fewer.
func (e Exec) without(path string, attr *os.ProcAttr) (string, []string) {
	if len(e.DropCapabilities) == 0 {
		return path, e.Argv
	}
	attr.Sys.Credential = nil // it becomes that user itself, at the end
	var groups []string
	for _, g := range e.Groups {
		groups = append(groups, strconv.FormatUint(uint64(g), 10))
	}
	return "/proc/self/exe", append([]string{"runner-shim", "without", strings.Join(e.DropCapabilities, ","),
		strconv.FormatUint(uint64(e.UID), 10), strconv.FormatUint(uint64(e.GID), 10), strings.Join(groups, ","), path}, e.Argv...)
}

// checkSizes names what execve(2) would refuse with E2BIG only.
func (e Exec) checkSizes() error {
	for _, s := range e.Argv {
		if len(s) >= maxString {
			return fmt.Errorf("an argument of %d bytes is too long: Linux takes %d; put it into a file", len(s), maxString-1)
		}
	}
	for _, s := range e.Env {
		if len(s) >= maxString {
			name, _, _ := strings.Cut(s, "=")
			return fmt.Errorf("variable %.80s with %d bytes is too long: Linux takes %d; put the value into a file", name, len(s), maxString-1)
		}
	}
	return nil
}

// maxString is MAX_ARG_STRLEN, which bounds one argument or variable with its
// final NUL, execve(2).
const maxString = 32 * 4096

// enterCgroup makes a cgroup for the step and has the process start in it.
func (s *Server) enterCgroup(st *step, attr *syscall.SysProcAttr) (closeFD func(), err error) {
	if s.Cgroup == "" {
		return func() {}, nil
	}
	s.mu.Lock()
	s.steps++
	st.cgroup = filepath.Join(s.Cgroup, fmt.Sprintf("step-%d", s.steps))
	s.mu.Unlock()
	if err := os.Mkdir(st.cgroup, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.Open(st.cgroup)
	if err != nil {
		return nil, err
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	return func() { _ = dir.Close() }, nil
}

// obey forwards signals to the process group until the broker hangs up. Those
// are how a step is cancelled.
func (st *step) obey(c *wire.Conn) {
	for {
		kind, payload, err := c.Receive()
		if err != nil {
			return
		}
		if kind == wire.Signal && len(payload) == 1 {
			st.cancelled.Store(true)
			if syscall.Signal(payload[0]) == syscall.SIGTERM {
				defer time.AfterFunc(killAfter, st.kill).Stop()
			}
			// The process may be gone already; then there is nobody to tell.
			_ = syscall.Kill(-st.process.Pid, syscall.Signal(payload[0]))
		}
	}
}

// wait waits for the process itself, not for its children.
func (st *step) wait() int {
	state, err := st.process.Wait()
	if err != nil {
		return 255
	}
	return run.ExitStatus(state)
}

// kill ends the process and everything it has started.
func (st *step) kill() {
	if st.cgroup != "" && os.WriteFile(filepath.Join(st.cgroup, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	_ = syscall.Kill(-st.process.Pid, syscall.SIGKILL)
}

func (st *step) close() {
	_ = st.stdout.Close()
	_ = st.stderr.Close()
	if st.cgroup != "" {
		// It stays while a child in the background still runs, as it may.
		_ = os.Remove(st.cgroup)
	}
}

// relay sends what comes through the pipe, until its end or, once the read
// deadline has passed, until what was in the pipe at that moment is sent.
func relay(c *wire.Conn, kind wire.Kind, pipe *os.File) {
	buf := make([]byte, wire.MaxData)
	left := -1 // bytes still to be sent; negative while the process runs
	for left != 0 {
		n, err := pipe.Read(buf)
		if n > 0 {
			if left >= 0 {
				n = min(n, left)
				left -= n
			}
			if c.Send(kind, buf[:n]) != nil {
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if left < 0 {
				left = pending(pipe)
			}
			_ = pipe.SetReadDeadline(time.Now().Add(time.Second))
		default:
			return
		}
	}
}

// pending gives the number of bytes in a pipe, FIONREAD (alias TIOCINQ) of ioctl_tty(2).
func pending(pipe *os.File) int {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return 0
	}
	var n int
	if raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }) != nil || err != nil {
		return 0
	}
	return n
}

// lookPath finds a command as execvp(3) would with the given environment.
func lookPath(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if _, err := os.Stat(name); err != nil {
			return "", fmt.Errorf("%s does not exist in the guest", name)
		}
		return name, nil
	}
	var path string
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
		}
	}
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		file := filepath.Join(d, name)
		if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("command %q is not in the guest's PATH (%s)", name, path)
}
