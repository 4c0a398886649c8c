package broker

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// checkPeer lets in root and the runner only; the socket's mode says the same,
// and this holds if it is wrong. See unix(7), SO_PEERCRED.
func (s *Server) checkPeer(conn net.Conn) error {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("cannot identify client: not a unix socket")
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot identify client: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return fmt.Errorf("cannot identify client: %w", errors.Join(err, credErr))
	}
	if cred.Uid != 0 && int(cred.Uid) != s.settings.RunnerUID {
		return fmt.Errorf("user %d is neither root nor the runner", cred.Uid)
	}
	return nil
}
