package fakegithub

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"syscall"
)

// ErrPort80 says that this user may not listen on port 80.
var ErrPort80 = errors.New("port 80 is reserved; run the tests as root")

// Listen listens on port 80, to which the actions runner goes whatever the port
// in --url is, at a loopback address that nobody else uses.
func Listen() (net.Listener, error) {
	for {
		// 127.0.0.0/8 is all this machine's; its first network has others' servers.
		addr := fmt.Sprintf("127.%d.%d.%d:80", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
		l, err := net.Listen("tcp4", addr)
		if err == nil {
			return l, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, ErrPort80
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
}
