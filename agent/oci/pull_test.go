package oci_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/mkappliance/mkappliance/agent/oci"
)

const arch = runtime.GOARCH

func TestPullReadsConfig(t *testing.T) {
	store, shop := newStoreAndShop(t)
	image := configure(t, newImage(t, newLayer(t, file{name: "etc/f", body: "content"})), func(f *v1.ConfigFile) {
		f.Config = v1.Config{
			Env:        []string{"PATH=/bin", "BROKEN", "=x", "EMPTY="},
			User:       "app:staff",
			WorkingDir: "/srv",
			Entrypoint: []string{"/entry"},
			Cmd:        []string{"a", "b"},
			Volumes:    map[string]struct{}{"/data": {}, "relative": {}, "/cache": {}},
			Healthcheck: &v1.HealthConfig{
				Test: []string{"CMD", "test", "it's"}, Interval: time.Second, Timeout: -1, StartPeriod: 48 * time.Hour, Retries: 7,
			},
			Shell: []string{"/bin/bash", "-c"},
		}
	})

	var said progress
	got, err := store.Pull(t.Context(), "docker://"+shop.push("app", image), nil, said.add)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Release()

	want := oci.Config{
		Env:        []string{"PATH=/bin", "EMPTY="},
		User:       "app:staff",
		WorkingDir: "/srv",
		Entrypoint: []string{"/entry"},
		Cmd:        []string{"a", "b"},
		Volumes:    []string{"/cache", "/data"},
		Shell:      []string{"/bin/bash", "-c"},
		Health: &oci.Health{
			Test: []string{"test", "it's"}, Interval: time.Second, StartPeriod: 24 * time.Hour, Retries: 7,
		},
	}
	if diff := cmp.Diff(want, got.Config); diff != "" {
		t.Errorf("the configuration differs, -want +got:\n%s", diff)
	}
	if data, err := os.ReadFile(filepath.Join(got.Tree, "etc/f")); err != nil || string(data) != "content" {
		t.Errorf("got %q, %v", data, err)
	}
	if digest, err := image.Digest(); err != nil || got.Digest != digest.String() {
		t.Errorf("got %s, want %s, %v", got.Digest, digest, err)
	}

	for _, line := range []string{"/app: pulling 1 layers, 0.0 MiB\n", "/app: ready after "} {
		if !strings.Contains(said.String(), line) {
			t.Errorf("progress lacks %q:\n%s", line, &said)
		}
	}
}

func TestPullDownloadsOnce(t *testing.T) {
	store, shop := newStoreAndShop(t)
	image := newImage(t, newLayer(t, file{name: "f"}))
	ref := shop.push("app:1", image)
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}

	pull(t, store, ref)
	if got := shop.requests(); len(got) != 4 {
		t.Errorf("the first pull asked %q; want HEAD, manifest, configuration and layer", got)
	}
	pull(t, store, ref)
	if got, want := shop.requests(), []string{"HEAD /v2/app/manifests/1"}; !slices.Equal(got, want) {
		t.Errorf("the second pull asked %q; want %q", got, want)
	}

	other := shop.push("app:2", image)
	pull(t, store, other)
	if got, want := shop.requests(), []string{"HEAD /v2/app/manifests/2"}; !slices.Equal(got, want) {
		t.Errorf("another tag of the same asked %q; want %q", got, want)
	}

	renamed := shop.push("renamed", image)
	pull(t, store, renamed)
	want := []string{"HEAD /v2/renamed/manifests/latest", "GET /v2/renamed/manifests/" + digest.String()}
	if got := shop.requests(); !slices.Equal(got, want) {
		t.Errorf("another name of the same asked %q; want %q", got, want)
	}

	pull(t, store, shop.addr()+"/app@"+digest.String())
	if got := shop.requests(); len(got) != 0 {
		t.Errorf("a digest that is there asked %q", got)
	}

	shop.push("app:1", newImage(t, newLayer(t, file{name: "news"})))
	if _, err := os.Stat(filepath.Join(pull(t, store, ref).Tree, "news")); err != nil {
		t.Errorf("a tag that moved: %v", err)
	}
}

