package oci

import (
	"context"
	"net/http"
	"testing"
)

// TestGuarded: no host but those that may is spoken to without TLS.
func TestGuarded(t *testing.T) {
	s := &Store{Insecure: []string{"registry.example:5000"}}
	g := s.newTransport()
	for url, want := range map[string]string{
		"http://10.0.0.1:5000/v2/":          "10.0.0.1:5000 is not spoken to without TLS; RUNNER_INSECURE_REGISTRIES of config.env can allow it",
		"http://169.254.169.254/v2/":        "169.254.169.254 is not spoken to without TLS; RUNNER_INSECURE_REGISTRIES of config.env can allow it",
		"http://127.0.0.1.example/v2/":      "127.0.0.1.example is not spoken to without TLS; RUNNER_INSECURE_REGISTRIES of config.env can allow it",
		"http://registry.example/v2/":       "registry.example is not spoken to without TLS; RUNNER_INSECURE_REGISTRIES of config.env can allow it",
		"ftp://registry.example/v2/":        "registry.example is not spoken to without TLS; RUNNER_INSECURE_REGISTRIES of config.env can allow it",
		"http://registry.example:5000/v2/":  "context canceled",
		"https://registry.example:5001/v2/": "context canceled",
		"http://127.0.0.1:1/v2/":            "context canceled",
		"http://[::1]:1/v2/":                "context canceled",
		"http://localhost:1/v2/":            "context canceled",
	} {
		_, err := g.RoundTrip(cancelled(t, url))
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", url, err, want)
		}
	}
}

// cancelled is a request that goes nowhere, even if it may.
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
