package oci_test

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/agent/oci"
)

// TestPullOfPrivateImage: a private image is in the store, and is used with
// those credentials alone that the registry accepted, also during an outage.
func TestPullOfPrivateImage(t *testing.T) {
	store, shop := newStoreAndShop(t)
	const user, password = "me", "s3cret"
	tag := shop.push("private:1", newImage(t, newLayer(t, file{name: "f"})))
	credentials := func(user, password string) *oci.Credentials {
		return &oci.Credentials{Username: user, Password: password, Server: shop.addr()}
	}

	first := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	second := "Basic " + base64.StdEncoding.EncodeToString([]byte("you:other"))
	online := func(w http.ResponseWriter, r *http.Request) bool {
		if got := r.Header.Get("Authorization"); got == first || got == second {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		http.Error(w, "", http.StatusUnauthorized)
		return true
	}
	shop.say(online)
	image, err := store.Pull(t.Context(), tag, credentials(user, password), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	image.Release()
	digest := shop.addr() + "/private@" + image.Digest

	status := func(code int) func() { return func() { shop.status(code) } }
	const offline = "the registry answered 429 Too Many Requests"
	const refused = "the registry answered 401 Unauthorized"
	for _, test := range []struct {
		summary  string
		registry func()
		ref      string
		c        *oci.Credentials
		want     string // end of the error; empty: the image
	}{
		{summary: "429, by tag", registry: status(429), ref: tag, want: offline},
		{summary: "429, by tag, another password", ref: tag, c: credentials(user, "x"), want: offline},
		{summary: "429, by tag, the same", ref: tag, c: credentials(user, password)},
		{summary: "429, by digest, another password", ref: digest, c: credentials(user, "x"), want: offline},
		{summary: "429, by digest, the same", ref: digest, c: credentials(user, password)},
		{summary: "online, by digest", registry: func() { shop.say(online) }, ref: digest, want: refused},
		{summary: "online, by digest, another password", ref: digest, c: credentials(user, "x"), want: refused},
		{summary: "online, by digest, another who may", ref: digest, c: credentials("you", "other")},
		{summary: "500, by digest, another who may", registry: status(500), ref: digest, c: credentials("you", "other")},
		{summary: "500, by digest, the first", ref: digest, c: credentials(user, password)},
		{summary: "made public", registry: func() { shop.say(nil) }, ref: tag},
		{summary: "500, public, with credentials", registry: status(500), ref: tag, c: credentials(user, "x")},
	} {
		if test.registry != nil {
			test.registry()
		}
		image, err := store.Pull(t.Context(), test.ref, test.c, func(string) {})
		if err == nil {
			image.Release()
		}
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasSuffix(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.summary, err, test.want)
		}
	}

	refs, err := os.ReadDir(filepath.Join(store.Dir, "refs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range refs {
		data, err := os.ReadFile(filepath.Join(store.Dir, "refs", e.Name()))
		if err != nil || strings.Contains(string(data), password) {
			t.Errorf("%s holds the password, %v", data, err)
		}
	}
}

// TestPullRemembersFew: each job has a token of its own.
func TestPullRemembersFew(t *testing.T) {
	store, shop := newStoreAndShop(t)
	ref := shop.push("app", newImage(t, newLayer(t, file{name: "f"})))
	shop.say(func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); ok {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		http.Error(w, "", http.StatusUnauthorized)
		return true
	})

	use := func(i int) error {
		c := &oci.Credentials{Username: "me", Password: strings.Repeat("x", i), Server: shop.addr()}
		image, err := store.Pull(t.Context(), ref, c, func(string) {})
		if err == nil {
			image.Release()
		}
		return err
	}
	const jobs = 20
	for i := 1; i <= jobs; i++ {
		if err := use(i); err != nil {
			t.Fatal(err)
		}
	}

	shop.status(http.StatusInternalServerError)
	if err := use(jobs); err != nil {
		t.Errorf("the last is forgotten: %v", err)
	}
	if err := use(1); err == nil {
		t.Error("the first is not forgotten")
	}
}
