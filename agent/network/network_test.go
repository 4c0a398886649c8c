package network_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/internal/run"
)

func TestReachable(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	g, sibling := newGuest(t, n), newGuest(t, n)
	serveTCP(t, extra+":53")
	serveUDP(t, extra+":53")

	for _, test := range []struct{ summary, to, seen string }{
		{summary: "the internet, by NAT", to: public + ":80", seen: uplink},
		{summary: "a resolver", to: resolver + ":53", seen: uplink},
		{summary: "a resolver on the host", to: extra + ":53", seen: g.addr.String()},
		{summary: "a private range that is allowed", to: mirror + ":80", seen: uplink},
		{summary: "another guest of the network", to: sibling.addr.String() + ":80", seen: g.addr.String()},
		{summary: "itself", to: "127.0.0.1:80", seen: "127.0.0.1"},
	} {
		for _, protocol := range []string{"tcp", "udp"} {
			t.Run(test.summary+" "+protocol, func(t *testing.T) {
				seen, err := ask(t, g.pid, protocol, test.to)
				if err != nil || seen != test.seen {
					t.Errorf("%s answered %q, %v; want %q", test.to, seen, err, test.seen)
				}
			})
		}
	}
}

// TestStepsPort opens ports in the guest of a job as a step does, which the
// services of the job reach at the job's address.
func TestStepsPort(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	job, service := newGuest(t, n), newGuest(t, n)
	foreign := newGuest(t, newNetwork(t, w.manager))

	const opened = ":45678"
	to := job.addr.String() + opened
	for _, protocol := range []string{"tcp", "udp"} {
		if _, err := ask(t, service.pid, protocol, to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: before a step opens the port: %v", protocol, err)
		}
	}

	within(t, job.pid, func() {
		serveTCP(t, opened)
		serveUDP(t, opened)
	})
	for _, protocol := range []string{"tcp", "udp"} {
		if seen, err := ask(t, service.pid, protocol, to); err != nil || seen != service.addr.String() {
			t.Errorf("%s: the step answered %q, %v; want the address of the service", protocol, seen, err)
		}
		if answer, err := ask(t, foreign.pid, protocol, to); err == nil {
			t.Errorf("%s: the step answered %q to another job", protocol, answer)
		}
	}
}

func TestUnreachable(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	g := newGuest(t, n)
	second := newNetwork(t, w.manager)
	type target struct{ summary, to string }
	targets := []target{
		{summary: "a guest of another network", to: newGuest(t, second).addr.String() + ":80"},
		{summary: "a resolver's other ports", to: resolver + ":80"},
	}

	serveTCP(t, "0.0.0.0:80") // on every address of the host
	serveUDP(t, "0.0.0.0:80")
	for _, a := range []string{uplink, extra, ownAllowed, "172.29.0.1", "172.29.1.1"} {
		targets = append(targets, target{summary: "the host, " + a, to: a + ":80"})
	}
	for _, protocol := range []string{"tcp", "udp"} {
		port, err := n.Publish(network.Port{Container: 80, Protocol: protocol}, g.addr)
		must(t, err)
		targets = append(targets,
			target{summary: "a published port at the bridge, " + protocol, to: join("172.29.0.1", port)},
			target{summary: "a published port at the uplink, " + protocol, to: join(uplink, port)})
	}
	for _, a := range forbidden {
		targets = append(targets, target{summary: a, to: a + ":80"})
	}

	// Refused at once, rather than lost: the errors of a reset and of ICMP's "prohibited".
	for _, refused := range []struct {
		protocol string
		want     error
	}{
		{protocol: "tcp", want: unix.ECONNREFUSED},
		{protocol: "udp", want: unix.EHOSTUNREACH},
	} {
		for _, target := range targets {
			t.Run(target.summary+" "+refused.protocol, func(t *testing.T) {
				answer, err := ask(t, g.pid, refused.protocol, target.to)
				if !errors.Is(err, refused.want) {
					t.Errorf("%s answered %q, %v", target.to, answer, err)
				}
			})
		}
	}
}

