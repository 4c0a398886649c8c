package broker

import (
	"fmt"
	"net"

	"github.com/mkappliance/mkappliance/agent/wire"
)

// checkPeer lets in root and the runner only. The socket's mode does the same;
// this holds if that is wrong.
func (s *Server) checkPeer(conn net.Conn) error {
	cred, err := wire.PeerCredentials(conn)
	if err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != s.settings.RunnerUID {
		return fmt.Errorf("user %d is neither root nor the runner", cred.Uid)
	}
	return nil
}
