package network

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel has one table of connections for the host and all its guests, and
// drops what finds no place in it. Each network is bounded; see rules.nft.
const (
	// maxTracked is how many connections the guests of a network can have at a
	// time. The kernel walks through them for every new one.
	maxTracked = 8192
	// maxPace and maxBurst are how many connections they can open: in a second, and
	// at once. A closed TCP connection is not counted by the kernel, but kept for
	// two minutes: this bounds those.
	maxPace, maxBurst = 200, 8192
	// tableSize is the smallest table in which a network at its bounds leaves room:
	// 8192 that are open, 8192 + 120 * 200 that were closed within two minutes.
	tableSize = 1 << 16
)

// tableFile holds the size of the table, nf_conntrack-sysctl.rst.
const tableFile = "/proc/sys/net/netfilter/nf_conntrack_max"

// enlargeTable raises the size of a small host's table to tableSize entries, of
// about 300 bytes each as they are used.
func enlargeTable() error {
	text, err := os.ReadFile(tableFile)
	if err != nil {
		return fmt.Errorf("cannot find the size of the table of connections: %w", err)
	}
	size, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", tableFile, err)
	}

	if size == 0 || size >= tableSize { // 0: no limit
		return nil
	}
	if err := os.WriteFile(tableFile, []byte(strconv.Itoa(tableSize)), 0); err != nil {
		return fmt.Errorf("cannot enlarge the table of connections: %w", err)
	}
	return nil
}

// forget removes the connections that guests of a subnet opened from the table.
// Guests that are gone cannot close them, and the kernel keeps an open one for
// five days.
func forget(subnet netip.Prefix) error {
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, openedFrom(subnet))
	if err != nil {
		return fmt.Errorf("cannot remove connections of guests from the kernel's table: %w", err)
	}
	return nil
}

// openedFrom matches the connections that an address of a subnet opened.
type openedFrom netip.Prefix

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (p openedFrom) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	a, ok := netip.AddrFromSlice(flow.Forward.SrcIP)
	return ok && netip.Prefix(p).Contains(a.Unmap())
}
