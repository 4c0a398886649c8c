// Package network connects the guests of a job by a private network: a bridge
// with a veth(4) to each guest, routed to the internet by NAT. nftables separate
// it from the host, from other jobs and from private and special addresses.
//
// Guests have IPv4 only. IPv6 packets of a guest are dropped, whatever it
// configures.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/run"
)

// maxNetworks is how many networks there can be at a time. The rules name them
// all beforehand, so that from job to job only links change.
const maxNetworks = 16

// Manager makes networks in the network namespace of this process. It needs the
// capabilities of root in the initial user namespace, and the tool nft.
//
// It switches on the forwarding of IPv4 between interfaces for the whole host
// (ip_forward in the kernel's ip-sysctl.rst), but its rules restrict only packets
// from and to guests. Other rules, such as Docker's or firewalld's, still apply:
// an accept in one nftables table does not overrule a drop in another (nft(8),
// "accept").
type Manager struct {
	// Subnet contains the addresses of guests: IPv4, /20 or larger. Each network
	// takes a /24 of it.
	Subnet netip.Prefix
	// Resolvers are name servers that guests may ask, also at private
	// addresses; see the function of that name. IPv4.
	Resolvers []netip.Addr
	// Allow are private ranges that guests may reach, such as that of a
	// package mirror. It opens neither the host nor other networks. IPv4.
	Allow []netip.Prefix
	// AllowHosts are servers that guests may reach by TCP at whatever address
	// they have, private ones and the host's own included: GitHub and proxies, as
	// HOST:PORT. Names are resolved by Setup and again for each network. Loopback,
	// link-local and metadata addresses stay closed.
	AllowHosts []string
	// Lookup resolves names of AllowHosts, as net.Resolver.LookupNetIP does. Nil
	// stands for the host's resolver.
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// Prefix starts the names of links and of the nftables table. It belongs
	// to this Manager alone: Setup removes other links with it. Up to eight
	// lower-case letters and digits, a letter first.
	Prefix   string
	Executor run.Executor // runs nft
	Log      *slog.Logger

	mu       sync.Mutex
	networks [maxNetworks]*Network // by their subnetIndex; nil: free

	servers servers
}

// Setup loads the rules and removes the links that an earlier Manager of this
// Prefix left. It fails with ErrOverlap if Subnet overlaps an address or a route
// of the host.
func (m *Manager) Setup(ctx context.Context) error {
	if err := m.check(); err != nil {
		return err
	}
	if err := m.checkOverlap(); err != nil {
		return err
	}

	stale, err := m.removeLinks()
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		m.Log.Warn("links of an earlier run removed", "links", stale)
	}

	m.servers.mu.Lock()
	m.resolveServers(ctx)
	err = m.load(ctx, m.ruleset())
	m.servers.mu.Unlock()
	if err != nil {
		return err
	}
	// The rules load connection tracking, which these need.
	m.warn(enlargeTable(), forget(m.Subnet))

	// After the rules, so that forwarding is never on without them.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot switch IPv4 forwarding on: %w", err)
	}
	return nil
}

// warn logs what guests can do without.
func (m *Manager) warn(errs ...error) {
	for _, err := range errs {
		if err != nil {
			m.Log.Warn(err.Error())
		}
	}
}

// Close closes all networks and removes the rules. IPv4 forwarding stays on,
// since others may have come to need it.
func (m *Manager) Close() error {
	var failed error
	for _, n := range m.open() {
		failed = errors.Join(failed, n.Close())
	}
	_, err := m.removeLinks()
	return errors.Join(failed, err, m.load(context.Background(), m.noRuleset()))
}

// open returns the networks that are not closed.
func (m *Manager) open() []*Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	var open []*Network
	for _, n := range m.networks {
		if n != nil {
			open = append(open, n)
		}
	}
	return open
}

// load loads a ruleset in one transaction (nft(8), "-f").
func (m *Manager) load(ctx context.Context, rules string) error {
	c := run.Cmd{Args: []string{"nft", "-f", "-"}, Stdin: strings.NewReader(rules)}
	if err := m.Executor.Exec(ctx, c); err != nil {
		return fmt.Errorf("cannot set packet filter of guests: %w", err)
	}
	return nil
}

// NewNetwork makes a network without guests. Its bridge has the first address of
// a /24 of Subnet.
func (m *Manager) NewNetwork() (*Network, error) {
	if err := m.updateServers(context.Background()); err != nil {
		// Without it the job may still do: most servers are on the internet.
		m.Log.Warn("guests may not reach a server's new address", "error", err)
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	for i, taken := range m.networks {
		if taken != nil {
			continue
		}
		n := &Network{
			manager: m, subnetIndex: i,
			relayed: make(slots, maxRelayed), guests: map[netip.Addr][]portRelays{},
		}
		if err := n.makeBridge(); err != nil {
			return nil, fmt.Errorf("cannot make network %s: %w", n.ID(), err)
		}
		m.networks[i] = n
		return n, nil
	}
	return nil, fmt.Errorf("cannot make network: all %d are in use", maxNetworks)
}

// bridge returns the name of the bridge of network i. The hyphen ends the
// prefix: that of another Manager may start with it.
func (m *Manager) bridge(i int) string { return fmt.Sprintf("%s-%d", m.Prefix, i) }

// subnet returns the /24 of network i.
func (m *Manager) subnet(i int) netip.Prefix {
	a := m.Subnet.Masked().Addr().As4()
	a[2] += byte(i) // no carry: a /20 or larger starts at a multiple of 16
	return netip.PrefixFrom(netip.AddrFrom4(a), 24)
}

// makeBridge makes the bridge with its address.
func (n *Network) makeBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.ID()
	// Without a hardware address of its own a bridge takes that of a port, and
	// that of another when the port goes. Guests would send to the old one until
	// their ARP entry expires, which takes a minute.
	attrs.HardwareAddr = hardwareAddr(n.gateway())
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(bridge); err != nil {
		return err
	}
	n.bridgeIndex = bridge.Index

	err := disableIPv6(n.ID())
	if err == nil {
		err = netlink.AddrAdd(bridge, address(n.gateway()))
	}
	if err == nil {
		err = netlink.LinkSetUp(bridge)
	}
	if err != nil {
		_ = netlink.LinkDel(bridge)
	}
	return err
}

// disableIPv6 keeps the host from following the router advertisements of a
// guest. A kernel without IPv6 does not have the file.
func disableIPv6(link string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/disable_ipv6", []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeLinks removes all links of this Prefix and returns their names.
func (m *Manager) removeLinks() ([]string, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list links: %w", err)
	}

	var removed []string
	for _, link := range links {
		if !m.owns(link.Attrs().Name) {
			continue
		}
		// The kernel removes a veth when the namespace of its guest ends.
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return removed, fmt.Errorf("cannot remove link %s: %w", link.Attrs().Name, err)
		}
		removed = append(removed, link.Attrs().Name)
	}
	return removed, nil
}

func (m *Manager) owns(link string) bool { return strings.HasPrefix(link, m.Prefix+"-") }

// dump lists objects of the kernel, again if they changed meanwhile.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for range 10 {
		if all, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return list()
}
