package oci

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// tlsGuard refuses requests without TLS, except to loopback and to the hosts
// that config.env allows. The library decides by name, and allows every
// private address.
type tlsGuard struct {
	*http.Transport
	insecure []string
}

// answerTimeout is how long a registry may take to begin an answer.
const answerTimeout = 30 * time.Second

func (s *Store) newTransport() *tlsGuard {
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = answerTimeout
	return &tlsGuard{Transport: t, insecure: s.Insecure}
}

// RoundTrip implements http.RoundTripper.
func (g *tlsGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !isLoopback(r.URL.Hostname()) && !slices.Contains(g.insecure, r.URL.Host) {
		return nil, fmt.Errorf("refusing to contact %.80q without TLS; RUNNER_INSECURE_REGISTRIES in config.env can allow it",
			r.URL.Host)
	}
	return g.Transport.RoundTrip(r)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
