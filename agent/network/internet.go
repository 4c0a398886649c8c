package network

import "net/netip"

// IsInternet reports whether an address belongs to a host on the internet. It
// does not if it is private, the metadata service of a cloud or otherwise special,
// whichever way an IPv6 address may contain it. Guests reach no others by default.
func IsInternet(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if translated := netip.MustParsePrefix("64:ff9b::/96"); translated.Contains(a) { // NAT64, RFC 6052
			b := a.As16()
			return IsInternet(netip.AddrFrom4([4]byte(b[12:])))
		}
		return netip.MustParsePrefix("2000::/3").Contains(a) && !containsAddr(specialRanges6(), a)
	}
	return a.IsValid() && !containsAddr(specialRanges(), a)
}

func containsAddr(ranges []netip.Prefix, a netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// specialRanges are those that are not the internet, from the IANA IPv4
// Special-Purpose Address Registry, with the metadata services of clouds;
// 168.63.129.16 is that of Azure.
func specialRanges() []netip.Prefix {
	return prefixes(
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
		"172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3",
	)
}

// specialRanges6 are those of 2000::/3 that are not the internet or contain IPv4
// addresses, from the IANA IPv6 Special-Purpose Address Registry.
func specialRanges6() []netip.Prefix {
	return prefixes("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
}

func prefixes(list ...string) []netip.Prefix {
	ranges := make([]netip.Prefix, len(list))
	for i, p := range list {
		ranges[i] = netip.MustParsePrefix(p)
	}
	return ranges
}
