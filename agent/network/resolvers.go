package network

import (
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Resolvers returns the name servers that guests can use, IPv4 and not on the
// host's loopback, of the first of files that lists any. Without files these are
// the servers that systemd-resolved asks, or else those of /etc/resolv.conf; see
// resolv.conf(5) and systemd-resolved.service(8).
func Resolvers(files ...string) []netip.Addr {
	if len(files) == 0 {
		files = []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a host may have no name server
		}
		if found := nameServers(string(text)); len(found) > 0 {
			return found
		}
	}
	return nil
}

func nameServers(text string) []netip.Addr {
	var found []netip.Addr
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		if err != nil || !a.Is4() || a.IsLoopback() || a.IsUnspecified() || slices.Contains(found, a) {
			continue
		}
		found = append(found, a)
	}
	return found
}
