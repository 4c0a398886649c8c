package network

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// relayTo starts a relay on loopback to a listener whose connections are served.
func relayTo(t *testing.T, serve func(*net.TCPConn)) (on string, r *tcpRelay) {
	t.Helper()
	target := listenTCP(t)
	go func() {
		for {
			conn, err := target.AcceptTCP()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	l := listenTCP(t)
	r = newTCPRelay(l, target.Addr().(*net.TCPAddr).AddrPort(), make(slots, 10), slog.New(slog.DiscardHandler))
	t.Cleanup(r.Close)
	return l.Addr().String(), r
}

func listenTCP(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func dialTCP(t *testing.T, to string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp4", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn.(*net.TCPConn)
}

// TestTCPHalfClose sends a request whose end is the end of the stream, to a
// server that answers only then.
func TestTCPHalfClose(t *testing.T) {
	on, _ := relayTo(t, func(conn *net.TCPConn) {
		defer conn.Close()
		request, _ := io.ReadAll(conn)
		_, _ = conn.Write(request)
	})
	conn := dialTCP(t, on)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB: more than the buffers hold
	if _, err := conn.Write(want); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v; want the %d sent", len(got), err, len(want))
	}
}

// TestTCPBroken breaks either connection while the other side waits for data.
func TestTCPBroken(t *testing.T) {
	t.Run("guest", func(t *testing.T) {
		on, _ := relayTo(t, func(conn *net.TCPConn) {
			_, _ = io.ReadFull(conn, make([]byte, 5))
			_ = conn.SetLinger(0)
			_ = conn.Close()
		})
		conn := dialTCP(t, on)
		_, _ = conn.Write([]byte("hello"))
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the client still waits")
		}
	})
	t.Run("client", func(t *testing.T) {
		ended := make(chan error, 1)
		on, _ := relayTo(t, func(conn *net.TCPConn) {
			_, _ = conn.Write([]byte("hello"))
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err := io.ReadAll(conn)
			ended <- err
		})
		conn := dialTCP(t, on)
		_, _ = io.ReadFull(conn, make([]byte, 5))
		_ = conn.SetLinger(0)
		_ = conn.Close()
		if err := <-ended; errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the guest still waits")
		}
	})
}

// TestTCPClose closes a relay with a connection in use.
func TestTCPClose(t *testing.T) {
	on, r := relayTo(t, func(conn *net.TCPConn) { _, _ = conn.Write([]byte("hello")) })
	conn := dialTCP(t, on)
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is left")
	}
	if conn, err := net.Dial("tcp4", on); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("got %v, %v; want no listener", conn, err)
	}
}

// TestUDPSessions sends from two clients, then waits for the end of the sessions.
func TestUDPSessions(t *testing.T) {
	const idle = 300 * time.Millisecond
	target := listenUDP(t)
	l := listenUDP(t)
	r := newUDPRelay(l, target.LocalAddr().(*net.UDPAddr).AddrPort(), idle, make(slots, 10), slog.New(slog.DiscardHandler))
	t.Cleanup(r.Close)

	first, second := dialUDP(t, l), dialUDP(t, l)
	firstSession := send(t, first, target, "one")
	secondSession := send(t, second, target, "two")
	if again := send(t, first, target, "three"); again != firstSession {
		t.Errorf("a client came from %v, then from %v", firstSession, again)
	}

	// The last answer first: each client gets its own.
	for _, answer := range []struct {
		client  *net.UDPConn
		session netip.AddrPort
		text    string
	}{
		{client: second, session: secondSession, text: "for the second"},
		{client: first, session: firstSession, text: ""},
		{client: first, session: firstSession, text: "for the first"},
	} {
		if _, err := target.WriteToUDPAddrPort([]byte(answer.text), answer.session); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, err := answer.client.Read(buf)
		if err != nil || string(buf[:n]) != answer.text {
			t.Errorf("got %q, %v; want %q", buf[:n], err, answer.text)
		}
	}

	for deadline := time.Now().Add(20 * idle); r.count() > 0; time.Sleep(idle / 10) {
		if time.Now().After(deadline) {
			t.Fatal("sessions are left")
		}
	}

	send(t, first, target, "later")
	if r.count() != 1 {
		t.Errorf("%d sessions, want 1", r.count())
	}
}

// TestUDPSlots has more clients than there are slots: the one that was silent for
// the longest time loses its session.
func TestUDPSlots(t *testing.T) {
	target, l := listenUDP(t), listenUDP(t)
	free := make(slots, 2)
	r := newUDPRelay(l, target.LocalAddr().(*net.UDPAddr).AddrPort(), time.Minute, free, slog.New(slog.DiscardHandler))

	first, second := dialUDP(t, l), dialUDP(t, l)
	firstSession := send(t, first, target, "one")
	secondSession := send(t, second, target, "two")
	send(t, first, target, "three")
	for range 10 {
		send(t, dialUDP(t, l), target, "more")
		if again := send(t, first, target, "four"); again != firstSession {
			t.Errorf("the client that asked last came from %v, then from %v", firstSession, again)
		}
	}
	if again := send(t, second, target, "five"); again == secondSession {
		t.Errorf("the session of the client that was silent is left")
	}
	if r.count() != 2 {
		t.Errorf("%d sessions, want 2", r.count())
	}

	r.Close()
	if len(free) != 0 {
		t.Errorf("%d slots are taken after the end, want none", len(free))
	}
}

func (r *udpRelay) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions)
}

func listenUDP(t *testing.T) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func dialUDP(t *testing.T, to *net.UDPConn) *net.UDPConn {
	t.Helper()
	conn, err := net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

// send sends from a client to the target through a relay, and returns the address
// it arrives from.
func send(t *testing.T, client, target *net.UDPConn, text string) netip.AddrPort {
	t.Helper()
	if _, err := client.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	_ = target.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 100)
	n, from, err := target.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != text {
		t.Fatalf("got %q, %v; want %q", buf[:n], err, text)
	}
	return from
}
