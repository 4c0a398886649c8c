package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/golden"
	"github.com/mkappliance/mkappliance/internal/release"
)

var epoch = time.Unix(1754697600, 0)

// makeSet writes the update set of a version to a directory, and returns the path
// of the manifest.
func makeSet(t *testing.T, dir, version, content string) string {
	t.Helper()
	m := &release.Manifest{Schema: release.Schema, Image: "runner", Version: version, Architecture: "amd64",
		Channel: "stable", Severity: release.Low, Delta: true, Files: release.NewFiles("runner", version)}
	root := make([]byte, 3*release.BlockSize)
	copy(root, content)
	m.Files.Root = writeFile(t, dir, m.Files.Root.Name, root)
	m.Verity = release.NewVerity(strings.Repeat("ab", 32), release.VeritySalt, m.Files.Root.Size)
	m.Files.Verity = writeFile(t, dir, m.Files.Verity.Name, make([]byte, m.Verity.HashBlocks*release.BlockSize))
	m.Files.UKI = writeFile(t, dir, m.Files.UKI.Name, []byte("uki "+version))

	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	name := release.ManifestName("runner", version)
	writeFile(t, dir, name, data)
	return filepath.Join(dir, name)
}

func writeFile(t *testing.T, dir, name string, data []byte) release.File {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return release.File{Name: name, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
}

func newKey(t *testing.T) release.PrivateKey {
	t.Helper()
	_, key, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signedSet makes, opens and signs a set.
func signedSet(t *testing.T, key release.PrivateKey, version, content string) *Set {
	t.Helper()
	set, err := OpenSet(makeSet(t, t.TempDir(), version, content))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Sign(key, epoch); err != nil {
		t.Fatal(err)
	}
	return set
}

func newPublisher(target Target, key release.PrivateKey) *Publisher {
	return &Publisher{Target: target, Key: key, New: true, Report: func(string) func(error) { return func(error) {} }}
}

// checkChannel reads a channel as an appliance does, and returns its versions.
func checkChannel(t *testing.T, dir string, keys ...release.PublicKey) []string {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	verified := func(name string) []byte {
		data := read(name)
		if err := release.Verify(keys, name, data, read(name+release.SignatureSuffix)); err != nil {
			t.Fatal(err)
		}
		return data
	}

	index, err := release.DecodeIndex(verified(release.IndexName))
	if err != nil {
		t.Fatal(err)
	}
	var versions []string
	for _, e := range index.Releases {
		versions = append(versions, e.Version)
		data := verified(e.Manifest)
		m, err := release.DecodeManifest(e.Manifest, data)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.CheckManifest(m); err != nil {
			t.Error(err)
		}
		for _, r := range m.Files.Roles() {
			if err := checkFile(filepath.Join(dir, r.File.Name), r.File); err != nil {
				t.Error(err)
			}
		}
	}
	return versions
}

func TestPublishToDirectory(t *testing.T) {
	dir, key := t.TempDir(), newKey(t)
	target, err := OpenTarget(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	p := newPublisher(target, key)
	first, second := signedSet(t, key, "1.9", "a"), signedSet(t, key, "1.10", "b")
	for _, sets := range [][]*Set{{first}, {second}, {first, second}} {
		if _, err := p.Publish(t.Context(), sets, epoch); err != nil {
			t.Fatal(err)
		}
	}
	if got := checkChannel(t, dir, Public(key)); !slices.Equal(got, []string{"1.10", "1.9"}) {
		t.Errorf("got versions %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left behind %q", left)
	}
}

// TestPublishInPlace: the image was built into the channel's directory.
func TestPublishInPlace(t *testing.T) {
	key := newKey(t)
	set := signedSet(t, key, "1.0", "a")
	before, err := os.Stat(filepath.Join(set.Dir, "runner_1.0.root"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newPublisher(directory(set.Dir), key).Publish(t.Context(), []*Set{set}, epoch); err != nil {
		t.Fatal(err)
	}
	checkChannel(t, set.Dir, Public(key))
	if after, err := os.Stat(filepath.Join(set.Dir, "runner_1.0.root")); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was copied over itself: %v", err)
	}
}

// TestRotation publishes with a new key beside what the old one signed.
func TestRotation(t *testing.T) {
	dir, oldKey, key := t.TempDir(), newKey(t), newKey(t)
	if _, err := newPublisher(directory(dir), oldKey).Publish(t.Context(), []*Set{signedSet(t, oldKey, "1.0", "a")},
		epoch); err != nil {
		t.Fatal(err)
	}
	p := newPublisher(directory(dir), key)
	sets := []*Set{signedSet(t, oldKey, "1.1", "b"), signedSet(t, key, "1.2", "c")}
	if _, err := p.Publish(t.Context(), sets, epoch); !errors.Is(err, release.ErrUnknownKey) {
		t.Errorf("got %v", err)
	}
	p.Accepted = []release.PublicKey{Public(oldKey)}
	if _, err := p.Publish(t.Context(), sets, epoch); err != nil {
		t.Fatal(err)
	}
	if got := checkChannel(t, dir, Public(oldKey), Public(key)); len(got) != 3 {
		t.Errorf("got versions %q", got)
	}
}

// TestPublishRefuses makes mistakes that must leave the channel as it is.
func TestPublishRefuses(t *testing.T) {
	key := newKey(t)
	tests := []struct {
		summary string
		spoil   func(t *testing.T, s *Set, channel string, p *Publisher)
	}{
		{summary: "not signed", spoil: func(t *testing.T, s *Set, _ string, _ *Publisher) {
			remove(t, s.Dir, "runner_1.1.manifest.json.minisig")
		}},
		{summary: "signature of another set", spoil: func(t *testing.T, s *Set, _ string, _ *Publisher) {
			other, err := os.ReadFile(filepath.Join(signedSet(t, key, "1.2", "").Dir, "runner_1.2.manifest.json.minisig"))
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, s.Dir, "runner_1.1.manifest.json.minisig", other)
		}},
		{summary: "file missing", spoil: func(t *testing.T, s *Set, _ string, _ *Publisher) {
			remove(t, s.Dir, "runner_1.1.efi")
		}},
		{summary: "file too short", spoil: func(t *testing.T, s *Set, _ string, _ *Publisher) {
			writeFile(t, s.Dir, "runner_1.1.root", []byte("short"))
		}},
		{summary: "file of other content", spoil: func(t *testing.T, s *Set, _ string, _ *Publisher) {
			writeFile(t, s.Dir, "runner_1.1.efi", []byte("uki 6.6"))
		}},
		{summary: "index damaged", spoil: func(t *testing.T, _ *Set, channel string, _ *Publisher) {
			writeFile(t, channel, "index.json", []byte("{}\n"))
		}},
		{summary: "index without signature", spoil: func(t *testing.T, _ *Set, channel string, _ *Publisher) {
			remove(t, channel, "index.json.minisig")
		}},
		{summary: "no index, not new", spoil: func(t *testing.T, _ *Set, channel string, p *Publisher) {
			remove(t, channel, "index.json")
			p.New = false
		}},
		{summary: "published with other content", spoil: func(t *testing.T, s *Set, _ string, _ *Publisher) {
			*s = *signedSet(t, key, "1.00", "other")
		}},
		{summary: "base", spoil: func(_ *testing.T, _ *Set, _ string, p *Publisher) { p.Base = "ftp://example.org/" }},
	}

	messages := golden.NewMessages(t, "refused.golden")
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			channel := t.TempDir()
			p := newPublisher(directory(channel), key)
			if _, err := p.Publish(t.Context(), []*Set{signedSet(t, key, "1.0", "a")}, epoch); err != nil {
				t.Fatal(err)
			}
			set := signedSet(t, key, "1.1", "b")
			test.spoil(t, set, channel, p)

			before := listing(t, channel)
			_, err := p.Publish(t.Context(), []*Set{set}, epoch)
			if err == nil {
				t.Fatal("published")
			}
			message := strings.NewReplacer(set.Dir, "DIR", channel, "CHANNEL").Replace(err.Error())
			messages.Check(t, test.summary, message)
			if diff := cmp.Diff(before, listing(t, channel)); diff != "" {
				t.Errorf("the channel changed:\n%s", diff)
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// listing returns the content of every file of a directory.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	paths, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(path)] = string(data)
	}
	return files
}

// fakeServer stores what is PUT in a directory.
type fakeServer struct {
	dir string

	mu       sync.Mutex
	names    []string // of files PUT, in their order
	fail     []int    // statuses of the next requests, 0 for none
	headers  []string // Authorization of each request
	unsigned bool     // no Content-Length came with a file
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.headers = append(s.headers, r.Header.Get("Authorization"))
	if len(s.fail) > 0 {
		status := s.fail[0]
		s.fail = s.fail[1:]
		if status != 0 {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			return
		}
	}

	name := strings.TrimPrefix(r.URL.Path, "/channel/")
	if r.Method == http.MethodGet {
		http.ServeFile(w, r, filepath.Join(s.dir, name))
		return
	}
	data, _ := io.ReadAll(r.Body)
	s.unsigned = s.unsigned || r.ContentLength != int64(len(data))
	s.names = append(s.names, name)
	if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o644); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func startServer(t *testing.T) (*fakeServer, *server) {
	t.Helper()
	fake := &fakeServer{dir: t.TempDir()}
	listener := httptest.NewServer(fake)
	t.Cleanup(listener.Close)
	target, err := OpenTarget(listener.URL+"/channel", "Bearer secret")
	if err != nil {
		t.Fatal(err)
	}
	s := target.(*server)
	s.pause = time.Millisecond
	return fake, s
}

func TestPublishToServer(t *testing.T) {
	fake, target := startServer(t)
	key := newKey(t)
	fake.fail = []int{0, 503, 0, 429}
	if _, err := newPublisher(target, key).Publish(t.Context(), []*Set{signedSet(t, key, "1.0~rc1^2", "a")},
		epoch); err != nil {
		t.Fatal(err)
	}

	checkChannel(t, fake.dir, Public(key))
	want := []string{"runner_1.0~rc1^2.root", "runner_1.0~rc1^2.verity", "runner_1.0~rc1^2.efi",
		"runner_1.0~rc1^2.manifest.json", "runner_1.0~rc1^2.manifest.json.minisig", "index.json.minisig", "index.json"}
	if diff := cmp.Diff(want, fake.names); diff != "" {
		t.Errorf("got (+), want (-):\n%s", diff)
	}
	if slices.ContainsFunc(fake.headers, func(h string) bool { return h != "Bearer secret" }) || fake.unsigned {
		t.Errorf("got authorizations %q, a file without its length: %v", fake.headers, fake.unsigned)
	}

	if _, err := newPublisher(target, key).Publish(t.Context(), []*Set{signedSet(t, key, "1.1", "b")}, epoch); err != nil {
		t.Fatal(err)
	}
	if got := checkChannel(t, fake.dir, Public(key)); len(got) != 2 {
		t.Errorf("got versions %q", got)
	}
}

// TestServerFails asserts that the index is not written if anything before it
// fails.
func TestServerFails(t *testing.T) {
	messages := golden.NewMessages(t, "server.golden")
	for _, test := range []struct {
		summary string
		fail    []int
	}{
		{summary: "index forbidden", fail: []int{403}},
		{summary: "file forbidden", fail: []int{0, 0, 403}},
		{summary: "file redirected", fail: []int{0, 0, 307}},
		{summary: "manifest refused for ever", fail: []int{0, 0, 0, 0, 500, 500, 500, 500}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			fake, target := startServer(t)
			fake.fail = test.fail
			key := newKey(t)
			_, err := newPublisher(target, key).Publish(t.Context(), []*Set{signedSet(t, key, "1.0", "a")}, epoch)
			if err == nil {
				t.Fatal("published")
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the message has the credentials: %v", err)
			}
			messages.Check(t, test.summary, strings.ReplaceAll(err.Error(), target.base.Host, "HOST"))
			if slices.ContainsFunc(fake.names, func(name string) bool { return strings.HasPrefix(name, "index") }) {
				t.Errorf("got files %q", fake.names)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	_, target := startServer(t)
	target.pause = time.Hour
	target.base = &url.URL{Scheme: "http", Host: "127.0.0.1:1", Path: "/"}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := target.Put(ctx, "x", bytes.NewReader([]byte("x")), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestOpenTarget(t *testing.T) {
	messages := golden.NewMessages(t, "target.golden")
	for _, text := range []string{"/nonexistent", "publish_test.go", "ftp://example.org/x",
		"https://user:password@example.org/", "https://example.org/?sig=1", "http://example.org/"} {
		_, err := OpenTarget(text, "Bearer secret")
		if err == nil {
			t.Errorf("accepted %s", text)
			continue
		}
		messages.Check(t, strings.ReplaceAll(text, ":", "_"), err.Error())
	}
	for _, text := range []string{"http://127.0.0.1:8080/x", "https://example.org", "."} {
		if _, err := OpenTarget(text, "Bearer secret"); err != nil {
			t.Error(err)
		}
	}
}

func TestKeys(t *testing.T) {
	noPassword := func() (string, error) { return "", errors.New("asked for a password") }
	dir := t.TempDir()
	files, err := Generate(filepath.Join(dir, "a"), "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ReadPrivateKey(files.Private, noPassword)
	if err != nil {
		t.Fatal(err)
	}
	if public, err := release.ReadKey(files.Public); err != nil || !public.Equal(Public(key)) ||
		files.ID != release.KeyID(public.ID()) {
		t.Errorf("got %v, %v", public, err)
	}
	for path, want := range map[string]os.FileMode{files.Private: 0o600, files.Public: 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v", path, info, err)
		}
	}

	before := listing(t, dir)
	if _, err := Generate(filepath.Join(dir, "a"), ""); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	remove(t, dir, "a.key")
	if _, err := Generate(filepath.Join(dir, "a"), ""); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	delete(before, "a.key")
	if diff := cmp.Diff(before, listing(t, dir)); diff != "" {
		t.Errorf("a key was replaced, or left without its half:\n%s", diff)
	}

	for i, bad := range []string{"", "x", before["a.pub"]} {
		name := fmt.Sprintf("bad%d", i)
		writeFile(t, dir, name, []byte(bad))
		if _, err := ReadPrivateKey(filepath.Join(dir, name), noPassword); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

// TestPassword takes seconds and a GiB of memory: minisign's parameters.
func TestPassword(t *testing.T) {
	files, err := Generate(filepath.Join(t.TempDir(), "a"), "right")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ReadPrivateKey(files.Private, func() (string, error) { return "right", nil })
	if err != nil || release.KeyID(key.ID()) != files.ID {
		t.Errorf("got key %s, %v; want %s", release.KeyID(key.ID()), err, files.ID)
	}
}