// TestAllowHosts has GitHub and a proxy at addresses that are closed otherwise.
func TestAllowHosts(t *testing.T) {
	const github, proxy = "10.9.9.9", ownAllowed
	w := newWorld(t)
	names := map[string]string{}
	w.manager.AllowHosts = []string{"github.lan:80", proxy + ":3128", "metadata.lan:80", "gone.lan:80"}
	w.manager.Lookup = func(_ context.Context, network, host string) ([]netip.Addr, error) {
		if a, err := netip.ParseAddr(host); err == nil {
			return []netip.Addr{a}, nil
		}
		if a, ok := names[host]; ok && network == "ip4" {
			return []netip.Addr{netip.MustParseAddr(a)}, nil
		}
		return nil, errors.New("no such host")
	}
	serveTCP(t, proxy+":3128")
	serveTCP(t, proxy+":3129")
	serveUDP(t, proxy+":3128")

	newJob := func(t *testing.T) guest { return newGuest(t, newNetwork(t, w.manager)) }
	check := func(t *testing.T, g guest, protocol, to string, allowed bool) {
		t.Helper()
		answer, err := ask(t, g.pid, protocol, to)
		if (err == nil) != allowed {
			t.Errorf("%s %s answered %q, %v; allowed: %v", protocol, to, answer, err, allowed)
		}
	}

	// No name is known when the broker starts, as at boot before the network is up.
	must(t, w.manager.Setup(t.Context()))
	first := newJob(t)
	check(t, first, "tcp", github+":80", false)
	check(t, first, "tcp", proxy+":3128", true)

	names["github.lan"], names["metadata.lan"] = github, "169.254.169.254"
	second := newJob(t)
	check(t, second, "tcp", github+":80", true)
	check(t, second, "tcp", github+":53", false)
	check(t, second, "udp", github+":80", false)
	check(t, second, "tcp", proxy+":3128", true)
	check(t, second, "tcp", proxy+":3129", false)
	check(t, second, "udp", proxy+":3128", false)
	check(t, second, "tcp", uplink+":3128", false)
	check(t, second, "tcp", "169.254.169.254:80", false)

	// Name servers that do not answer close nothing.
	delete(names, "github.lan")
	check(t, newJob(t), "tcp", github+":80", true)

	// GitHub moved.
	names["github.lan"] = "192.168.77.1"
	moved := newJob(t)
	check(t, moved, "tcp", github+":80", false)
	check(t, moved, "tcp", "192.168.77.1:80", true)

	// As long as nothing changes, a job does not wait for nft.
	w.manager.Executor = noExecutor{t}
	newJob(t)
	w.manager.Executor = run.Local{}
}

// noExecutor fails a test that runs anything.
type noExecutor struct{ t *testing.T }

func (e noExecutor) Exec(_ context.Context, c run.Cmd) error {
	e.t.Errorf("%q runs", c.Args)
	return nil
}

// TestNotRouted connects to guests from outside.
func TestNotRouted(t *testing.T) {
	w := newWorld(t)
	g := newGuest(t, newNetwork(t, w.manager))
	if answer, err := ask(t, w.internet, "tcp", g.addr.String()+":80"); err == nil {
		t.Errorf("the guest answered %q to the internet", answer)
	}
	if answer, err := ask(t, w.internet, "tcp", uplink+":80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the answer of a closed port is %q, %v: rules have an effect on others", answer, err)
	}
	if answer, err := ask(t, 0, "tcp", g.addr.String()+":80"); err != nil || answer != "172.29.0.1" {
		t.Errorf("the guest answered %q, %v to the host", answer, err)
	}

	other := newManager("rh", "172.30.0.0/16")
	must(t, other.Setup(t.Context()))
	defer other.Close()
	for _, to := range []string{g.addr.String(), "172.29.0.1"} {
		foreign := newGuest(t, newNetwork(t, other))
		if answer, err := ask(t, foreign.pid, "tcp", to+":80"); err == nil {
			t.Errorf("%s answered %q to a guest of another broker", to, answer)
		}
	}
}

