package network_test

import (
	"net/netip"
	"testing"

	"github.com/mkappliance/mkappliance/agent/network"
)

func TestIsInternet(t *testing.T) {
	for _, test := range []struct {
		summary, addr string
		want          bool
	}{
		{summary: "IPv4", addr: "140.82.121.3", want: true},
		{summary: "before a private network", addr: "172.15.255.255", want: true},
		{summary: "private", addr: "172.31.255.255"},
		{summary: "loopback", addr: "127.255.255.254"},
		{summary: "this host", addr: "0.0.0.0"},
		{summary: "link-local, a metadata service", addr: "169.254.169.254"},
		{summary: "metadata service of Azure", addr: "168.63.129.16"},
		{summary: "multicast", addr: "224.0.0.1"},
		{summary: "broadcast", addr: "255.255.255.255"},
		{summary: "IPv6", addr: "2606:50c0:8000::153", want: true},
		{summary: "IPv6 loopback", addr: "::1"},
		{summary: "IPv6 link-local", addr: "fe80::1%lo"},
		{summary: "IPv6 private, a metadata service", addr: "fd00:ec2::254"},
		{summary: "IPv6 documentation", addr: "2001:db8::1"},
		{summary: "IPv4 in IPv6", addr: "::ffff:10.0.0.1"},
		{summary: "IPv4 of the internet in IPv6", addr: "::ffff:140.82.121.3", want: true},
		{summary: "NAT64", addr: "64:ff9b::8c52:7903", want: true},
		{summary: "NAT64 of a private address", addr: "64:ff9b::a00:1"},
		{summary: "6to4 of a private address", addr: "2002:a00:1::1"},
	} {
		if got := network.IsInternet(netip.MustParseAddr(test.addr)); got != test.want {
			t.Errorf("%s: %s is of the internet: %v, want %v", test.summary, test.addr, got, test.want)
		}
	}
	if network.IsInternet(netip.Addr{}) {
		t.Error("no address is of the internet")
	}
}
