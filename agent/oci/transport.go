package oci

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// guarded sends requests without TLS only to hosts that may get them. The
// library decides by name, and takes every private address for one that may.
type guarded struct {
	*http.Transport
	insecure []string
}

// answerTimeout is how long a registry may take to begin an answer.
const answerTimeout = 30 * time.Second

func (s *Store) newTransport() *guarded {
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = answerTimeout
	return &guarded{Transport: t, insecure: s.Insecure}
}

// RoundTrip implements http.RoundTripper.
func (g *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !isLoopback(r.URL.Hostname()) && !slices.Contains(g.insecure, r.URL.Host) {
		return nil, fmt.Errorf("%s is not spoken to without TLS; RUNNER_INSECURE_REGISTRIES of config.env can allow it", r.URL.Host)
	}
	return g.Transport.RoundTrip(r)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