func TestSpoofing(t *testing.T) {
	w := newWorld(t)
	g := newGuest(t, newNetwork(t, w.manager))
	newGuest(t, newNetwork(t, w.manager)) // has the second subnet

	var sink net.PacketConn
	within(t, w.internet, func() {
		var err error
		sink, err = net.ListenPacket("udp4", public+":9")
		must(t, err)
	})
	defer sink.Close()

	within(t, g.pid, func() {
		eth0, err := netlink.LinkByName("eth0")
		must(t, err)
		configure(t, eth0, "172.29.0.99/24", "9.9.9.9/32", "172.31.0.1/32", "172.29.1.200/32")
	})

	for _, test := range []struct {
		from string
		ok   bool
	}{
		{from: g.addr.String(), ok: true},
		{from: "172.29.0.99", ok: true}, // its own network's: only its own job is deceived
		{from: "9.9.9.9"},
		{from: "172.31.0.1"},
		{from: "172.29.1.200"}, // that of another network, in our subnet
	} {
		within(t, g.pid, func() {
			from, to := &net.UDPAddr{IP: net.ParseIP(test.from)}, &net.UDPAddr{IP: net.ParseIP(public), Port: 9}
			conn, err := net.DialUDP("udp4", from, to)
			must(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, test.from)
			must(t, err)
		})

		buf := make([]byte, 100)
		_ = sink.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, from, err := sink.ReadFrom(buf); (err == nil) != test.ok {
			t.Errorf("from %s: the internet got %q from %v, %v", test.from, buf[:n], from, err)
		}
	}
}

// TestIPv6 enables IPv6 on the bridge again: the rules drop it still.
func TestIPv6(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	g := newGuest(t, n)

	for _, setting := range []struct{ file, value string }{
		{file: "all/forwarding", value: "1"},
		{file: "up0/accept_dad", value: "0"},
		{file: n.ID() + "/disable_ipv6", value: "0"},
		{file: n.ID() + "/accept_dad", value: "0"},
	} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+setting.file, []byte(setting.value), 0)
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("needs IPv6")
		}
		must(t, err)
	}

	addIPv6(t, "up0", "fd01::2/64")
	addIPv6(t, n.ID(), "fd02::1/64")
	within(t, w.internet, func() {
		addIPv6(t, "down0", "fd01::1/64")
		must(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("fd01::2")}))
	})
	within(t, g.pid, func() {
		addIPv6(t, "eth0", "fd02::2/64")
		must(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("fd02::1")}))
	})

	listen := func() {
		l, err := net.Listen("tcp6", "[::]:81")
		must(t, err)
		t.Cleanup(func() { _ = l.Close() })
	}
	within(t, w.internet, func() { listen() })
	listen()
	targets := []string{"[fd01::1]:81", "[fd02::1]:81"}

	reach := func(to string) (err error) {
		within(t, g.pid, func() {
			var conn net.Conn
			if conn, err = net.DialTimeout("tcp6", to, time.Second); err == nil {
				_ = conn.Close()
			}
		})
		return err
	}

	// Only the rules are in the way.
	rules := ruleset(t)
	must(t, exec.Command("nft", "flush", "ruleset").Run())

	for _, to := range targets {
		var err error
		for range 5 { // until all addresses are in use
			if err = reach(to); err == nil {
				break
			}
		}
		must(t, err)
	}

	load := exec.Command("nft", "-f", "-")
	load.Stdin = strings.NewReader(rules)
	must(t, load.Run())
	for _, to := range targets {
		if err := reach(to); err == nil {
			t.Errorf("the guest reached %s", to)
		}
	}
}

// addIPv6 adds an address that can be used at once.
func addIPv6(t *testing.T, name, address string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	a, err := netlink.ParseAddr(address)
	must(t, err)
	a.Flags = unix.IFA_F_NODAD
	must(t, netlink.AddrAdd(link, a))
}

// TestBridgeNetfilter has bridged packets pass through the rules, as they do
// with Docker on the host, or do not.
func TestBridgeNetfilter(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	a, b := newGuest(t, n), newGuest(t, n)
	for _, setting := range []string{"0", "1"} {
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(setting), 0)
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("needs the kernel module br_netfilter")
		}
		must(t, err)
		seen, err := ask(t, a.pid, "tcp", b.addr.String()+":80")
		if err != nil || seen != a.addr.String() {
			t.Errorf("with bridge-nf-call-iptables=%s: got %q, %v; want %s", setting, seen, err, a.addr)
		}
	}
}

func TestGuestLink(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	g := newGuest(t, n)
	var got []string
	within(t, g.pid, func() {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		must(t, err)
		for _, a := range addrs {
			got = append(got, a.IPNet.String()+" "+a.Label)
		}
	})
	slices.Sort(got)
	if want := []string{"127.0.0.1/8 lo", "172.29.0.2/24 eth0", "::1/128 "}; !slices.Equal(got, want) {
		t.Errorf("the guest has addresses %q, want %q", got, want)
	}
	for _, name := range []string{n.ID(), n.ID() + "-2"} {
		link, err := netlink.LinkByName(name)
		must(t, err)
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		must(t, err)
		if len(addrs) > 0 {
			t.Errorf("%s has IPv6 addresses %v", name, addrs)
		}
	}
}

