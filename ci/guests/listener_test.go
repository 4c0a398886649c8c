package guests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/internal/run"
)

// listenerVariable has this program be a listener that runs one job, instead of
// tests: so that a listener can be killed. It names the program of the worker;
// standard input is what the listener says to it.
const listenerVariable = "GUESTS_TEST_LISTENER"

// listenOnce starts a worker as the listener does and returns its status.
func listenOnce(program string) (int, error) {
	toWorker, pipe, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	unused, fromWorker, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer unused.Close()
	defer pipe.Close() // its end is the listener's

	cmd := exec.Command(program, "spawnclient", "3", "4")
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{toWorker, fromWorker}, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, err = io.Copy(pipe, os.Stdin)
	// A broken pipe is a worker that has ended, whose status counts.
	_ = errors.Join(err, toWorker.Close(), fromWorker.Close(), cmd.Wait())
	return run.ExitStatus(cmd.ProcessState), nil
}

// endurance is a lab whose broker is started again whenever it ends, on a socket
// that stays, as systemd does.
type endurance struct {
	*lab
	socket *os.File // the broker's, which listens
	exe    string   // this program, where the runner may execute it

	mu       sync.Mutex
	process  *os.Process // of the broker
	stopping bool
	done     chan struct{}
}

// newEndurance starts a lab that keeps a spare guest.
func newEndurance(t *testing.T) *endurance {
	t.Helper()
	l := newLab(t, "RUNNER_SPARE_GUEST=true")
	l.stop() // that broker has made its own socket

	e := &endurance{lab: l, exe: l.path("listener"), done: make(chan struct{})}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e.install(self, e.exe)
	e.install(l.path("runner-shim"), l.path("Runner.Worker"))
	if err := errors.Join(
		os.Mkdir(l.path("tmp"), 0o700),
		os.WriteFile(l.path("runner/bin/Runner.Worker"), []byte(messageWorker), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	e.listen()
	go e.keep()
	t.Cleanup(e.end)
	return e
}

// install copies a program to where the runner may execute it.
func (e *endurance) install(from, to string) {
	e.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		e.Fatal(err)
	}
}

// listen opens the broker's socket.
func (e *endurance) listen() {
	e.Helper()
	_ = os.Remove(e.client.Socket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: e.client.Socket, Net: "unix"})
	if err != nil {
		e.Fatal(err)
	}
	defer l.Close()

	l.SetUnlinkOnClose(false)
	e.socket, err = l.File()
	if err := errors.Join(err, os.Chown(e.client.Socket, 0, runnerID), os.Chmod(e.client.Socket, 0o660)); err != nil {
		e.Fatal(err)
	}
	e.T.Cleanup(func() { _ = e.socket.Close() })
}

// keep starts brokers, one after the other.
func (e *endurance) keep() {
	defer close(e.done)
	for {
		cmd, err := e.startBroker()
		if err != nil {
			e.Error(err)
			return
		}
		_ = cmd.Wait()

		e.mu.Lock()
		stopping := e.stopping
		e.mu.Unlock()
		if stopping {
			return
		}
		time.Sleep(100 * time.Millisecond) // RestartSec= of systemd.service(5)
	}
}

// startBroker starts a broker as systemd does, sd_listen_fds(3).
func (e *endurance) startBroker() (*exec.Cmd, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	log, err := os.OpenFile(e.path("broker.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	cmd := e.command("sh", append([]string{"-c", `export LISTEN_PID=$$; exec "$@"`, "sh"}, e.brokerArgs()...)...)
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "TMPDIR="+e.path("tmp"))
	cmd.ExtraFiles, cmd.Stderr = []*os.File{e.socket}, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	e.process = cmd.Process
	return cmd, nil
}

// pid returns the process id of the broker.
func (e *endurance) pid() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.process.Pid
}

// end ends the broker in order.
func (e *endurance) end() {
	e.mu.Lock()
	if !e.stopping {
		e.stopping = true
		_ = e.process.Signal(os.Interrupt)
	}
	e.mu.Unlock()
	<-e.done
}

// listened is a job that a listener runs in a process of its own.
type listened struct {
	*endurance
	cmd   *exec.Cmd
	out   bytes.Buffer // of listener, relay and worker
	ended chan struct{}
	begin time.Time
	took  time.Duration // once ended
}

// listenFor starts a listener for a job whose steps are a script.
func (e *endurance) listenFor(script string) *listened {
	e.Helper()
	body, err := json.Marshal(map[string]any{"jobDisplayName": "build", "script": script})
	if err != nil {
		e.Fatal(err)
	}

	// The relay knows one path of the broker's socket.
	id := strconv.Itoa(runnerID)
	j := &listened{endurance: e, ended: make(chan struct{}), begin: time.Now()}
	j.cmd = e.command("unshare", "--mount", "sh", "-ec",
		`mount -t tmpfs tmpfs /run; mkdir /run/runner; ln -s "$1" /run/runner/guest.sock
		exec setpriv --reuid "$3" --regid "$3" --clear-groups "$2"`,
		"sh", e.client.Socket, e.exe, id)
	j.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "RUNNER_JOBS=guest", "HOME=/host", "GITHUB_ACTIONS=true",
		listenerVariable + "=" + e.path("Runner.Worker"),
	}
	j.cmd.Stdin, j.cmd.Stdout, j.cmd.Stderr = bytes.NewReader(frame(1, string(body))), &j.out, &j.out
	if err := j.cmd.Start(); err != nil {
		e.Fatal(err)
	}
	go func() {
		defer close(j.ended)
		_ = j.cmd.Wait() // until the relay has ended, too: it holds the output
		j.took = time.Since(j.begin)
	}()
	return j
}

// wait waits for the end of listener and relay and returns the status: that of
// the worker, or 128 and the signal that killed relay or listener.
func (j *listened) wait(limit time.Duration) (int, error) {
	select {
	case <-j.ended:
		return run.ExitStatus(j.cmd.ProcessState), nil
	case <-time.After(limit):
		return 0, fmt.Errorf("listener or relay have not ended after %v", limit)
	}
}
