package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// maxPublished is how many ports a network can publish, each with two sockets.
	maxPublished = 256
	// maxRelayed is how many connections and sessions of UDP a network's relays
	// have at a time, each with two sockets and 64 KiB. The processes of a job
	// could otherwise use up the descriptors and the memory of the broker.
	maxRelayed = 1024
)

// Port is a port of a guest to publish.
type Port struct {
	Host      uint16 // on loopback; 0 for any free one
	Container uint16 // in the guest
	Protocol  string // "tcp" or "udp"
}

// relay forwards what arrives at a published port until it is closed.
type relay interface{ Close() }

// Publish relays a port of the host's 127.0.0.1 and, if it has that, ::1 to the guest
// that has, or will have, a reserved address, and returns the port of the host, which
// is the same at both. To the guest, connections come from the address of the bridge.
//
// It is a relay and not a DNAT rule because the kernel routes loopback to other
// links only with route_localnet (ip-sysctl.rst), which would open the services
// on the host's loopback to the guests as well. A listener also reserves the
// port, fails if another program has it, and ends with this process.
func (n *Network) Publish(p Port, to netip.Addr) (int, error) {
	here := func(listen func()) error { listen(); return nil }
	return n.publish(p, to, loopback{owner: "the host", enter: here})
}

// PublishIn does as Publish in the network namespace of process leader, of
// another guest as a rule, at 127.0.0.1 and, if it has that, at ::1. It returns
// the port, which is the same at both. The relay ends with the reservation of
// the address to, not with the process.
func (n *Network) PublishIn(leader int, p Port, to netip.Addr) (int, error) {
	ns, err := guestNamespace(leader)
	if err != nil {
		return 0, fmt.Errorf("cannot publish port %d/%s in a guest: %w", p.Container, p.Protocol, err)
	}
	defer ns.Close()

	return n.publish(p, to, loopback{
		owner: "the guest", enter: func(listen func()) error { return enterNamespace(ns, listen) },
	})
}

// loopback is the loopback of a network namespace.
type loopback struct {
	owner string                    // of the namespace, in messages
	enter func(listen func()) error // calls listen in the namespace
}

// loopbacks returns the addresses of localhost. Clients that know both may try the
// second only after the first, or not at all.
func loopbacks() []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
}

// enterNamespace calls f in another network namespace. Sockets that f opens stay
// there; other goroutines, also those that f starts, are not affected.
func enterNamespace(ns netns.NsHandle, f func()) error {
	entered := make(chan error)
	go func() { entered <- lockedInNamespace(ns, f) }()
	if err := <-entered; err != nil {
		return fmt.Errorf("cannot enter network namespace: %w", err)
	}
	return nil
}

// lockedInNamespace has a goroutine of its own: if there is no way back, it
// leaves its thread locked, which ends with it.
func lockedInNamespace(ns netns.NsHandle, f func()) error {
	runtime.LockOSThread()
	own, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer own.Close()
	if err := netns.Set(ns); err != nil {
		runtime.UnlockOSThread()
		return err
	}

	f()
	if err := netns.Set(own); err == nil {
		runtime.UnlockOSThread()
	}
	return nil
}

// publish relays a port of a loopback to a guest.
func (n *Network) publish(p Port, to netip.Addr, at loopback) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, reserved := n.guests[to]; !reserved {
		return 0, fmt.Errorf("cannot publish port %d/%s: address %s is not reserved in network %s",
			p.Container, p.Protocol, to, n.ID())
	}
	if n.published() >= maxPublished {
		return 0, fmt.Errorf("cannot publish port %d/%s: network %s has %d published ports already",
			p.Container, p.Protocol, n.ID(), maxPublished)
	}

	var made portRelays
	var err error
	if failed := at.enter(func() { made, err = n.listen(p, to) }); failed != nil {
		err = failed
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return 0, fmt.Errorf("cannot publish port %d/%s: port %d of %s is in use; "+
			"choose another, or leave it out to get a free one", p.Container, p.Protocol, p.Host, at.owner)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot publish port %d/%s: %w", p.Container, p.Protocol, err)
	}
	n.guests[to] = append(n.guests[to], made)
	return made.port, nil
}

// published returns how many ports of the network are published. The caller
// holds n.mu.
func (n *Network) published() int {
	count := 0
	for _, ports := range n.guests {
		count += len(ports)
	}
	return count
}

// portRelays are the relays of one published port, one for each address.
type portRelays struct {
	port   int
	relays []relay
}

func (p portRelays) Close() {
	for _, r := range p.relays {
		r.Close()
	}
}

// listen starts the relays of a port at all addresses of the loopback.
func (n *Network) listen(p Port, to netip.Addr) (portRelays, error) {
	const tries = 20
	for try := 1; ; try++ {
		made, err := n.listenOnce(p, to)
		// The port that is free at the first address can be in use at the second.
		if p.Host != 0 || try == tries || !errors.Is(err, unix.EADDRINUSE) {
			return made, err
		}
	}
}

func (n *Network) listenOnce(p Port, to netip.Addr) (portRelays, error) {
	made := portRelays{port: int(p.Host)}
	for _, a := range loopbacks() {
		on := netip.AddrPortFrom(a, uint16(made.port))
		r, port, err := n.listenAt(on, p.Protocol, netip.AddrPortFrom(to, p.Container))
		if a.Is6() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			continue // the namespace or the kernel does without IPv6
		}
		if err != nil {
			made.Close()
			return portRelays{}, err
		}
		made.relays, made.port = append(made.relays, r), port
	}
	return made, nil
}

// listenAt starts a relay and returns it with its port.
func (n *Network) listenAt(on netip.AddrPort, protocol string, to netip.AddrPort) (relay, int, error) {
	family := "4"
	if on.Addr().Is6() {
		family = "6"
	}

	switch protocol {
	case "tcp":
		l, err := net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(on))
		if err != nil {
			return nil, 0, err
		}
		return newTCPRelay(l, to, n.relayed, n.manager.Log), l.Addr().(*net.TCPAddr).Port, nil

	case "udp":
		conn, err := net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(on))
		if err != nil {
			return nil, 0, err
		}
		return newUDPRelay(conn, to, udpIdle, n.relayed, n.manager.Log), conn.LocalAddr().(*net.UDPAddr).Port, nil
	}
	return nil, 0, errors.New("the protocol is neither tcp nor udp")
}