func TestPullWithoutRegistry(t *testing.T) {
	image := newImage(t, newLayer(t, file{name: "f"}))
	status := func(code int) func(*shop) { return func(s *shop) { s.status(code) } }
	for _, test := range []struct {
		summary string
		fail    func(*shop)
		used    bool   // whether an image that is in the store is used
		message string // of the error otherwise
	}{
		{summary: "closed", fail: func(s *shop) { s.Close() }, used: true, message: "connection refused"},
		{summary: "500", fail: status(500), used: true, message: "the registry answered 500 Internal Server Error"},
		{summary: "429", fail: status(429), used: true, message: "the registry answered 429 Too Many Requests"},
		{summary: "401", fail: status(401), message: "the registry answered 401 Unauthorized"},
		{summary: "403", fail: status(403), message: "the registry answered 403 Forbidden"},
		{summary: "404", fail: status(404), message: "the registry answered 404 Not Found"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			store, shop := newStoreAndShop(t)
			ref := shop.push("app", image)
			pull(t, store, ref)
			test.fail(shop)

			var said progress
			got, err := store.Pull(t.Context(), ref, nil, said.add)
			switch {
			case err == nil && !test.used:
				got.Release()
				t.Errorf("an image is used that the registry refuses; want %q", test.message)
			case err != nil && (test.used || err.Error() != "cannot pull "+ref+": "+test.message):
				t.Errorf("got %v, want %q", err, test.message)
			case err == nil:
				got.Release()
				if want := ref + ": the registry cannot be reached, using the image of "; !strings.HasPrefix(said.String(), want) {
					t.Errorf("progress is %q, want %q", &said, want)
				}
			}

			_, err = store.Pull(t.Context(), shop.addr()+"/other", nil, said.add)
			if err == nil || !strings.HasSuffix(err.Error(), test.message) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q", err, test.message)
			}
		})
	}
}

// TestPullExplains asks for what a real registry refuses.
func TestPullExplains(t *testing.T) {
	store, shop := newStoreAndShop(t)
	ref := shop.addr() + "/no/such:1"
	_, err := store.Pull(t.Context(), ref, nil, func(string) {})
	want := "cannot pull " + ref + ": the registry answered 404 Not Found, NAME_UNKNOWN: it has no such repository"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
	_, err = store.Pull(t.Context(), "UPPER CASE", nil, func(string) {})
	if err == nil || !strings.HasPrefix(err.Error(), "cannot pull UPPER CASE: it is not the name of an image: ") {
		t.Errorf("got %v", err)
	}
}

func TestPullPlatform(t *testing.T) {
	store, shop := newStoreAndShop(t)
	of := func(os, arch string) mutate.IndexAddendum {
		image := newImage(t, newLayer(t, file{name: os + "-" + arch}))
		image = configure(t, image, func(f *v1.ConfigFile) { f.OS, f.Architecture = os, arch })
		platform := &v1.Platform{OS: os, Architecture: arch}
		return mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}}
	}
	push := func(name string, adds ...mutate.IndexAddendum) string {
		ref := parse(t, shop.addr()+"/"+name)
		if err := remote.WriteIndex(ref, mutate.AppendManifests(empty.Index, adds...)); err != nil {
			t.Fatal(err)
		}
		return ref.String()
	}

	ref := push("all", of("windows", arch), of("linux", "s390x"), of("linux", arch))
	if _, err := os.Stat(filepath.Join(pull(t, store, ref).Tree, "linux-"+arch)); err != nil {
		t.Error(err)
	}

	shop.requests()
	pull(t, store, ref)
	if got := shop.requests(); len(got) != 1 {
		t.Errorf("an index that is there asked %q", got)
	}

	others := push("others", of("windows", arch), of("linux", "s390x"), of("unknown", "unknown"), of("linux", "riscv64"))
	for _, test := range []struct{ summary, ref, want string }{
		{
			summary: "index of others",
			ref:     others,
			want:    "there is none for linux/" + arch + ", only for linux/riscv64, linux/s390x, windows/" + arch,
		},
		{summary: "empty index", ref: push("none"), want: "there is none for linux/" + arch + ", only for no platform"},
		{
			summary: "image of another",
			ref:     shop.push("other", of("linux", "s390x").Add.(v1.Image)),
			want:    "it is for linux/s390x, and this host is linux/" + arch,
		},
	} {
		_, err := store.Pull(t.Context(), test.ref, nil, func(string) {})
		if want := "cannot pull " + test.ref + ": " + test.want; err == nil || err.Error() != want {
			t.Errorf("%s: got %v\nwant %s", test.summary, err, want)
		}
	}
}

