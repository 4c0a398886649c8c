// Package network gives the guests of a job a private network: a bridge with a
// veth(4) to each guest, routed to the internet by NAT, and fenced off from the
// machine, from other jobs and from private and special addresses by nftables.
//
// Guests have IPv4 only. An IPv6 packet from a guest is dropped, whatever the
// guest configures.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/run"
)

// maxNetworks is how many networks a host can have at a time. The rules name
// them all beforehand, so that nothing but links changes from job to job.
const maxNetworks = 16

// Manager makes networks in the network namespace of this process. It needs the
// capabilities of the real root, and the tool nft.
//
// Forwarding of IPv4 between interfaces is switched on for the whole machine
// (ip_forward in the kernel's ip-sysctl.rst); this package restricts only what
// comes from or goes to guests. Rules of others, such as Docker's or
// firewalld's, still apply: an accept in one nftables table does not overrule a
// drop in another (nft(8), "accept").
type Manager struct {
	// Subnet is where guests get their addresses: IPv4, at least a /20. Each
	// network takes a /24 of it.
	Subnet netip.Prefix
	// Resolvers are name servers that guests may ask wherever they are; see
	// the function of that name. IPv4.
	Resolvers []netip.Addr
	// Allow are private ranges that guests may reach, such as that of a
	// package mirror. It opens neither this machine nor other networks. IPv4.
	Allow []netip.Prefix
	// Prefix starts the names of links and of the nftables table. It belongs
	// to this Host alone: what else carries it is removed by Setup. Up to
	// eight lower-case letters and digits, a letter first.
	Prefix   string
	Executor run.Executor
	Log      *slog.Logger

	mu       sync.Mutex
	networks [maxNetworks]*Network
}

var validPrefix = regexp.MustCompile(`^[a-z][a-z0-9]{0,7}$`)

// Setup loads the rules and removes what an earlier Host of this Prefix left.
// It refuses a Subnet that overlaps an address or a route of the machine.
func (h *Manager) Setup(ctx context.Context) error {
	if err := h.check(); err != nil {
		return err
	}
	if err := h.checkOverlap(); err != nil {
		return err
	}
	stale, err := h.removeLinks()
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		h.Log.Warn("links of an earlier run removed", "links", stale)
	}
	if err := h.load(ctx, h.ruleset()); err != nil {
		return err
	}
	// Only now, so that there is no moment with forwarding but without rules.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot switch IPv4 forwarding on: %w", err)
	}
	return nil
}

// Close closes all networks and removes the rules. IPv4 forwarding stays on,
// since others may have come to need it.
func (h *Manager) Close() error {
	var failed error
	for _, n := range h.open() {
		failed = errors.Join(failed, n.Close())
	}
	_, err := h.removeLinks()
	return errors.Join(failed, err, h.load(context.Background(), h.noRuleset()))
}

func (h *Manager) open() []*Network {
	h.mu.Lock()
	defer h.mu.Unlock()
	var open []*Network
	for _, n := range h.networks {
		if n != nil {
			open = append(open, n)
		}
	}
	return open
}

// load gives a ruleset to the kernel, in one transaction (nft(8), "-f").
func (h *Manager) load(ctx context.Context, rules string) error {
	c := run.Cmd{Args: []string{"nft", "-f", "-"}, Stdin: strings.NewReader(rules)}
	if err := h.Executor.Exec(ctx, c); err != nil {
		return fmt.Errorf("cannot set packet filter of guests: %w", err)
	}
	return nil
}

// NewNetwork makes a network without guests, whose bridge has the first address
// of a /24.
func (h *Manager) NewNetwork() (*Network, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for slot, taken := range h.networks {
		if taken != nil {
			continue
		}
		n := &Network{host: h, slot: slot, guests: map[netip.Addr][]relay{}}
		if err := n.makeBridge(); err != nil {
			return nil, fmt.Errorf("cannot make network %s: %w", n.ID(), err)
		}
		h.networks[slot] = n
		return n, nil
	}
	return nil, fmt.Errorf("cannot make network: all %d are in use", maxNetworks)
}

// bridge names the bridge of a network. The hyphens keep the names of two
// prefixes apart of which one starts with the other.
func (h *Manager) bridge(slot int) string { return fmt.Sprintf("%s-%d", h.Prefix, slot) }

// subnet is the /24 of a network.
func (h *Manager) subnet(slot int) netip.Prefix {
	a := h.Subnet.Masked().Addr().As4()
	a[2] += byte(slot) // no carry: a /20 or larger starts at a multiple of 16
	return netip.PrefixFrom(netip.AddrFrom4(a), 24)
}

// makeBridge makes the bridge and gives it its address.
func (n *Network) makeBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.ID()
	// Without an address of its own a bridge takes that of a port, and another
	// when that port goes, which guests remember wrongly for a minute.
	attrs.HardwareAddr = hardwareAddr(n.gateway())
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(bridge); err != nil {
		return err
	}
	n.index = bridge.Index
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

// disableIPv6 keeps the machine from believing the router advertisements of a
// guest. A kernel without IPv6 does not have the file.
func disableIPv6(link string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/disable_ipv6", []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeLinks removes all links of this Prefix and says which there were.
func (h *Manager) removeLinks() ([]string, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list links: %w", err)
	}
	var removed []string
	for _, link := range links {
		if !h.owns(link.Attrs().Name) {
			continue
		}
		// A veth goes by itself when the namespace of its guest does.
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return removed, fmt.Errorf("cannot remove link %s: %w", link.Attrs().Name, err)
		}
		removed = append(removed, link.Attrs().Name)
	}
	return removed, nil
}

func (h *Manager) owns(link string) bool { return strings.HasPrefix(link, h.Prefix+"-") }

// dump lists something of the kernel, again if it changed meanwhile.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for range 10 {
		if all, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return list()
}
