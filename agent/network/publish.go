package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Port is a port of a guest to publish on the host.
type Port struct {
	Host      uint16 // on 127.0.0.1; 0 for any free one
	Container uint16 // in the guest
	Protocol  string // "tcp" or "udp"
}

// relay forwards what arrives at a published port until it is closed.
type relay interface{ Close() }

// Publish relays a port of the host's 127.0.0.1 to the guest that has, or will
// have, a reserved address, and returns the port of the host. To the guest,
// connections come from the address of the bridge.
//
// It is a relay and not a DNAT rule because the kernel routes 127.0.0.1 to other
// links only with route_localnet (ip-sysctl.rst), which would open the services
// on the host's loopback to the guests as well. A listener also reserves the
// port, fails if another program has it, and ends with this process.
func (n *Network) Publish(p Port, to netip.Addr) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, reserved := n.guests[to]; !reserved {
		return 0, fmt.Errorf("cannot publish port %d/%s: address %s is not reserved in network %s",
			p.Container, p.Protocol, to, n.ID())
	}

	r, port, err := n.listen(p, netip.AddrPortFrom(to, p.Container))
	if errors.Is(err, unix.EADDRINUSE) {
		return 0, fmt.Errorf("cannot publish port %d/%s: port %d of the host is in use; "+
			"choose another, or leave it out to get a free one", p.Container, p.Protocol, p.Host)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot publish port %d/%s: %w", p.Container, p.Protocol, err)
	}
	n.guests[to] = append(n.guests[to], r)
	return port, nil
}

// listen starts a relay and returns it with the port of the host.
func (n *Network) listen(p Port, to netip.AddrPort) (relay, int, error) {
	on := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.Host)

	switch p.Protocol {
	case "tcp":
		l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(on))
		if err != nil {
			return nil, 0, err
		}
		return newTCPRelay(l, to, n.manager.Log), l.Addr().(*net.TCPAddr).Port, nil

	case "udp":
		conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(on))
		if err != nil {
			return nil, 0, err
		}
		return newUDPRelay(conn, to, udpIdle, n.manager.Log), conn.LocalAddr().(*net.UDPAddr).Port, nil
	}
	return nil, 0, errors.New("the protocol is neither tcp nor udp")
}