func parse(t *testing.T, reference string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// TestPullComparesDigests pulls from a registry whose content does not match its
// digests.
func TestPullComparesDigests(t *testing.T) {
	layer := newLayer(t, file{name: "f", body: "the right one"})
	wrong := newImage(t, newLayer(t, file{name: "f", body: "the wrong one"}))
	digest, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		summary string
		lie     func(w http.ResponseWriter, r *http.Request) bool
	}{
		{summary: "manifest", lie: func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			data, _ := wrong.RawManifest()
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
			_, _ = w.Write(data)
			return true
		}},
		{summary: "layer", lie: func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/blobs/"+digest.String()) {
				return false
			}
			_, _ = w.Write([]byte("something else"))
			return true
		}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			store, shop := newStoreAndShop(t)
			ref := shop.push("app", newImage(t, layer))
			shop.say(test.lie)
			if got, err := store.Pull(t.Context(), ref, nil, func(string) {}); err == nil {
				t.Errorf("%s is used", got.Tree)
			} else if !strings.Contains(err.Error(), "digest") && !strings.Contains(err.Error(), "size") {
				t.Errorf("got %v", err)
			}
			checkEmpty(t, filepath.Join(store.Dir, "images"))
		})
	}

	t.Run("content", func(t *testing.T) {
		store, shop := newStoreAndShop(t)
		image := configure(t, newImage(t, layer), func(f *v1.ConfigFile) {
			f.RootFS.DiffIDs[0].Hex = strings.Repeat("0", 64)
		})
		_, err := store.Pull(t.Context(), shop.push("app", image), nil, func(string) {})
		if err == nil || !strings.Contains(err.Error(), "cannot unpack layer 1: its content is sha256:") {
			t.Errorf("got %v", err)
		}
		checkEmpty(t, filepath.Join(store.Dir, "images"))
	})

	t.Run("layers", func(t *testing.T) {
		store, shop := newStoreAndShop(t)
		image := configure(t, newImage(t, layer), func(f *v1.ConfigFile) {
			f.RootFS.DiffIDs = append(f.RootFS.DiffIDs, f.RootFS.DiffIDs[0])
		})
		_, err := store.Pull(t.Context(), shop.push("app", image), nil, func(string) {})
		if err == nil || !strings.HasSuffix(err.Error(), "its manifest lists 1 layers, and its configuration 2") {
			t.Errorf("got %v", err)
		}
	})
}

// checkEmpty checks that a directory has nothing but locks.
func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			t.Errorf("%s is left in %s", e.Name(), dir)
		}
	}
}