func TestJoinErrors(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	a, err := n.Reserve()
	must(t, err)
	full := newProcess(t, unix.CLONE_NEWNET)
	must(t, n.Join(full, a))
	b, err := n.Reserve()
	must(t, err)
	gone := exec.Command("true")
	must(t, gone.Run())

	for _, test := range []struct {
		summary string
		pid     int
		addr    string
		err     string
	}{{
		summary: "address that is not reserved",
		pid:     full, addr: "172.29.0.77",
		err: "cannot join guest 172.29.0.77 to network rg-0: the address is not reserved",
	}, {
		summary: "a process in this namespace",
		pid:     os.Getpid(), addr: b.String(),
		err: "cannot join guest 172.29.0.3 to network rg-0: process PID is in the network namespace of the host",
	}, {
		summary: "a guest that has eth0",
		pid:     full, addr: b.String(),
		err: "cannot join guest 172.29.0.3 to network rg-0: cannot make link: file exists",
	}, {
		summary: "a process that is gone",
		pid:     gone.Process.Pid, addr: b.String(),
		err: "cannot join guest 172.29.0.3 to network rg-0: cannot open network namespace: no such file or directory",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			err := n.Join(test.pid, netip.MustParseAddr(test.addr))
			want := strings.ReplaceAll(test.err, "PID", strconv.Itoa(os.Getpid()))
			if err == nil || err.Error() != want {
				t.Errorf("got error %v, want %s", err, want)
			}
		})
	}

	if links := ownLinks(t, "rg-"); !slices.Equal(links, []string{"rg-0", "rg-0-2"}) {
		t.Errorf("links are left: %q", links)
	}
}

func TestReserve(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	seen := map[netip.Addr]bool{}
	for range 253 {
		a, err := n.Reserve()
		must(t, err)
		seen[a] = true
	}
	if len(seen) != 253 || seen[netip.MustParseAddr("172.29.0.1")] || seen[netip.MustParseAddr("172.29.0.255")] {
		t.Errorf("got %d addresses", len(seen))
	}

	_, err := n.Reserve()
	if want := "cannot reserve address in network rg-0: all 253 are in use"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}

	free := netip.MustParseAddr("172.29.0.200")
	must(t, n.Leave(free))
	if a, err := n.Reserve(); err != nil || a != free {
		t.Errorf("got %s, %v; want the one given back", a, err)
	}
}

// TestJoinAtOnce starts the guests of a job as the broker does.
func TestJoinAtOnce(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	var pids []int
	for range 8 {
		pids = append(pids, newProcess(t, unix.CLONE_NEWNET))
	}

	joined := make(chan error)
	for _, pid := range pids {
		go func() {
			a, err := n.Reserve()
			if err == nil {
				err = n.Join(pid, a)
			}
			joined <- err
		}()
	}

	for range pids {
		must(t, <-joined)
	}
	for _, pid := range pids {
		if seen, err := ask(t, pid, "tcp", public+":80"); err != nil || seen != uplink {
			t.Errorf("got %q, %v", seen, err)
		}
	}
}

// TestLeave ends a guest, whose address another one gets.
func TestLeave(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	sibling, g := newGuest(t, n), newGuest(t, n)
	if _, err := ask(t, sibling.pid, "tcp", g.addr.String()+":80"); err != nil {
		t.Fatal(err)
	}

	port, err := n.Publish(network.Port{Container: 80, Protocol: "tcp"}, g.addr)
	must(t, err)
	must(t, n.Leave(g.addr))
	if _, err := ask(t, 0, "tcp", join("127.0.0.1", port)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the published port is still there: %v", err)
	}

	for range 252 { // round the whole network
		a, err := n.Reserve()
		must(t, err)
		if a == g.addr {
			pid := newProcess(t, unix.CLONE_NEWNET)
			must(t, n.Join(pid, a))
			within(t, pid, func() { serveTCP(t, ":81") })
			break
		}
	}

	if _, err := ask(t, sibling.pid, "tcp", g.addr.String()+":81"); err != nil {
		t.Errorf("the next guest of that address: %v", err)
	}
}

