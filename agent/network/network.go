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

// Network is the private network of one job. Its guests reach each other
// freely, and the internet as the rules of the Host let them.
type Network struct {
	host  *Manager
	slot  int
	index int // of the bridge

	mu     sync.Mutex
	last   byte                   // last byte of the address reserved last
	guests map[netip.Addr][]relay // reserved addresses, and the ports published for each
	closed bool
}

// ID is the name of the network's bridge. Another network may get it after
// Close.
func (n *Network) ID() string { return n.host.bridge(n.slot) }

// gateway is the address of the bridge: the first of the subnet.
func (n *Network) gateway() netip.Addr { return n.host.subnet(n.slot).Addr().Next() }

// Reserve sets an address aside for a guest to come. An address given back
// by Leave is used again last, so that late packets find nobody.
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
// link eth0 yet, under a reserved address. All is done from outside: the guest
// needs neither tools nor capabilities. The link ends with the namespace.
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
	return n.settle(veth)
}

// settle waits until the machine's side can send. A link drops packets from
// when its carrier comes until a worker of the kernel sees that, and a guest
// whose first ARP request meets that moment repeats it after a second only. To
// query a link does the worker's work at once (linkwatch_sync_dev in the
// kernel's rtnl_getlink, Linux 6.8). The link's carrier brings the bridge's.
func (n *Network) settle(veth netlink.Link) error {
	for _, index := range []int{veth.Attrs().Index, n.index} {
		if _, err := netlink.LinkByIndex(index); err != nil {
			return fmt.Errorf("cannot query link: %w", err)
		}
	}
	return nil
}

func (n *Network) reserved(a netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.guests[a]
	return ok
}

// guestNamespace opens the network namespace of a process. It refuses that of
// this process, in which a new default route would cut the machine off.
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
		return -1, fmt.Errorf("process %d is in the network namespace of the machine", pid)
	}
	return ns, nil
}

// plug makes a veth from the bridge to a namespace.
func (n *Network) plug(ns netns.NsHandle, a netip.Addr) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.veth(a)
	attrs.MasterIndex = n.index
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: guestLink, PeerNamespace: netlink.NsFd(ns),
		// One hardware address for an IP address, so that guests who remember
		// the former owner of the address are right.
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

// configure sets up the guest's side.
func (n *Network) configure(guest *netlink.Handle, a netip.Addr) error {
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}} // always, in every namespace
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

// withoutIPv6 keeps a link from making itself an IPv6 address, which leads
// nowhere but makes programs ask for those of others. A kernel without IPv6
// does not know the setting.
func withoutIPv6(setMode func(netlink.Link, int) error, link netlink.Link) error {
	err := setMode(link, 1) // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}

// Leave ends the published ports of a guest, unplugs it, and gives its address
// back.
func (n *Network) Leave(a netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leave(a)
}

func (n *Network) leave(a netip.Addr) error {
	for _, r := range n.guests[a] {
		r.Close()
	}
	delete(n.guests, a)
	return removeLink(n.veth(a))
}

// Close unplugs all guests and removes the network. Closing twice is fine.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	var failed error
	for a := range n.guests {
		failed = errors.Join(failed, n.leave(a))
	}
	failed = errors.Join(failed, removeLink(n.ID()))
	n.host.mu.Lock()
	defer n.host.mu.Unlock()
	n.host.networks[n.slot] = nil
	return failed
}

// veth names the machine's side of a guest's link: 15 bytes at most.
func (n *Network) veth(a netip.Addr) string { return fmt.Sprintf("%s-%d", n.ID(), a.As4()[3]) }

// removeLink removes a link unless it is gone, as is that of a guest that ended.
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

// hardwareAddr is a locally administered address for a, unlike that of any
// other link of the bridge.
func hardwareAddr(a netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{2, 0}, a.AsSlice()...)
}

// address is a with the prefix length of a network.
func address(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}}
}
