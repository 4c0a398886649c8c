package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// guestLink is the name of a guest's link in its own namespace.
const guestLink = "eth0"

// Network is the private network of one job. Its guests reach each other, and
// the internet as far as the rules of the Manager allow.
type Network struct {
	manager     *Manager
	subnetIndex int // which /24 of the Manager's Subnet it has
	bridgeIndex int // the kernel's, of the link
	relayed     slots

	mu     sync.Mutex
	last   byte                        // last byte of the address reserved last
	guests map[netip.Addr][]portRelays // the reserved addresses, with the published ports of each
	closed bool
}

// ID returns the name of the network's bridge. Another network may get it after
// Close.
func (n *Network) ID() string { return n.manager.bridge(n.subnetIndex) }

// gateway returns the address of the bridge: the first of the subnet.
func (n *Network) gateway() netip.Addr { return n.manager.subnet(n.subnetIndex).Addr().Next() }

// Reserve returns a free address and reserves it for a guest. An address that
// Leave released is the last one to be used again, so that late packets do not
// reach another guest.
func (n *Network) Reserve() (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return netip.Addr{}, fmt.Errorf("cannot reserve address in network %s: it is closed", n.ID())
	}

	a := n.gateway().As4()
	for range 253 { // .2 to .254
		n.last = max(2, (n.last+1)%255)
		a[3] = n.last
		addr := netip.AddrFrom4(a)
		if _, taken := n.guests[addr]; !taken {
			n.guests[addr] = nil
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("cannot reserve address in network %s: all 253 are in use", n.ID())
}

// Join connects the network namespace of process pid, which must not have a
// link eth0 yet, under a reserved address. The host configures both sides: the
// guest needs neither tools nor capabilities. The link ends with the namespace.
func (n *Network) Join(pid int, a netip.Addr) error {
	if err := n.join(pid, a); err != nil {
		return fmt.Errorf("cannot join guest %s to network %s: %w", a, n.ID(), err)
	}
	return nil
}

func (n *Network) join(pid int, a netip.Addr) error {
	if !n.reserved(a) {
		return errors.New("the address is not reserved")
	}
	ns, err := guestNamespace(pid)
	if err != nil {
		return err
	}
	defer ns.Close()

	// In the namespace of the guest, but with the rights of this process.
	guest, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot enter network namespace: %w", err)
	}
	defer guest.Close()

	veth, err := n.plug(ns, a)
	if err != nil {
		return err
	}
	if err := n.configure(guest, a); err != nil {
		_ = netlink.LinkDel(veth)
		return err
	}
	return n.awaitCarrier(veth)
}

// awaitCarrier waits until the host's side can send. A link drops packets
// between the moment its carrier comes and the moment a worker of the kernel
// notices, and a guest that loses its first ARP request there repeats it only
// after a second. Querying a link does the worker's work at once
// (linkwatch_sync_dev in the kernel's rtnl_getlink, Linux 6.8). The bridge
// follows the carrier of its first link.
func (n *Network) awaitCarrier(veth netlink.Link) error {
	for _, index := range []int{veth.Attrs().Index, n.bridgeIndex} {
		if _, err := netlink.LinkByIndex(index); err != nil {
			return fmt.Errorf("cannot query link: %w", err)
		}
	}
	return nil
}

// reserved reports whether Reserve returned an address that Leave has not released.
func (n *Network) reserved(a netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.guests[a]
	return ok
}

// guestNamespace opens the network namespace of a process. It refuses that of
// this process, where a new default route would disconnect the host.
func guestNamespace(pid int) (netns.NsHandle, error) {
	own, err := netns.Get()
	if err != nil {
		return -1, fmt.Errorf("cannot open own network namespace: %w", err)
	}
	defer own.Close()
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return -1, fmt.Errorf("cannot open network namespace: %w", err)
	}
	if ns.Equal(own) {
		ns.Close()
		return -1, fmt.Errorf("process %d is in the network namespace of the host", pid)
	}
	return ns, nil
}

// plug makes a veth from the bridge to a namespace.
func (n *Network) plug(ns netns.NsHandle, a netip.Addr) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.veth(a)
	attrs.MasterIndex = n.bridgeIndex
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: guestLink, PeerNamespace: netlink.NsFd(ns),
		// The same hardware address for each owner of an IP address, so that an
		// ARP entry for the former owner is right for the next one.
		PeerHardwareAddr: hardwareAddr(a),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("cannot make link: %w", err)
	}

	err := withoutIPv6(netlink.LinkSetIP6AddrGenMode, veth)
	if err == nil {
		err = netlink.LinkSetUp(veth)
	}
	if err != nil {
		_ = netlink.LinkDel(veth)
		return nil, fmt.Errorf("cannot set link up: %w", err)
	}
	return veth, nil
}

// configure configures the guest's side.
func (n *Network) configure(guest *netlink.Handle, a netip.Addr) error {
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}} // in every namespace
	if err := guest.LinkSetUp(lo); err != nil {
		return fmt.Errorf("cannot set lo up: %w", err)
	}

	link, err := guest.LinkByName(guestLink)
	if err == nil {
		err = withoutIPv6(guest.LinkSetIP6AddrGenMode, link)
	}
	if err == nil {
		err = guest.AddrAdd(link, address(a))
	}
	if err == nil {
		err = guest.LinkSetUp(link)
	}
	if err == nil {
		err = guest.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: n.gateway().AsSlice()})
	}
	if err != nil {
		return fmt.Errorf("cannot configure %s: %w", guestLink, err)
	}
	return nil
}

// withoutIPv6 keeps a link from getting a link-local IPv6 address: it would be
// of no use, but make programs look up the IPv6 addresses of servers. A kernel
// without IPv6 does not know the setting.
func withoutIPv6(setMode func(netlink.Link, int) error, link netlink.Link) error {
	err := setMode(link, 1) // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}

// Leave closes the published ports of a guest, disconnects it, and releases its
// address.
func (n *Network) Leave(a netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil // another network may have the name of the link by now
	}
	return n.leave(a)
}

func (n *Network) leave(a netip.Addr) error {
	for _, r := range n.guests[a] {
		r.Close()
	}
	if err := removeLink(n.veth(a)); err != nil {
		return err
	}
	delete(n.guests, a) // its link is gone, so that the address is free
	return nil
}

// Close disconnects all guests and removes the network. It may be called again,
// also to go on where it failed: until all is removed no other network gets the
// names.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}

	var failed error
	for a := range n.guests {
		failed = errors.Join(failed, n.leave(a))
	}
	if err := errors.Join(failed, removeLink(n.ID())); err != nil {
		return err
	}
	n.closed = true
	n.manager.warn(forget(n.manager.subnet(n.subnetIndex)))

	n.manager.mu.Lock()
	defer n.manager.mu.Unlock()
	n.manager.networks[n.subnetIndex] = nil
	return nil
}

// veth returns the name of the host's side of a guest's link: 15 bytes at most.
func (n *Network) veth(a netip.Addr) string { return fmt.Sprintf("%s-%d", n.ID(), a.As4()[3]) }

// removeLink removes a link. It may be gone already: the kernel removes that of
// a guest that ended.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cannot remove link %s: %w", name, err)
	}
	return nil
}

// hardwareAddr returns a locally administered address for a, unique within a
// bridge.
func hardwareAddr(a netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{2, 0}, a.AsSlice()...)
}

// address returns a with the prefix length of a network.
func address(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}}
}