func TestPublish(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	for _, protocol := range []string{"tcp", "udp"} {
		t.Run(protocol, func(t *testing.T) {
			g := newGuest(t, n)
			port, err := n.Publish(network.Port{Container: 80, Protocol: protocol}, g.addr)
			must(t, err)
			if port == 0 {
				t.Fatal("got no port")
			}

			for range 3 {
				for _, loopback := range []string{"127.0.0.1", "::1"} { // V32
					if seen, err := ask(t, 0, protocol, join(loopback, port)); err != nil || seen != "172.29.0.1" {
						t.Errorf("the guest answered %q, %v at %s", seen, err, loopback)
					}
				}
			}
			if _, err := ask(t, w.internet, protocol, join(uplink, port)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("from outside: %v", err)
			}

			_, err = n.Publish(network.Port{Host: uint16(port), Container: 80, Protocol: protocol}, g.addr)
			want := "cannot publish port 80/" + protocol + ": port " + strconv.Itoa(port) + " of the host is in use; " +
				"choose another, or leave it out to get a free one"
			if err == nil || err.Error() != want {
				t.Errorf("got error %v, want %s", err, want)
			}

			must(t, n.Leave(g.addr)) // ends the relay
			_, err = n.Publish(network.Port{Host: uint16(port), Container: 80, Protocol: protocol}, g.addr)
			if err == nil || !strings.HasSuffix(err.Error(), "is not reserved in network rg-0") {
				t.Errorf("got error %v", err)
			}

			g = newGuest(t, n)
			got, err := n.Publish(network.Port{Host: uint16(port), Container: 80, Protocol: protocol}, g.addr)
			if err != nil || got != port {
				t.Errorf("got port %d, %v; want %d", got, err, port)
			}
		})
	}
	g := newGuest(t, n)
	_, err := n.Publish(network.Port{Container: 80, Protocol: "sctp"}, g.addr)
	if want := "cannot publish port 80/sctp: the protocol is neither tcp nor udp"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}

	port, err := n.Publish(network.Port{Container: 99, Protocol: "tcp"}, g.addr)
	must(t, err)
	if _, err := ask(t, 0, "tcp", join("127.0.0.1", port)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client of a closed port got %v", err)
	}
}

// TestPublishIn publishes a port of a service inside the guest of a job.
func TestPublishIn(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	job := newGuest(t, n)
	foreign := newGuest(t, newNetwork(t, w.manager))

	for _, protocol := range []string{"tcp", "udp"} {
		t.Run(protocol, func(t *testing.T) {
			service := newGuest(t, n)
			port, err := n.PublishIn(job.pid, network.Port{Container: 80, Protocol: protocol}, service.addr)
			must(t, err)
			if port == 0 {
				t.Fatal("got no port")
			}
			for _, loopback := range []string{"127.0.0.1", "::1"} {
				for range 3 {
					seen, err := ask(t, job.pid, protocol, join(loopback, port))
					if err != nil || seen != "172.29.0.1" {
						t.Errorf("the service answered %q, %v at %s", seen, err, loopback)
					}
				}
				for summary, pid := range map[string]int{"host": 0, "service": service.pid, "other job": foreign.pid} {
					if answer, err := ask(t, pid, protocol, join(loopback, port)); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("at %s of the %s: %q, %v", loopback, summary, answer, err)
					}
				}
			}
			// Loopback alone: not at the address that other guests reach.
			if answer, err := ask(t, service.pid, protocol, join(job.addr.String(), port)); err == nil {
				t.Errorf("the guest's address answered %q", answer)
			}

			taken := network.Port{Host: uint16(port), Container: 80, Protocol: protocol}
			_, err = n.PublishIn(job.pid, taken, service.addr)
			want := "cannot publish port 80/" + protocol + ": port " + strconv.Itoa(port) + " of the guest is in use; " +
				"choose another, or leave it out to get a free one"
			if err == nil || err.Error() != want {
				t.Errorf("got error %v, want %s", err, want)
			}

			must(t, n.Leave(service.addr)) // ends the relays
			for _, loopback := range []string{"127.0.0.1", "::1"} {
				if _, err := ask(t, job.pid, protocol, join(loopback, port)); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("a listener is left at %s: %v", loopback, err)
				}
			}
			service = newGuest(t, n)
			if got, err := n.PublishIn(job.pid, taken, service.addr); err != nil || got != port {
				t.Errorf("got port %d, %v; want %d", got, err, port)
			}
		})
	}
}

