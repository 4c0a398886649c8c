package trial

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Key lets a trial into its machine.
type Key struct{ signer ssh.Signer }

// NewKey returns a new key.
func NewKey() (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("cannot make ssh key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	return Key{signer}, err
}

// AuthorizedKey returns the line of authorized_keys (sshd(8)) that accepts the key.
func (k Key) AuthorizedKey() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.signer.PublicKey())))
}

// shell runs scripts as root in the machine, by ssh.
type shell struct {
	addr string
	key  Key

	mu   sync.Mutex
	host ssh.PublicKey // of the machine, from the first connection on
}

// errHostKey is the error of a machine that is not known by its host key any more.
var errHostKey = errors.New("the machine has another ssh host key than at first")

const (
	connectWait = 30 * time.Second // a machine that is emulated takes its time
	scriptWait  = 2 * time.Minute
)

// run runs a script and returns its output.
func (s *shell) run(ctx context.Context, script string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, scriptWait)
	defer cancel()
	client, err := s.connect(ctx)
	if err != nil {
		return "", fmt.Errorf("cannot connect to the machine by ssh: %w", err)
	}
	defer client.Close()
	// A machine that was switched off does not answer.
	defer context.AfterFunc(ctx, func() { _ = client.Close() })()

	session, err := client.NewSession()
	if err != nil {
		return "", fmt.Errorf("cannot connect to the machine by ssh: %w", err)
	}
	var stdout, stderr bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = strings.NewReader(script), &stdout, &stderr
	if err := session.Run("sh -s"); err != nil {
		return strings.TrimSpace(
				stdout.String(),
			), fmt.Errorf(
				"cannot run script in the machine: %w: %s",
				err,
				stderr.String(),
			)
	}
	return strings.TrimSpace(stdout.String()), nil
}

func (s *shell) connect(ctx context.Context) (*ssh.Client, error) {
	conn, err := (&net.Dialer{Timeout: connectWait}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	// QEMU accepts the connection before the machine does.
	_ = conn.SetDeadline(time.Now().Add(connectWait))
	c, channels, requests, err := ssh.NewClientConn(conn, s.addr, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.key.signer)}, HostKeyCallback: s.checkHost})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return ssh.NewClient(c, channels, requests), nil
}

// checkHost accepts the host key of the first connection and no other after it.
func (s *shell) checkHost(_ string, _ net.Addr, key ssh.PublicKey) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.host != nil && !bytes.Equal(s.host.Marshal(), key.Marshal()) {
		return errHostKey
	}
	s.host = key
	return nil
}