func TestPullCredentials(t *testing.T) {
	store, shop := newStoreAndShop(t)
	elsewhere := newShop(t)
	store.Insecure = append(store.Insecure, elsewhere.addr())
	const user, password = "me", "s3cret"
	right := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	ref := shop.push("private", newImage(t, newLayer(t, file{name: "f"})))

	var mu sync.Mutex
	seen := map[string]bool{}
	shop.say(func(w http.ResponseWriter, r *http.Request) bool {
		got := r.Header.Get("Authorization")
		mu.Lock()
		seen[got] = true
		mu.Unlock()
		if got == right && strings.Contains(r.URL.Path, "/blobs/") {
			// As registries do whose content is on a server of its own.
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		if got != right {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"ask `+password+`"}]}`, http.StatusUnauthorized)
		}
		return got != right
	})

	elsewhere.say(func(w http.ResponseWriter, r *http.Request) bool {
		if got := r.Header.Get("Authorization"); got != "" {
			t.Errorf("another server got %q", got)
		}
		return false
	})
	elsewhere.push("private", newImage(t, newLayer(t, file{name: "f"})))

	credentials := func(password, server string) *oci.Credentials {
		return &oci.Credentials{Username: user, Password: password, Server: server}
	}
	const refused = ": the registry answered 401 Unauthorized, UNAUTHORIZED: " +
		"no such image, or it needs (other) credentials"
	for _, test := range []struct {
		summary string
		c       *oci.Credentials
		sent    bool
	}{
		{summary: "none", c: nil},
		{summary: "Docker Hub's", c: credentials(password, "")},
		{summary: "another host's", c: credentials(password, "registry.example")},
		{summary: "another port's", c: credentials(password, "127.0.0.1")},
		{summary: "wrong", c: credentials("wrong", shop.addr())},
		{summary: "right", c: credentials(password, shop.addr()), sent: true},
		{summary: "right, with a URL", c: credentials(password, "https://"+shop.addr()+"/v1/"), sent: true},
	} {
		clear(seen)
		image, err := store.Pull(t.Context(), ref, test.c, func(string) {})
		if err == nil {
			image.Release()
		}
		if seen[right] != test.sent || (err == nil) != test.sent {
			t.Errorf("%s: sent %v, got %v; want %v", test.summary, seen[right], err, test.sent)
		}
		if err != nil && (strings.Contains(err.Error(), password) || !strings.HasSuffix(err.Error(), refused)) {
			t.Errorf("%s: got %v", test.summary, err)
		}
	}
}

func TestPullCancelled(t *testing.T) {
	store, shop := newStoreAndShop(t)
	ref := shop.push("app", newImage(t, newLayer(t, file{name: "f"}), newLayer(t, file{name: "g"})))
	reached, end := make(chan struct{}, 9), make(chan struct{})
	defer close(end)
	shop.say(func(w http.ResponseWriter, r *http.Request) bool {
		config := strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet
		if config {
			reached <- struct{}{}
			<-end
		}
		return config
	})

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reached
		cancel()
	}()

	begin := time.Now()
	_, err := store.Pull(ctx, ref, nil, func(string) {})
	if !errors.Is(err, context.Canceled) || time.Since(begin) > 10*time.Second {
		t.Errorf("got %v after %v", err, time.Since(begin))
	}
	checkEmpty(t, filepath.Join(store.Dir, "images"))
	checkEmpty(t, filepath.Join(store.Dir, "tmp"))
}

// TestPullEndsWithFirstFailure: a layer that cannot be downloaded ends the
// download of the one below it, which the unpacking waits for.
func TestPullEndsWithFirstFailure(t *testing.T) {
	store, shop := newStoreAndShop(t)
	lower, upper := newLayer(t, file{name: "f"}), newLayer(t, file{name: "g"})
	ref := shop.push("app", newImage(t, lower, upper))
	first, err := lower.Digest()
	if err != nil {
		t.Fatal(err)
	}
	second, err := upper.Digest()
	if err != nil {
		t.Fatal(err)
	}
	shop.say(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/blobs/"+first.String()):
			<-r.Context().Done()
			return true
		case strings.HasSuffix(r.URL.Path, "/blobs/"+second.String()):
			http.NotFound(w, r)
			return true
		}
		return false
	})

	begin := time.Now()
	_, err = store.Pull(t.Context(), ref, nil, func(string) {})
	if want := "cannot pull " + ref + ": the registry answered 404 Not Found"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	checkEmpty(t, filepath.Join(store.Dir, "images"))
	checkEmpty(t, filepath.Join(store.Dir, "tmp"))
}

func TestConcurrentPulls(t *testing.T) {
	store, shop := newStoreAndShop(t)
	second := *store
	image := newImage(t, newLayer(t, file{name: "f", body: strings.Repeat("x", 1<<20)}), newLayer(t, file{name: "g"}))
	ref := shop.push("app", image)

	var pulls sync.WaitGroup
	for i := range 8 {
		pulls.Go(func() {
			s := store
			if i%2 == 1 {
				s = &second
			}
			image, err := s.Pull(t.Context(), ref, nil, func(string) {})
			if err != nil {
				t.Error(err)
				return
			}
			defer image.Release()
			if _, err := os.Stat(filepath.Join(image.Tree, "g")); err != nil {
				t.Error(err)
			}
		})
	}
	pulls.Wait()

	counts := map[string]int{}
	for _, r := range shop.requests() {
		counts[r]++
	}

	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		digest, _ := l.Digest()
		if n := counts["GET /v2/app/blobs/"+digest.String()]; n != 1 {
			t.Errorf("a layer was downloaded %d times", n)
		}
	}
}

func TestEviction(t *testing.T) {
	store, shop := newStoreAndShop(t)
	const size = 256 << 10
	var refs []string
	for i := range 4 {
		layer := newLayer(t, file{name: "f", body: strings.Repeat(fmt.Sprint(i), size)})
		refs = append(refs, shop.push(fmt.Sprintf("app:%d", i), newImage(t, layer)))
	}

	store.MaxBytes = 2*size + 64<<10
	use := func(i int) *oci.Image {
		t.Helper()
		image, err := store.Pull(t.Context(), refs[i], nil, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // so that the next is used later, in ticks of the kernel's clock
		return image
	}

	there := func(images ...*oci.Image) {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(store.Dir, "images"))
		if err != nil {
			t.Fatal(err)
		}
		var got, want []string
		for _, e := range entries {
			got = append(got, "sha256:"+e.Name())
		}
		for _, i := range images {
			want = append(want, i.Digest)
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("there are %q, want %q", got, want)
		}
	}

	zero, one := use(0), use(1)
	zero.Release()
	one.Release()
	use(0).Release() // now 1 is that used longest ago
	two := use(2)
	there(zero, two)
	three := use(3) // 2 is in use still
	there(two, three)

	zero = use(0) // all are in use: no image may go
	there(zero, two, three)
	two.Release()
	three.Release()
	zero.Release()
	one = use(1)
	defer one.Release()
	there(zero, one)
	checkEmpty(t, filepath.Join(store.Dir, "tmp"))
}

func TestTooLarge(t *testing.T) {
	store, shop := newStoreAndShop(t)
	store.MaxBytes = 1 << 20
	const want = ": the image is too large: all images together may take 1.0 MiB; " +
		"raise RUNNER_IMAGE_CACHE in config.env"
	lower := newLayer(t, file{name: "f", body: strings.Repeat("0", 800<<10)})
	upper := newLayer(t, file{name: "f", body: strings.Repeat("1", 800<<10)})
	ref := shop.push("app", newImage(t, lower, upper))
	_, err := store.Pull(t.Context(), ref, nil, func(string) {})
	if err == nil || !strings.HasSuffix(err.Error(), "cannot unpack layer 2"+want) {
		t.Errorf("got %v, want %q", err, want)
	}
	checkEmpty(t, filepath.Join(store.Dir, "tmp"))

	store.MaxBytes = 1 << 8
	_, err = store.Pull(t.Context(), ref, nil, func(string) {})
	if err == nil || err.Error() != "cannot pull "+ref+strings.Replace(want, "1.0", "0.0", 1) {
		t.Errorf("got %v", err)
	}
}

// TestLeftovers uses a store as a crash may leave it.
func TestLeftovers(t *testing.T) {
	store, shop := newStoreAndShop(t)
	ref := shop.push("app", newImage(t, newLayer(t, file{name: "f"})))

	image, err := store.Pull(t.Context(), ref, nil, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	hex := strings.TrimPrefix(image.Digest, "sha256:")
	image.Release()

	for _, test := range []struct {
		summary string
		spoil   func(dir string) error
	}{
		{summary: "config", spoil: func(dir string) error { return os.Remove(filepath.Join(dir, "config.json")) }},
		{summary: "garbage", spoil: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o600)
		}},
		{summary: "tree", spoil: func(dir string) error { return os.RemoveAll(filepath.Join(dir, "rootfs")) }},
		{summary: "lock", spoil: func(dir string) error { return os.Remove(filepath.Join(dir, "lock")) }},
		{summary: "all", spoil: os.RemoveAll},
		{summary: "half", spoil: func(dir string) error {
			tmp := filepath.Join(store.Dir, "tmp", hex)
			return errors.Join(
				os.MkdirAll(filepath.Join(tmp, "rootfs/old"), 0o755),
				os.WriteFile(filepath.Join(tmp, "layer-0"), nil, 0o600),
				os.RemoveAll(dir),
			)
		}},
	} {
		if err := errors.Join(test.spoil(filepath.Join(store.Dir, "images", hex)), chownAll(store.Dir)); err != nil {
			t.Fatal(err)
		}
		image, err := store.Pull(t.Context(), ref, nil, func(string) {})
		if err != nil {
			t.Errorf("%s: %v", test.summary, err)
			continue
		}
		entries, err := os.ReadDir(image.Tree)
		if err != nil || len(entries) != 1 || entries[0].Name() != "f" {
			t.Errorf("%s: the tree has %v, %v", test.summary, entries, err)
		}
		image.Release()
		checkEmpty(t, filepath.Join(store.Dir, "tmp"))
	}

	if err := os.MkdirAll(filepath.Join(store.Dir, "tmp/import-1/x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := store.Sweep(); err != nil {
		t.Fatal(err)
	}
	checkEmpty(t, filepath.Join(store.Dir, "tmp"))

	pull(t, store, ref).Release()
	if err := errors.Join(os.RemoveAll(filepath.Join(store.Dir, "images", hex)), store.Sweep()); err != nil {
		t.Fatal(err)
	}
	checkEmpty(t, filepath.Join(store.Dir, "refs"))
}

// chownAll makes files of a store the helper's, as those that it makes itself.
func chownAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, owner, owner))
	})
}

// TestSweepForeign: an image that belongs to another user is removed, and pulled
// again.
func TestSweepForeign(t *testing.T) {
	store, shop := newStoreAndShop(t)
	ref := shop.push("app", newImage(t, newLayer(t, file{name: "f"})))
	first := pull(t, store, ref)
	if err := errors.Join(os.Chown(filepath.Dir(first.Tree), 0, 0), store.Sweep()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.Tree); err == nil {
		t.Error("the image is there")
	}
	pull(t, store, ref)
}

func TestSweepOfNothing(t *testing.T) {
	s := &oci.Store{Dir: filepath.Join(t.TempDir(), "none")}
	if err := s.Sweep(); err != nil {
		t.Error(err)
	}
}

// TestForeignLayer pulls a layer whose address the image itself names, which must
// not be one without TLS.
func TestForeignLayer(t *testing.T) {
	store, shop := newStoreAndShop(t)
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
	defer other.Close()

	layer := newLayer(t, file{name: "f"})
	digest, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}

	address := strings.Replace(other.URL, "127.0.0.1", "10.255.255.1", 1)
	image, err := mutate.Append(newImage(t), mutate.Addendum{Layer: layer, URLs: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := partial.Descriptor(image); err != nil {
		t.Fatal(err)
	}

	ref := shop.push("app", image)
	shop.say(func(w http.ResponseWriter, r *http.Request) bool {
		missing := strings.HasSuffix(r.URL.Path, digest.String())
		if missing {
			http.NotFound(w, r)
		}
		return missing
	})
	if _, err := store.Pull(t.Context(), ref, nil, func(string) {}); err == nil {
		t.Error("want an error")
	}
}