// TestPublishInTaken publishes a port that a process of the guest has at one of
// the two addresses.
func TestPublishInTaken(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	job, service := newGuest(t, n), newGuest(t, n)

	for _, test := range []struct{ summary, network, on string }{
		{summary: "IPv4", network: "tcp4", on: "127.0.0.1:5432"},
		{summary: "IPv6", network: "tcp6", on: "[::1]:5433"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var step net.Listener
			within(t, job.pid, func() {
				var err error
				step, err = net.Listen(test.network, test.on)
				must(t, err)
			})
			defer step.Close()
			port := uint16(step.Addr().(*net.TCPAddr).Port)

			p := network.Port{Host: port, Container: 80, Protocol: "tcp"}
			if got, err := n.PublishIn(job.pid, p, service.addr); err == nil {
				t.Errorf("got port %d, which a step has", got)
			}

			// The socket at the other address is closed again.
			_ = step.Close()
			if got, err := n.PublishIn(job.pid, p, service.addr); err != nil || got != int(port) {
				t.Errorf("got port %d, %v after the step ended; want %d", got, err, port)
			}
		})
	}
}

// TestPublishInWithoutIPv6 publishes in a guest that has no ::1.
func TestPublishInWithoutIPv6(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	job, service := newGuest(t, n), newGuest(t, n)
	within(t, job.pid, func() {
		lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
		addr, err := netlink.ParseAddr("::1/128")
		must(t, err)
		must(t, netlink.AddrDel(lo, addr))
	})
	port, err := n.PublishIn(job.pid, network.Port{Container: 80, Protocol: "tcp"}, service.addr)
	must(t, err)
	if _, err := ask(t, job.pid, "tcp", join("127.0.0.1", port)); err != nil {
		t.Error(err)
	}
}

func TestPublishInErrors(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	job, service := newGuest(t, n), newGuest(t, n)

	for _, test := range []struct {
		summary, protocol string
		leader            int
		err               string
	}{{
		summary: "the host", protocol: "tcp", leader: os.Getpid(),
		err: "cannot publish port 80/tcp in a guest: process PID is in the network namespace of the host",
	}, {
		summary: "another protocol", protocol: "sctp", leader: job.pid,
		err: "cannot publish port 80/sctp: the protocol is neither tcp nor udp",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			p := network.Port{Container: 80, Protocol: test.protocol}
			_, err := n.PublishIn(test.leader, p, service.addr)
			want := strings.ReplaceAll(test.err, "PID", strconv.Itoa(os.Getpid()))
			if errorText(err) != want {
				t.Errorf("got error %v, want %s", err, want)
			}
		})
	}

	for range 256 {
		_, err := n.PublishIn(job.pid, network.Port{Container: 80, Protocol: "tcp"}, service.addr)
		must(t, err)
	}
	_, err := n.PublishIn(job.pid, network.Port{Container: 80, Protocol: "tcp"}, service.addr)
	want := "cannot publish port 80/tcp: network rg-0 has 256 published ports already"
	if errorText(err) != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

// TestRelayed has a job connect to a service's port as often as it can: the
// broker must not run out of descriptors.
func TestRelayed(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	job, service := newGuest(t, n), newGuest(t, n)
	port, err := n.PublishIn(job.pid, network.Port{Container: 80, Protocol: "tcp"}, service.addr)
	must(t, err)

	const attempts, most = 2000, 1024
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	within(t, job.pid, func() {
		for range attempts {
			conn, err := net.DialTimeout("tcp4", join("127.0.0.1", port), 5*time.Second)
			must(t, err)
			conns = append(conns, conn)
		}
	})

	// The service answers each connection that reaches it.
	answered := 0
	deadline := time.Now().Add(2 * time.Second)
	for _, conn := range conns {
		_ = conn.SetReadDeadline(deadline)
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			answered++
		}
	}
	if answered != most {
		t.Errorf("%d of %d connections reached the service, want %d", answered, attempts, most)
	}

	// Those that waited get the places of others.
	for _, conn := range conns[:most] {
		_ = conn.Close()
	}
	last := conns[len(conns)-1]
	_ = last.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := last.Read(make([]byte, 1)); err != nil {
		t.Errorf("the connection that waited got %v", err)
	}
}

