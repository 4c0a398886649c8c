package network_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestConntrack has a guest fill the one table of connections of the host
// (nf_conntrack, here that of the tests' network namespace).
func TestConntrack(t *testing.T) {
	const attempts, most, slack = 20000, 8192, 2000
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	g, sibling := newGuest(t, n), newGuest(t, n)
	other := newGuest(t, newNetwork(t, w.manager))
	before := tracked(t)

	// Each port of the same host is another connection. Nobody answers.
	within(t, g.pid, func() {
		conn, err := net.ListenUDP("udp4", nil)
		must(t, err)
		defer conn.Close()
		for port := range attempts {
			_, err := conn.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(public), Port: 1000 + port})
			if err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EHOSTUNREACH) {
				t.Fatal(err)
			}
		}
	})

	count := tracked(t) - before
	t.Logf("%d connections tracked after %d attempts", count, attempts)
	if count < most/2 || count > most+slack {
		t.Errorf("a guest has %d connections in the host's table, want %d at most", count, most)
	}

	// The host, other jobs and the job's own guests among each other go on.
	for _, test := range []struct {
		summary string
		pid     int
		to      string
	}{
		{summary: "the host", pid: 0, to: public + ":80"},
		{summary: "another job", pid: other.pid, to: public + ":80"},
		{summary: "a guest to its sibling", pid: g.pid, to: sibling.addr.String() + ":80"},
	} {
		if _, err := ask(t, test.pid, "tcp", test.to); err != nil {
			t.Errorf("%s: %v", test.summary, err)
		}
	}

	// All of the job's guests together have that many, so that addresses of the
	// job's subnet do not help.
	if err := askUntil(t, sibling.pid, unix.ECONNREFUSED); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a new connection got %v, want a refusal", err)
	}

	// The next job has a free table, also under the same bridge.
	must(t, n.Close())
	if count := tracked(t) - before; count > slack {
		t.Errorf("%d connections are left after the job", count)
	}
	next := newNetwork(t, w.manager)
	if next.ID() != n.ID() {
		t.Fatalf("the next network is %s, not %s again", next.ID(), n.ID())
	}
	if err := askUntil(t, newGuest(t, next).pid, nil); err != nil {
		t.Errorf("the next job: %v", err)
	}
}

// TestConntrackPace opens and closes connections. The kernel keeps a closed one
// for two minutes, but does not count it among the connections of a guest.
func TestConntrackPace(t *testing.T) {
	const duration, most = 3 * time.Second, 8192 + 4*200
	w := newWorld(t)
	g := newGuest(t, newNetwork(t, w.manager))

	opened := 0
	within(t, g.pid, func() {
		dialer := net.Dialer{Timeout: 100 * time.Millisecond}
		for end := time.Now().Add(duration); time.Now().Before(end); {
			if conn, err := dialer.Dial("tcp4", public+":80"); err == nil {
				opened++
				_ = conn.Close()
			}
		}
	})
	t.Logf("%d connections opened in %s", opened, duration)
	if opened < 200 || opened > most {
		t.Errorf("a guest opened %d connections in %s, want %d at most", opened, duration, most)
	}
	if _, err := ask(t, 0, "tcp", public+":80"); err != nil {
		t.Errorf("the host: %v", err)
	}
}

// TestConntrackCrash leaves connections as a broker that was killed does.
func TestConntrackCrash(t *testing.T) {
	w := newWorld(t)
	g := newGuest(t, newNetwork(t, w.manager))
	if _, err := ask(t, g.pid, "udp", public+":80"); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, 0, "udp", public+":80"); err != nil {
		t.Fatal(err)
	}
	if guests, hosts := trackedFrom(t, "172.29."), trackedFrom(t, uplink); guests == 0 || hosts == 0 {
		t.Fatalf("%d connections of the guest and %d of the host, want some of both", guests, hosts)
	}

	must(t, newManager("rg", "172.29.0.0/16").Setup(t.Context()))
	if guests, hosts := trackedFrom(t, "172.29."), trackedFrom(t, uplink); guests != 0 || hosts == 0 {
		t.Errorf("%d connections of the guest and %d of the host, want those of the host alone", guests, hosts)
	}
}

// trackedFrom returns how many connections of the host's table were opened from
// addresses that begin so.
func trackedFrom(t *testing.T, prefix string) int {
	t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	must(t, err)
	count := 0
	for _, flow := range flows {
		if strings.HasPrefix(flow.Forward.SrcIP.String(), prefix) {
			count++
		}
	}
	return count
}

// tracked returns how many connections the host's table has.
func tracked(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	must(t, err)
	count, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	return count
}

// askUntil connects to the internet until the result is want or five seconds
// have passed: a guest that was too fast loses its first packets.
func askUntil(t *testing.T, pid int, want error) error {
	t.Helper()
	err := fmt.Errorf("no attempt")
	for deadline := time.Now().Add(5 * time.Second); !errors.Is(err, want) && time.Now().Before(deadline); {
		_, err = ask(t, pid, "tcp", public+":80")
	}
	return err
}
