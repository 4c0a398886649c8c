package wire

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestPeerCredentials(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()

	for _, conn := range []net.Conn{near, far} {
		cred, err := PeerCredentials(conn)
		if err != nil || int(cred.Pid) != os.Getpid() || int(cred.Uid) != os.Getuid() || int(cred.Gid) != os.Getgid() {
			t.Errorf("got %+v, %v, want this process", cred, err)
		}
	}

	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	if cred, err := PeerCredentials(pipe); err == nil {
		t.Errorf("got %+v of a connection without credentials", cred)
	}
}