func TestNetworks(t *testing.T) {
	w := newWorld(t)
	var networks []*network.Network
	for range 16 {
		networks = append(networks, newNetwork(t, w.manager))
	}
	_, err := w.manager.NewNetwork()
	if want := "cannot make network: all 16 are in use"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}

	for _, n := range networks {
		g := newGuest(t, n)
		if seen, err := ask(t, g.pid, "tcp", public+":80"); err != nil || seen != uplink {
			t.Errorf("guest of %s: got %q, %v", n.ID(), seen, err)
		}
	}

	must(t, networks[3].Close())
	must(t, networks[3].Close())
	if _, err := networks[3].Reserve(); err == nil {
		t.Error("a closed network returns addresses")
	}
	if n := newNetwork(t, w.manager); n.ID() != networks[3].ID() {
		t.Errorf("got network %s, want %s again", n.ID(), networks[3].ID())
	}
}

// TestCloseAgain: a network whose links cannot be removed keeps its name until they
// are.
func TestCloseAgain(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	g := newGuest(t, n)

	withoutNetAdmin(t, func() {
		if err := n.Leave(g.addr); err == nil {
			t.Error("a link was removed without the right to")
		}
		if err := n.Close(); err == nil {
			t.Error("a network was removed without the right to")
		}
	})
	if other := newNetwork(t, w.manager); other.ID() == n.ID() {
		t.Errorf("two networks are called %s", n.ID())
	}

	must(t, n.Close())
	if links := ownLinks(t, n.ID()); len(links) > 0 {
		t.Errorf("links are left: %q", links)
	}
	if again := newNetwork(t, w.manager); again.ID() != n.ID() {
		t.Errorf("got network %s, want %s again", again.ID(), n.ID())
	}
}

// withoutNetAdmin calls do on a thread without CAP_NET_ADMIN. The thread is not
// used again.
func withoutNetAdmin(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		err := unix.Capget(&header, &sets[0])
		sets[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := errors.Join(err, unix.Capset(&header, &sets[0])); err != nil {
			t.Error(err)
			return
		}
		do()
	}()
	<-done
}

func TestClose(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, w.manager)
	g := newGuest(t, n)
	tcp, err := n.Publish(network.Port{Container: 80, Protocol: "tcp"}, g.addr)
	must(t, err)
	udp, err := n.Publish(network.Port{Container: 80, Protocol: "udp"}, g.addr)
	must(t, err)
	conn, err := net.Dial("tcp4", join("127.0.0.1", tcp))
	must(t, err)
	defer conn.Close()
	_, err = ask(t, 0, "udp", join("127.0.0.1", udp))
	must(t, err)

	must(t, w.manager.Close())
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a connection is left")
	}

	for _, left := range []struct {
		protocol string
		port     int
	}{{protocol: "tcp", port: tcp}, {protocol: "udp", port: udp}} {
		if _, err := ask(t, 0, left.protocol, join("127.0.0.1", left.port)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a listener for %s is left: %v", left.protocol, err)
		}
	}
	if links := ownLinks(t, "rg-"); len(links) > 0 {
		t.Errorf("links are left: %q", links)
	}
	if rules := ruleset(t); rules != "" {
		t.Errorf("rules are left: %s", rules)
	}

	within(t, g.pid, func() {
		if links := ownLinks(t, "eth0"); len(links) > 0 {
			t.Errorf("the guest still has %q", links)
		}
	})
}

// TestCrash leaves everything as a broker that was killed does.
func TestCrash(t *testing.T) {
	w := newWorld(t)
	first := newManager("rg", "172.29.0.0/16")
	n := newNetwork(t, first)
	newGuest(t, n)
	neighbour := newManager("rg2", "172.30.0.0/16")
	must(t, neighbour.Setup(t.Context()))
	defer neighbour.Close()
	newNetwork(t, neighbour)

	must(t, w.manager.Setup(t.Context()))
	if links := ownLinks(t, "rg"); !slices.Equal(links, []string{"rg2-0"}) {
		t.Errorf("got links %q, want only that of another prefix", links)
	}

	before := ruleset(t)
	must(t, w.manager.Setup(t.Context()))
	if after := ruleset(t); after != before {
		t.Errorf("the rules changed from %s to %s", before, after)
	}

	g := newGuest(t, newNetwork(t, w.manager))
	if seen, err := ask(t, g.pid, "tcp", public+":80"); err != nil || seen != uplink {
		t.Errorf("got %q, %v", seen, err)
	}
}

