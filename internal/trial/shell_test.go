package trial

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshServer answers each script with the script itself, and status 3 to those with
// "fail". Each call of renew changes its host key.
func sshServer(t *testing.T, accept Key) (addr string, renew func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	var mu sync.Mutex
	var config *ssh.ServerConfig
	renew = func() {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.NewSignerFromKey(private)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		config = &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(ssh.MarshalAuthorizedKey(key)) != accept.AuthorizedKey()+"\n" {
				return nil, errors.New("unknown key")
			}
			return &ssh.Permissions{}, nil
		}}
		config.AddHostKey(signer)
	}
	renew()

	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			current := config
			mu.Unlock()
			go answer(conn, current)
		}
	}()
	return listener.Addr().String(), renew
}

func answer(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		session, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			_ = r.Reply(r.Type == "exec", nil)
			script, _ := io.ReadAll(session)
			_, _ = session.Write(script)
			status := struct{ Status uint32 }{}
			if strings.Contains(string(script), "fail") {
				_, _ = io.WriteString(session.Stderr(), "no luck\n")
				status.Status = 3
			}
			_, _ = session.SendRequest("exit-status", false, ssh.Marshal(status))
			_ = session.Close()
		}
	}
}

func TestShell(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	addr, renew := sshServer(t, key)
	s := &shell{addr: addr, key: key}
	if out, err := s.run(t.Context(), "echo hello\n"); err != nil || out != "echo hello" {
		t.Errorf("got %q, %v", out, err)
	}

	out, err := s.run(t.Context(), "fail")
	exit := (*ssh.ExitError)(nil)
	if !errors.As(err, &exit) || exit.ExitStatus() != 3 || out != "fail" || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("got %q, %v", out, err)
	}

	renew()
	if _, err := s.run(t.Context(), "true"); !errors.Is(err, errHostKey) {
		t.Errorf("another host key: got %v", err)
	}
	other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&shell{addr: addr, key: other}).run(t.Context(), "true"); err == nil || errors.Is(err, errHostKey) {
		t.Errorf("a key that is not accepted: got %v", err)
	}
}
