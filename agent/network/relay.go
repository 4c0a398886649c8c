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

// slots bound how many connections and sessions several relays have together.
// One is taken by sending.
type slots chan struct{}

// tcpRelay forwards connections.
type tcpRelay struct {
	listener *net.TCPListener
	to       netip.AddrPort
	slots    slots
	log      *slog.Logger
	ctx      context.Context // ends with the relay
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

func newTCPRelay(l *net.TCPListener, to netip.AddrPort, s slots, log *slog.Logger) *tcpRelay {
	r := &tcpRelay{listener: l, to: to, slots: s, log: log}
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
			// Without a free slot, further clients wait in the listener's backlog.
			select {
			case r.slots <- struct{}{}:
				r.running.Go(func() { r.handle(conn); <-r.slots })
			case <-r.ctx.Done():
				_ = conn.Close()
			}
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
//
// It hides what the connections are: io.Copy would have the kernel copy through a
// pipe of up to 1 MiB and two descriptors for each direction.
func pass(dst, src *net.TCPConn) {
	if _, err := io.Copy(struct{ io.Writer }{dst}, struct{ io.Reader }{src}); err != nil {
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
	slots   slots
	log     *slog.Logger
	reading sync.WaitGroup // the loop that makes sessions
	running sync.WaitGroup // the sessions

	mu       sync.Mutex
	sessions map[netip.AddrPort]*udpSession
}

// udpSession is what a relay keeps of a client. It has a slot as long as the
// relay knows it.
type udpSession struct {
	*net.UDPConn
	asked time.Time // when the client sent last
}

func newUDPRelay(conn *net.UDPConn, to netip.AddrPort, idle time.Duration, s slots, log *slog.Logger) *udpRelay {
	r := &udpRelay{
		conn: conn, to: to, idle: idle, slots: s, log: log,
		sessions: map[netip.AddrPort]*udpSession{},
	}
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
		var session *udpSession
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

// session returns the session of a client, a new one if it has none.
func (r *udpRelay) session(client netip.AddrPort) (*udpSession, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if session, ok := r.sessions[client]; ok {
		session.asked = time.Now()
		return session, nil
	}

	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(r.to))
	if err != nil {
		return nil, err
	}
	if !r.takeSlot() {
		_ = conn.Close()
		return nil, errors.New("too many connections to published ports")
	}
	session := &udpSession{UDPConn: conn, asked: time.Now()}
	r.sessions[client] = session
	r.running.Go(func() { r.answer(client, session) })
	return session, nil
}

// takeSlot takes a free slot, or else that of the session whose client has been
// silent for the longest time: clients that ask once, each from a port of its own,
// leave sessions behind. The caller holds r.mu.
func (r *udpRelay) takeSlot() bool {
	select {
	case r.slots <- struct{}{}:
		return true
	default:
	}

	var oldest netip.AddrPort
	for client, session := range r.sessions {
		if !oldest.IsValid() || session.asked.Before(r.sessions[oldest].asked) {
			oldest = client
		}
	}
	if !oldest.IsValid() {
		return false
	}
	_ = r.sessions[oldest].Close()
	delete(r.sessions, oldest)
	return true
}

// answer forwards the guest's datagrams to a client until there were none in
// either direction for r.idle, or the guest's port turns out to be closed.
func (r *udpRelay) answer(client netip.AddrPort, session *udpSession) {
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
	_ = session.Close()
	if r.sessions[client] == session { // else another session has the slot
		delete(r.sessions, client)
		<-r.slots
	}
}