func TestSetupErrors(t *testing.T) {
	w := newWorld(t)
	up0, err := netlink.LinkByName("up0")
	must(t, err)
	configure(t, up0, "172.20.3.4/24")
	_, vpn, _ := net.ParseCIDR("172.22.0.0/15")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: up0.Attrs().Index, Dst: vpn, Table: 51}))
	_, half, _ := net.ParseCIDR("128.0.0.0/1")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: up0.Attrs().Index, Dst: half}))
	newNetwork(t, w.manager)

	for _, test := range []struct {
		summary string
		change  func(*network.Manager)
		err     string
	}{{
		summary: "the prefix",
		change:  func(m *network.Manager) { m.Prefix = "Runner-1" },
		err: `cannot name links of guests: ` +
			`prefix "Runner-1" is not up to eight lower-case letters and digits with a letter first`,
	}, {
		summary: "a small subnet",
		change:  func(m *network.Manager) { m.Subnet = netip.MustParsePrefix("172.31.0.0/24") },
		err:     "cannot use subnet 172.31.0.0/24 for guests: it is not IPv4 or smaller than a /20",
	}, {
		summary: "an IPv6 subnet",
		change:  func(m *network.Manager) { m.Subnet = netip.MustParsePrefix("fd00::/16") },
		err:     "cannot use subnet fd00::/16 for guests: it is not IPv4 or smaller than a /20",
	}, {
		summary: "an IPv6 resolver",
		change:  func(m *network.Manager) { m.Resolvers = []netip.Addr{netip.MustParseAddr("fd00::53")} },
		err:     "cannot let guests ask name server fd00::53: they have IPv4 only",
	}, {
		summary: "a server without a port",
		change:  func(m *network.Manager) { m.AllowHosts = []string{"github.lan"} },
		err:     `cannot let guests reach "github.lan": it is not a host and a port`,
	}, {
		summary: "an IPv6 range",
		change:  func(m *network.Manager) { m.Allow = []netip.Prefix{netip.MustParsePrefix("fd00::/8")} },
		err:     "cannot let guests reach fd00::/8: they have IPv4 only",
	}, {
		summary: "an address",
		change:  func(m *network.Manager) { m.Subnet = netip.MustParsePrefix("172.20.0.0/16") },
		err:     "cannot use subnet 172.20.0.0/16 for guests: subnet overlaps the address 172.20.3.4/24 of up0",
	}, {
		summary: "a route of another table",
		change:  func(m *network.Manager) { m.Subnet = netip.MustParsePrefix("172.23.0.0/16") },
		err:     "cannot use subnet 172.23.0.0/16 for guests: subnet overlaps the route to 172.22.0.0/15 through up0",
	}, {
		summary: "another broker",
		change:  func(m *network.Manager) { m.Prefix = "other" },
		err:     "cannot use subnet 172.29.0.0/16 for guests: subnet overlaps the address 172.29.0.1/24 of rg-0",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			before := ruleset(t)
			m := newManager("rg", "172.29.0.0/16")
			test.change(m)

			err := m.Setup(t.Context())
			if first, _, _ := strings.Cut(errorText(err), "\n"); first != test.err {
				t.Errorf("got error %q, want %q", first, test.err)
			}
			if got, want := errors.Is(err, network.ErrOverlap), strings.Contains(test.err, "overlaps"); got != want {
				t.Errorf("the error is ErrOverlap: %v, want %v", got, want)
			}

			if ruleset(t) != before || len(ownLinks(t, "rg-")) != 1 {
				t.Error("something changed")
			}
		})
	}
}

func BenchmarkNetwork(b *testing.B) {
	w := newWorld(b)
	var making, joining, closing time.Duration
	for b.Loop() {
		b.StopTimer()
		pid := newProcess(b, unix.CLONE_NEWNET|unix.CLONE_NEWUSER)
		b.StartTimer()
		start := time.Now()
		n := newNetwork(b, w.manager)
		made := time.Now()
		a, err := n.Reserve()
		must(b, err)
		must(b, n.Join(pid, a))
		joined := time.Now()
		must(b, n.Close())
		making, joining, closing = making+made.Sub(start), joining+joined.Sub(made), closing+time.Since(joined)
	}
	for name, total := range map[string]time.Duration{"make": making, "join": joining, "close": closing} {
		b.ReportMetric(float64(total.Microseconds())/1000/float64(b.N), name+"-ms")
	}
}

func ownLinks(t testing.TB, prefix string) []string {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	var names []string
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, prefix) {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names
}

func ruleset(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").Output()
	must(t, err)
	return string(out)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
