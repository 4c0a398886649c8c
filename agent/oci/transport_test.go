package oci

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
)

// TestGuardWithoutTLS: no host but those that are allowed is contacted without TLS.
func TestGuardWithoutTLS(t *testing.T) {
	s := &Store{Insecure: []string{"registry.example:5000"}}
	g := s.newTransport()
	const allowed = "context canceled"
	refused := func(host string) string {
		return fmt.Sprintf("refusing to contact %q without TLS; RUNNER_INSECURE_REGISTRIES in config.env can allow it", host)
	}
	for _, test := range []struct{ summary, url, want string }{
		{summary: "private address", url: "http://10.0.0.1:5000/v2/", want: refused("10.0.0.1:5000")},
		{summary: "metadata service", url: "http://169.254.169.254/v2/", want: refused("169.254.169.254")},
		{summary: "name like loopback", url: "http://127.0.0.1.example/v2/", want: refused("127.0.0.1.example")},
		{summary: "other port", url: "http://registry.example/v2/", want: refused("registry.example")},
		{summary: "other scheme", url: "ftp://registry.example/v2/", want: refused("registry.example")},
		{summary: "allowed", url: "http://registry.example:5000/v2/", want: allowed},
		{summary: "TLS", url: "https://registry.example:5001/v2/", want: allowed},
		{summary: "loopback", url: "http://127.0.0.1:1/v2/", want: refused("127.0.0.1:1")},
		{summary: "localhost", url: "http://localhost:1/v2/", want: refused("localhost:1")},
	} {
		_, err := g.RoundTrip(cancelled(t, test.url))
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.summary, err, test.want)
		}
	}
}

// TestReach: which names and addresses a pull may connect to.
func TestReach(t *testing.T) {
	own, hasOwn := "198.51.100.7", false
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && p.Addr().Is4() {
				own, hasOwn = p.Addr().String(), true
			}
		}
	}
	s := &Store{
		Insecure: []string{"lan.example", "lan.example:5000"}, GitHub: "ghes.example",
		Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix(own + "/32")},
	}
	for _, test := range []struct {
		summary, to      string
		registry, github bool
	}{
		{summary: "registry", to: "lan.example:443", registry: true},
		{summary: "registry without TLS", to: "lan.example:80", registry: true},
		{summary: "registry with a port", to: "lan.example:5000", registry: true},
		{summary: "another port", to: "lan.example:22"},
		{summary: "beneath a registry", to: "a.lan.example:443"},
		{summary: "GitHub", to: "ghes.example:443", github: true},
		{summary: "GitHub's registry", to: "containers.ghes.example:443", github: true},
		{summary: "like GitHub", to: "evil-ghes.example:443"},
		{summary: "like GitHub, too", to: "ghes.example.evil.example:443"},
		{summary: "no address", to: "x"},
	} {
		if got := s.isRegistry(test.to); got != test.registry {
			t.Errorf("%s: registry %v, want %v", test.summary, got, test.registry)
		}
		if got := s.isGitHub(test.to); got != test.github {
			t.Errorf("%s: GitHub %v, want %v", test.summary, got, test.github)
		}
	}

	for _, test := range []struct {
		summary, to string
		reachable   bool
		asGitHub    bool // reachable by GitHub's name
	}{
		{summary: "the internet", to: "140.82.121.3:443", reachable: true, asGitHub: true},
		{summary: "allowed", to: "10.1.2.3:443", reachable: true, asGitHub: true},
		{summary: "allowed, in IPv6", to: "[::ffff:10.1.2.3]:443", reachable: true, asGitHub: true},
		{summary: "private", to: "10.2.2.3:443", asGitHub: true},
		{summary: "private, in IPv6", to: "[::ffff:10.2.2.3]:443", asGitHub: true},
		{summary: "link-local", to: "[fe80::1%eth0]:443"},
		{summary: "metadata service", to: "169.254.169.254:80"},
		{summary: "loopback", to: "127.0.0.1:443"},
		{summary: "the host, allowed to guests elsewhere", to: own + ":443", reachable: !hasOwn, asGitHub: !hasOwn},
		{summary: "no address", to: "x"},
	} {
		if got := s.isReachable(test.to, false); got != test.reachable {
			t.Errorf("%s: reachable %v, want %v", test.summary, got, test.reachable)
		}
		if got := s.isReachable(test.to, true); got != test.asGitHub {
			t.Errorf("%s: reachable as GitHub %v, want %v", test.summary, got, test.asGitHub)
		}
	}
}

// cancelled returns a request that is not sent, even if it is allowed.
func cancelled(t *testing.T, url string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
