package network

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// dialTimeout is how long a guest may take to answer a connection.
	dialTimeout = 10 * time.Second
	// udpIdle is how long after the last datagram a guest can answer a client:
	// docker-proxy waits 90 s, conntrack 30 s.
	udpIdle = 60 * time.Second
)

// tcpRelay forwards connections.
type tcpRelay struct {
	listener *net.TCPListener
	to       netip.AddrPort
	log      *slog.Logger
	ctx      context.Context // ends with the relay
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

func newTCPRelay(l *net.TCPListener, to netip.AddrPort, log *slog.Logger) *tcpRelay {
	r := &tcpRelay{listener: l, to: to, log: log}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.running.Go(r.accept)
	return r
}

// Close breaks all connections and waits until they are closed.
func (r *tcpRelay) Close() {
	r.cancel()
	_ = r.listener.Close()
	r.running.Wait()
}

func (r *tcpRelay) accept() {
	for {
		conn, err := r.listener.AcceptTCP()
		switch {
		case err == nil:
			r.running.Go(func() { r.handle(conn) })
		case errors.Is(err, net.ErrClosed):
			return
		default: // for example too many open files: some may be closed soon
			r.log.Warn("cannot accept connection to published port", "error", err)
			select {
			case <-r.ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func (r *tcpRelay) handle(client *net.TCPConn) {
	defer client.Close()
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(r.ctx, "tcp4", r.to.String())
	if err != nil {
		r.log.Debug("cannot reach guest for published port", "error", err)
		_ = client.SetLinger(0) // a reset, so that the client sees a failure too
		return
	}
	guest := conn.(*net.TCPConn)
	defer guest.Close()

	stop := context.AfterFunc(r.ctx, func() { _ = client.Close(); _ = guest.Close() })
	defer stop()
	var other sync.WaitGroup
	other.Go(func() { pass(guest, client) })
	pass(client, guest)
	other.Wait()
}

// pass copies until src ends and then ends dst, but not the other direction. If
// either connection breaks, both directions end.
func pass(dst, src *net.TCPConn) {
	if _, err := io.Copy(dst, src); err != nil {
		_ = dst.Close()
		_ = src.Close()
		return
	}
	_ = dst.CloseWrite()
}

// udpRelay forwards datagrams. Each client has a session: a socket of its own
// towards the guest, which shows whom an answer is for.
type udpRelay struct {
	conn    *net.UDPConn
	to      netip.AddrPort
	idle    time.Duration // after which a session ends
	log     *slog.Logger
	reading sync.WaitGroup // the loop that makes sessions
	running sync.WaitGroup // the sessions

	mu       sync.Mutex
	sessions map[netip.AddrPort]*net.UDPConn
}

func newUDPRelay(conn *net.UDPConn, to netip.AddrPort, idle time.Duration, log *slog.Logger) *udpRelay {
	r := &udpRelay{conn: conn, to: to, idle: idle, log: log, sessions: map[netip.AddrPort]*net.UDPConn{}}
	r.reading.Go(r.read)
	return r
}

// Close ends all sessions and waits until they are closed.
func (r *udpRelay) Close() {
	// First the loop that adds sessions.
	_ = r.conn.Close()
	r.reading.Wait()

	r.mu.Lock()
	for _, session := range r.sessions {
		_ = session.Close()
	}
	r.mu.Unlock()
	r.running.Wait()
}

func (r *udpRelay) read() {
	buf := make([]byte, 1<<16)
	for {
		n, client, err := r.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		var session *net.UDPConn
		if err == nil {
			session, err = r.session(client)
		}
		if err != nil {
			r.log.Debug("datagram to published port lost", "error", err)
			continue
		}
		// A datagram that cannot be sent is lost, as UDP allows.
		_ = session.SetReadDeadline(time.Now().Add(r.idle))
		_, _ = session.Write(buf[:n])
	}
}

// session returns the socket of a client, a new one if it has none.
func (r *udpRelay) session(client netip.AddrPort) (*net.UDPConn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if session, ok := r.sessions[client]; ok {
		return session, nil
	}

	session, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(r.to))
	if err != nil {
		return nil, err
	}
	r.sessions[client] = session
	r.running.Go(func() { r.answer(client, session) })
	return session, nil
}

// answer forwards the guest's datagrams to a client until there were none in
// either direction for r.idle, or the guest's port turns out to be closed.
func (r *udpRelay) answer(client netip.AddrPort, session *net.UDPConn) {
	buf := make([]byte, 1<<16)
	for {
		n, err := session.Read(buf)
		if err != nil {
			break
		}
		_ = session.SetReadDeadline(time.Now().Add(r.idle))
		_, _ = r.conn.WriteToUDPAddrPort(buf[:n], client)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, client)
	_ = session.Close()
}
