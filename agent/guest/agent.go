package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// agentPeer is the guest agent. The guest is not trusted, and its root can take
// the agent's place, so it may send small frames only.
func agentPeer() wire.Peer { return wire.Peer{Name: "the guest", MaxFrame: wire.MaxData} }

// Exec runs a process in the guest and returns its exit status. When ctx ends,
// so does the process with all it has started; the error is the cause then.
//
// Nothing but output and a status passes from the guest. The text of an error
// may be the guest's.
func (g *Guest) Exec(ctx context.Context, p guestapi.Process, s wire.Streams) (status int, err error) {
	conn, err := g.dial()
	if err != nil {
		return 0, err
	}
	return agentPeer().Exec(ctx, conn, guestapi.Request{Exec: &p}, s)
}

// call asks the agent for something that has no process.
func (g *Guest) call(ctx context.Context, request guestapi.Request) error {
	ctx, cancel := context.WithTimeoutCause(ctx, g.manager.ReadyTimeout,
		fmt.Errorf("it did not answer within %v (RUNNER_NSPAWN_READY_TIMEOUT_S)", g.manager.ReadyTimeout))
	defer cancel()

	conn, err := g.dial()
	if err != nil {
		return err
	}
	err = agentPeer().Call(ctx, conn, request, nil, nil)
	var closed *wire.ClosedError
	if errors.As(err, &closed) {
		return fmt.Errorf("%w: %s", err, g.output)
	}
	return err
}

// peer returns the id of the process that listens at the other end.
func peer(conn net.Conn) (int, error) {
	cred, err := wire.PeerCredentials(conn)
	if err != nil {
		return 0, fmt.Errorf("cannot find the guest's agent: %w", err)
	}
	return int(cred.Pid), nil
}

// watch ends the guest with a process without which it is of no use: a spare one
// would wait for a job that has to fail.
func (g *Guest) watch(pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch process of guest: %w", err)
	}
	process := os.NewFile(uintptr(fd), "process")
	conn, err := process.SyscallConn()
	if err != nil {
		return errors.Join(err, process.Close())
	}

	go func() {
		defer process.Close()
		// Its end makes it readable, pidfd_open(2); the runtime waits without a thread.
		_ = conn.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		g.markEnded()
	}()
	return nil
}

// dial connects to the agent in the guest. The guest could have put anything in
// the socket's place, so no link is followed.
func (g *Guest) dial() (net.Conn, error) {
	dir, err := os.Open(filepath.Join(g.dir, "socket"))
	if err != nil {
		return nil, fmt.Errorf("cannot reach guest: %w", err)
	}
	defer dir.Close()

	fd, err := unix.Openat(int(dir.Fd()), socketName, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot reach guest: %w", err)
	}
	socket := os.NewFile(uintptr(fd), socketName)
	defer socket.Close()
	info, err := socket.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot reach guest: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("cannot reach guest: %s is not a socket (mode %v)", socketName, info.Mode())
	}

	conn, err := net.Dial("unix", "/proc/self/fd/"+strconv.Itoa(fd))
	if err != nil {
		return nil, fmt.Errorf("cannot reach guest: %w", err)
	}
	return conn, nil
}
