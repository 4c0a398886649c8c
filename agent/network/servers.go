package network

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// resolveTimeout bounds how long a network waits for name servers.
const resolveTimeout = 2 * time.Second

// servers are the addresses of a Manager's AllowHosts.
type servers struct {
	mu    sync.Mutex
	found map[string][]netip.AddrPort // by the element of AllowHosts; the last answer
}

// checkServers refuses elements of AllowHosts that are not a host with a port.
func (m *Manager) checkServers() error {
	for _, server := range m.AllowHosts {
		host, port, err := net.SplitHostPort(server)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
			return fmt.Errorf("cannot let guests reach %q: it is not a host and a port", server)
		}
	}
	return nil
}

// resolveServers resolves all of AllowHosts again and reports whether an address
// changed. A host that cannot be resolved keeps its addresses.
func (m *Manager) resolveServers(ctx context.Context) (changed bool) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()

	answers := make([][]netip.AddrPort, len(m.AllowHosts))
	var lookups sync.WaitGroup
	for i, server := range m.AllowHosts {
		lookups.Go(func() { answers[i] = m.resolve(ctx, server) })
	}
	lookups.Wait()

	found := maps.Clone(m.servers.found)
	if found == nil {
		found = map[string][]netip.AddrPort{}
	}
	for i, server := range m.AllowHosts {
		if answers[i] != nil {
			found[server] = answers[i]
		}
	}
	changed = !maps.EqualFunc(found, m.servers.found, slices.Equal[[]netip.AddrPort])
	m.servers.found = found
	return changed
}

// resolve returns the addresses of a server in order, nil if there is no answer.
func (m *Manager) resolve(ctx context.Context, server string) []netip.AddrPort {
	lookup := m.Lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupNetIP
	}
	host, text, _ := net.SplitHostPort(server)
	port, _ := strconv.ParseUint(text, 10, 16)
	addrs, err := lookup(ctx, "ip4", host)
	if err != nil {
		m.Log.Warn("server that guests may reach cannot be resolved", "server", server, "error", err)
		return nil
	}

	found := []netip.AddrPort{}
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() && !neverAllowed(a) {
			found = append(found, netip.AddrPortFrom(a, uint16(port)))
		}
	}
	slices.SortFunc(found, netip.AddrPort.Compare)
	return slices.Compact(found)
}

// neverAllowed reports whether an address stays closed to guests, whatever name
// servers answer: those of a machine itself and of the metadata services of clouds.
func neverAllowed(a netip.Addr) bool {
	azure := netip.AddrFrom4([4]byte{168, 63, 129, 16})
	return a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a == azure
}

// serverElements returns the elements of the set of servers.
func (m *Manager) serverElements() []string {
	var all []string
	for _, server := range slices.Sorted(maps.Keys(m.servers.found)) {
		for _, a := range m.servers.found[server] {
			all = append(all, fmt.Sprintf("%s . %d", a.Addr(), a.Port()))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// updateServers resolves AllowHosts for a new network. The rules stay as they
// are unless an address changed.
func (m *Manager) updateServers(ctx context.Context) error {
	m.servers.mu.Lock()
	defer m.servers.mu.Unlock()
	if !m.resolveServers(ctx) {
		return nil
	}

	rules := fmt.Sprintf("flush set inet %s servers\n", m.table())
	if all := m.serverElements(); len(all) > 0 {
		rules += fmt.Sprintf("add element inet %s servers { %s }\n", m.table(), strings.Join(all, ", "))
	}
	if err := m.load(ctx, rules); err != nil {
		m.servers.found = nil // the next network tries again
		return err
	}
	return nil
}
