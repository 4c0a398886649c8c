package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// check refuses fields that cannot work.
func (m *Manager) check() error {
	if !isPrefix(m.Prefix) {
		return fmt.Errorf("cannot name links of guests: "+
			"prefix %q is not up to eight lower-case letters and digits with a letter first", m.Prefix)
	}
	if !m.Subnet.Addr().Is4() || m.Subnet.Bits() > 20 {
		return fmt.Errorf("cannot use subnet %s for guests: it is not IPv4 or smaller than a /20", m.Subnet)
	}
	for _, a := range m.Resolvers {
		if !a.Is4() {
			return fmt.Errorf("cannot let guests ask name server %s: they have IPv4 only", a)
		}
	}
	for _, p := range m.Allow {
		if !p.Addr().Is4() {
			return fmt.Errorf("cannot let guests reach %s: they have IPv4 only", p)
		}
	}
	return m.checkServers()
}

// isPrefix reports whether the names that start with s are names of links, of
// 15 bytes at most, and of nftables tables.
func isPrefix(s string) bool {
	const letters, digits = "abcdefghijklmnopqrstuvwxyz", "0123456789"
	return s != "" && len(s) <= 8 && strings.IndexByte(letters, s[0]) >= 0 && strings.Trim(s, letters+digits) == ""
}

// ErrOverlap is the error for a Subnet that the host uses itself.
var ErrOverlap = errors.New("subnet overlaps")

// checkOverlap refuses a Subnet that would hide a part of the host's own
// network. Links that an earlier Manager of this Prefix left do not count. The
// error is an ErrOverlap then.
func (m *Manager) checkOverlap() error {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}

	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return errors.Join(m.checkAddresses(names), m.checkRoutes(names))
}

func (m *Manager) checkAddresses(names map[int]string) error {
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("cannot list addresses: %w", err)
	}

	for _, a := range addrs {
		name := names[a.LinkIndex]
		if p, ok := toPrefix(a.IPNet); ok && p.Overlaps(m.Subnet) && !m.owns(name) {
			return fmt.Errorf("cannot use subnet %s for guests: %w the address %s of %s", m.Subnet, ErrOverlap, p, name)
		}
	}
	return nil
}

// checkRoutes checks the routes of all tables, as a VPN may have its own.
func (m *Manager) checkRoutes(names map[int]string) error {
	routes, err := dump(func() ([]netlink.Route, error) {
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		return netlink.RouteListFiltered(netlink.FAMILY_V4, all, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("cannot list routes: %w", err)
	}

	for _, r := range routes {
		name := names[r.LinkIndex]
		p, ok := toPrefix(r.Dst)
		// A prefix shorter than /8 leads to the internet, like the default route
		// or 0.0.0.0/1 and 128.0.0.0/1, with which VPNs override it.
		if ok && p.Bits() >= 8 && r.Type == unix.RTN_UNICAST && p.Overlaps(m.Subnet) && !m.owns(name) {
			return fmt.Errorf("cannot use subnet %s for guests: %w the route to %s through %s", m.Subnet, ErrOverlap, p, name)
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
