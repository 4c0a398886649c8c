package oci

import (
	"context"
	"fmt"
	"net/http"
	"testing"
)

// TestTLSGuard: no host but those that are allowed is contacted without TLS.
func TestTLSGuard(t *testing.T) {
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
		{summary: "loopback", url: "http://127.0.0.1:1/v2/", want: allowed},
		{summary: "loopback, IPv6", url: "http://[::1]:1/v2/", want: allowed},
		{summary: "localhost", url: "http://localhost:1/v2/", want: allowed},
	} {
		_, err := g.RoundTrip(cancelled(t, test.url))
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.summary, err, test.want)
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
