package oci_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mkappliance/mkappliance/agent/oci"
)

// listenLocal counts the connections to a port of the host.
func listenLocal(t *testing.T) (port int, contacts *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })

	contacts = new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			contacts.Add(1)
			_ = c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, contacts
}

// TestPullReachesInternetOnly names services of the host and its neighbours as
// registries: none is contacted, and the error is the same for an open port.
func TestPullReachesInternetOnly(t *testing.T) {
	store := newStore(t)
	open, contacts := listenLocal(t)
	for _, host := range []string{
		fmt.Sprintf("127.0.0.1:%d", open), fmt.Sprintf("localhost:%d", open), "127.0.0.1:1", "localhost:1",
		"[::1]:1",
	} {
		_, err := store.Pull(t.Context(), host+"/app", nil, func(string) {})
		name := strings.TrimSuffix(host, "]")
		want := "refusing to contact \"" + name
		if err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "RUNNER_INSECURE_REGISTRIES") || strings.Contains(err.Error(), "dial tcp") {
			t.Errorf("%s: got %v\nwant %s...", host, err, want)
		}
	}
	if n := contacts.Load(); n > 0 {
		t.Errorf("a service of the host was contacted %d times", n)
	}
}

// TestPullFollowsNoRedirectInside: a registry sends pulls to a service of the
// host.
func TestPullFollowsNoRedirectInside(t *testing.T) {
	store, shop := newStoreAndShop(t)
	open, contacts := listenLocal(t)
	ref := shop.push("app", newImage(t, newLayer(t, file{name: "f"})))
	shop.say(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(w, r, fmt.Sprintf("https://127.0.0.1:%d/", open), http.StatusTemporaryRedirect)
		return true
	})

	_, err := store.Pull(t.Context(), ref, nil, func(string) {})
	if err == nil || contacts.Load() > 0 {
		t.Errorf("got %v and %d contacts, want an error and none", err, contacts.Load())
	}
}

// TestPullOfRefusedAddress: what the broker may not contact any more is not
// served from the cache either.
func TestPullOfRefusedAddress(t *testing.T) {
	store, shop := newStoreAndShop(t)
	ref := shop.push("app", newImage(t, newLayer(t, file{name: "f"})))
	pull(t, store, ref)

	other := &oci.Store{Dir: store.Dir, Owner: store.Owner, Helper: store.Helper, Unpacker: store.Unpacker}
	image, err := other.Pull(t.Context(), ref, nil, func(string) {})
	if err == nil {
		image.Release()
		t.Error("an image of a registry is used that must not be contacted")
	}
}
