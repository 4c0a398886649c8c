package network_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/internal/run"
)

// inNamespace is set if the test binary runs in a network namespace of its own,
// which stands for the host.
const inNamespace = "NETWORK_TEST_IN_NAMESPACE"

// TestMain runs the tests again in a new network namespace, which separates them
// from the real host and ends with them.
func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) != "" {
		lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
		if err := netlink.LinkSetUp(lo); err != nil {
			fmt.Fprintln(os.Stderr, "cannot set lo up:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	p, err := run.Start(context.Background(), run.Cmd{
		Args:  append([]string{run.Self}, os.Args[1:]...),
		Env:   append(os.Environ(), inNamespace+"=1"),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr:    &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET},
		KillWithParent: true,
	})
	if err != nil {
		os.Exit(m.Run()) // without the right to: needNamespace skips
	}
	os.Exit(p.Status())
}

func needNamespace(t testing.TB) {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root: a network namespace cannot be made")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
}

const (
	public     = "203.0.113.1"   // TEST-NET-3, stands for a host on the internet
	uplink     = "198.51.100.2"  // TEST-NET-2, the host's address
	extra      = "10.44.0.1"     // another one, where it is a name server
	resolver   = "10.9.9.53"     // a name server on the LAN
	mirror     = "192.168.88.1"  // a host on the LAN that guests may reach
	ownAllowed = "192.168.88.77" // the host's address there
)

// forbidden are addresses of the world that guests may not reach.
var forbidden = []string{
	"169.254.169.254", "10.9.9.9", "192.168.77.1", "100.100.100.200", "168.63.129.16", "172.17.0.1", resolver,
}

// world is a host with a link to an internet.
type world struct {
	manager  *network.Manager
	internet int // a process in its network namespace
}

// newWorld makes a world. Each address of the internet answers on TCP ports 53
// and 80 and on UDP ports 53 and 80 with the address that asked.
func newWorld(t testing.TB) *world {
	t.Helper()
	needNamespace(t)
	// The tests cause more refusals than the kernel sends by default.
	must(t, os.WriteFile("/proc/sys/net/ipv4/icmp_ratelimit", []byte("0"), 0))

	w := &world{internet: newProcess(t, unix.CLONE_NEWNET), manager: newManager("rg", "172.29.0.0/16")}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "down0", PeerNamespace: netlink.NsPid(w.internet)}
	must(t, netlink.LinkAdd(link))
	t.Cleanup(func() { must(t, netlink.LinkDel(link)) })
	configure(t, link, uplink+"/24", extra+"/32", ownAllowed+"/32")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Gw: net.ParseIP("198.51.100.1")}))

	within(t, w.internet, func() {
		lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
		configure(t, lo)
		down, err := netlink.LinkByName("down0")
		must(t, err)
		configure(t, down, "198.51.100.1/24")
		// So that packets that left without NAT would get an answer.
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: down.Attrs().Index, Gw: net.ParseIP(uplink)}))
		for _, a := range append([]string{public, mirror}, forbidden...) {
			configure(t, lo, a+"/32")
			for _, port := range []string{"53", "80"} {
				serveTCP(t, net.JoinHostPort(a, port))
				serveUDP(t, net.JoinHostPort(a, port))
			}
		}
	})
	must(t, w.manager.Setup(t.Context()))
	t.Cleanup(func() { must(t, w.manager.Close()) })
	return w
}

func newManager(prefix, subnet string) *network.Manager {
	return &network.Manager{
		Subnet:    netip.MustParsePrefix(subnet),
		Prefix:    prefix,
		Resolvers: []netip.Addr{netip.MustParseAddr(resolver), netip.MustParseAddr(extra)},
		// The second is of no use: other networks stay closed.
		Allow:    []netip.Prefix{netip.MustParsePrefix("192.168.88.5/24"), netip.MustParsePrefix("172.28.0.0/15")},
		Executor: run.Local{},
		Log:      slog.New(slog.DiscardHandler),
	}
}

func newNetwork(t testing.TB, m *network.Manager) *network.Network {
	t.Helper()
	n, err := m.NewNetwork()
	must(t, err)
	return n
}

// guest is a process in a network namespace that has joined a network.
type guest struct {
	pid  int
	addr netip.Addr
}

// newGuest joins a guest whose network namespace belongs to a user namespace of
// its own, as those of real guests do. It answers like the internet does.
func newGuest(t testing.TB, n *network.Network) guest {
	t.Helper()
	a, err := n.Reserve()
	must(t, err)
	g := guest{pid: newProcess(t, unix.CLONE_NEWNET|unix.CLONE_NEWUSER), addr: a}
	must(t, n.Join(g.pid, a))
	within(t, g.pid, func() {
		serveTCP(t, ":80")
		serveUDP(t, ":80")
	})
	return g
}

// newProcess starts a process in new namespaces that does nothing.
func newProcess(t testing.TB, namespaces uintptr) int {
	t.Helper()
	p, err := run.Start(context.Background(), run.Cmd{
		Args:           []string{"sleep", "600"},
		SysProcAttr:    &syscall.SysProcAttr{Cloneflags: namespaces},
		KillWithParent: true,
	})
	must(t, err)
	t.Cleanup(func() {
		_ = p.Signal(os.Kill)
		<-p.Done()
	})
	return p.Pid()
}

// within runs f in the network namespace of a process. Sockets that f opens stay
// there; other goroutines are not affected.
func within(t testing.TB, pid int, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		own, err := netns.Get()
		var ns netns.NsHandle
		if err == nil {
			defer own.Close()
			ns, err = netns.GetFromPid(pid)
		}
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}

		defer func() { done <- err }()
		if err == nil {
			defer func() { err = netns.Set(own) }()
			f()
		}
	}()
	must(t, <-done)
}

func configure(t testing.TB, link netlink.Link, addrs ...string) {
	t.Helper()
	must(t, netlink.LinkSetUp(link))
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		must(t, err)
		must(t, netlink.AddrAdd(link, addr))
	}
}

// serveTCP answers connections with the client's address, then with all that the
// client sends.
func serveTCP(t testing.TB, on string) {
	t.Helper()
	l, err := net.Listen("tcp4", on)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprintln(conn, host(conn.RemoteAddr()))
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
}

// serveUDP answers datagrams with the client's address.
func serveUDP(t testing.TB, on string) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", on)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			_, client, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(host(client)+"\n"), client)
		}
	}()
}

// ask connects from the namespace of a process, 0 for that of the host, and
// returns the first line of the answer.
func ask(t testing.TB, pid int, protocol, to string) (answer string, err error) {
	t.Helper()
	return askFrom(t, pid, protocol, nil, to)
}

func askFrom(t testing.TB, pid int, protocol string, from net.Addr, to string) (answer string, err error) {
	t.Helper()
	if pid == 0 {
		pid = os.Getpid()
	}
	within(t, pid, func() {
		var conn net.Conn
		d := net.Dialer{Timeout: time.Second, LocalAddr: from}
		if conn, err = d.Dial(protocol, to); err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if protocol == "udp" {
			_, _ = io.WriteString(conn, "?")
		}
		answer, err = bufio.NewReader(conn).ReadString('\n')
		answer = strings.TrimSpace(answer)
	})
	return answer, err
}

func host(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

func join(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
