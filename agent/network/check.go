package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// check refuses fields that cannot work.
func (h *Manager) check() error {
	if !validPrefix.MatchString(h.Prefix) {
		return fmt.Errorf("cannot name links of guests: prefix %q is not up to eight lower-case letters and digits with a letter first", h.Prefix)
	}
	if !h.Subnet.Addr().Is4() || h.Subnet.Bits() > 20 {
		return fmt.Errorf("cannot use subnet %s for guests: it is not IPv4 or smaller than a /20", h.Subnet)
	}
	for _, a := range h.Resolvers {
		if !a.Is4() {
			return fmt.Errorf("cannot let guests ask name server %s: they have IPv4 only", a)
		}
	}
	for _, p := range h.Allow {
		if !p.Addr().Is4() {
			return fmt.Errorf("cannot let guests reach %s: they have IPv4 only", p)
		}
	}
	return nil
}

// ErrOverlap tells of a Subnet that the machine uses itself.
var ErrOverlap = errors.New("choose another")

// checkOverlap refuses a Subnet that would hide a part of the machine's own
// network. What this Prefix has left is no obstacle.
func (h *Manager) checkOverlap() error {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return errors.Join(h.checkAddresses(names), h.checkRoutes(names))
}

func (h *Manager) checkAddresses(names map[int]string) error {
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("cannot list addresses: %w", err)
	}
	for _, a := range addrs {
		name := names[a.LinkIndex]
		if p, ok := toPrefix(a.IPNet); ok && p.Overlaps(h.Subnet) && !h.owns(name) {
			return fmt.Errorf("cannot use subnet %s for guests: it overlaps the address %s of %s; %w", h.Subnet, p, name, ErrOverlap)
		}
	}
	return nil
}

// checkRoutes looks at the routes of all tables, as a VPN may have its own.
func (h *Manager) checkRoutes(names map[int]string) error {
	routes, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("cannot list routes: %w", err)
	}
	for _, r := range routes {
		name := names[r.LinkIndex]
		p, ok := toPrefix(r.Dst)
		// Less than a /8 is a way to the internet, like the default route or
		// the two halves 0.0.0.0/1 and 128.0.0.0/1 that VPNs put before it.
		if ok && p.Bits() >= 8 && r.Type == unix.RTN_UNICAST && p.Overlaps(h.Subnet) && !h.owns(name) {
			return fmt.Errorf("cannot use subnet %s for guests: it overlaps the route to %s through %s; %w", h.Subnet, p, name, ErrOverlap)
		}
	}
	return nil
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}
