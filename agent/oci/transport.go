package oci

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/mkappliance/mkappliance/agent/network"
)

// guard bounds what a pull contacts, since a job chooses the registry's name:
// hosts that guests reach, and those that config.env names. It refuses requests
// without TLS, except to the latter: the library decides by name, and allows
// every private address.
type guard struct {
	*http.Transport
	insecure []string
}

// answerTimeout is how long a registry may take to begin an answer.
const answerTimeout = 30 * time.Second

func (s *Store) newTransport() *guard {
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = answerTimeout
	t.DialContext = s.dial
	return &guard{Transport: t, insecure: s.Insecure}
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !slices.Contains(g.insecure, r.URL.Host) {
		return nil, refusal(fmt.Sprintf(
			"refusing to contact %.80q without TLS; RUNNER_INSECURE_REGISTRIES in config.env can allow it", r.URL.Host))
	}
	return g.Transport.RoundTrip(r)
}

// refusal is the error for a request that was not sent. It depends on names and
// addresses alone, so that a job learns nothing about a service from it.
type refusal string

func (r refusal) Error() string { return string(r) }

// dial connects to a host, HOST:PORT.
func (s *Store) dial(ctx context.Context, netw, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	if s.isRegistry(address) {
		return d.DialContext(ctx, netw, address)
	}

	// The address is checked that the kernel connects to: a name can stand for
	// another one each time it is looked up.
	refused := refusal(fmt.Sprintf("refusing to contact %.80q, which is not on the internet; "+
		"RUNNER_GUEST_ALLOW or RUNNER_INSECURE_REGISTRIES in config.env can allow it", address))
	private := s.isGitHub(address)
	d.ControlContext = func(_ context.Context, _, to string, _ syscall.RawConn) error {
		if !s.isReachable(to, private) {
			return refused
		}
		return nil
	}
	conn, err := d.DialContext(ctx, netw, address)
	if errors.As(err, &refused) {
		return nil, refused // without the address that the name stands for
	}
	return conn, err
}

// isRegistry reports whether config.env names a host, HOST:PORT, as a registry.
// One without a port there has the standard ones.
func (s *Store) isRegistry(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	standard := port == "443" || port == "80"
	return slices.Contains(s.Insecure, address) || standard && slices.Contains(s.Insecure, host)
}

// isGitHub reports whether a host, HOST:PORT, is GitHub's server or has a name
// beneath its.
func (s *Store) isGitHub(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && s.GitHub != "" && (host == s.GitHub || strings.HasSuffix(host, "."+s.GitHub))
}

// isReachable reports whether guests reach an address, ADDRESS:PORT, where private
// networks count as the internet if private is set.
func (s *Store) isReachable(address string, private bool) bool {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return false
	}
	a := to.Addr().Unmap().WithZone("")
	if a.IsLoopback() || isOwn(a) {
		return false
	}
	allowed := slices.ContainsFunc(s.Allow, func(p netip.Prefix) bool { return p.Contains(a) })
	return allowed || private && a.IsPrivate() || network.IsInternet(a)
}

// isOwn reports whether the host has an address, as far as it can be found out.
func isOwn(a netip.Addr) bool {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(own, func(o net.Addr) bool {
		p, err := netip.ParsePrefix(o.String())
		return err == nil && p.Addr().Unmap() == a
	})
}
