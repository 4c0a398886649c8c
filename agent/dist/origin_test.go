package dist

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/mkappliance/mkappliance/internal/actionsrunner"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/release"
)

// api is a double of GitHub's release API and of the server of its archives.
type api struct {
	tag, digest  string // as the API states them
	size         int
	scheme       string
	archive      []byte // as it is sent
	status       int    // of the API
	archiveState int    // of the archive
}

func (a *api) serve(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	answer := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(a.status)
		host := strings.TrimPrefix(server.URL, "https://")
		fmt.Fprintf(w, `{"tag_name": %q, "published_at": "2026-11-20T10:00:00Z", "assets": [{"name":
			"actions-runner-linux-x64-%s.tar.gz", "digest": %q, "size": %d,
			"browser_download_url": "%s://%s/files/%s/a.tar.gz"}]}`,
			a.tag, strings.TrimPrefix(a.tag, "v"), a.digest, a.size, a.scheme, host, a.tag)
	}
	mux.HandleFunc("/repos/actions/runner/releases/latest", answer)
	mux.HandleFunc("/repos/actions/runner/releases/tags/v2.337.0", answer)
	mux.HandleFunc("/files/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/objects/1", http.StatusFound) // as GitHub does
	})
	mux.HandleFunc("/objects/1", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(a.archiveState)
		_, _ = w.Write(a.archive)
	})
	return server
}

func TestGitHub(t *testing.T) {
	good := pack(t, runner())
	sum := sha256.Sum256(good)
	tests := []struct {
		summary string
		change  func(*api)
		version string
		want    string // error; empty for none
	}{
		{summary: "newest", change: func(*api) {}},
		{summary: "a certain one", change: func(a *api) { a.tag = "v2.337.0" }, version: "2.337.0"},
		{summary: "another than asked for", change: func(*api) {}, version: "2.337.0",
			want: "has sent release 2.338.0 instead of 2.337.0"},
		{summary: "unknown", change: func(*api) {}, version: "2.300.0", want: "the server answered 404 Not Found"},
		{
			summary: "asked too often",
			change:  func(a *api) { a.status = 403 },
			want:    "the server answered 403 Forbidden; it answers 60 requests",
		},
		{summary: "server error", change: func(a *api) { a.status = 500 }, want: "the server answered 500"},
		{summary: "preview", change: func(a *api) { a.tag = "v3.0.0-rc1" }, want: "refused: the release at"},
		{summary: "tag that is a path", change: func(a *api) { a.tag = "v../../x" }, want: "refused: the release at"},
		{summary: "no digest", change: func(a *api) { a.digest = "" }, want: "GitHub has no SHA-256 of it"},
		{summary: "plain http", change: func(a *api) { a.scheme = "http" }, want: "is not an https URL"},
		{summary: "no size", change: func(a *api) { a.size = 0 }, want: "has 0 bytes, want 1 to"},
		{summary: "too large", change: func(a *api) { a.size = 2 << 30 }, want: "has 2147483648 bytes, want 1 to"},
		{summary: "bit flip", change: func(a *api) { a.archive[100] ^= 1 }, want: "refused: its SHA-256 is "},
		{summary: "truncated", change: func(a *api) { a.archive = a.archive[:100] },
			want: "refused: its archive has 100 bytes"},
		{summary: "longer", change: func(a *api) { a.archive = append(a.archive, 0) },
			want: "refused: its archive has " + fmt.Sprint(len(good)+1)},
		{summary: "no archive", change: func(a *api) { a.archiveState = 404 }, want: "the server answered 404 Not Found"},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			a := &api{tag: "v2.338.0", digest: "sha256:" + hex.EncodeToString(sum[:]), size: len(good), scheme: "https",
				archive: append([]byte{}, good...), status: 200, archiveState: 200}
			tt.change(a)
			server := a.serve(t)
			version, err := install(t, GitHub{API: server.URL + "/", Arch: arch.AMD64(),
				Transport: server.Client().Transport}, tt.version)
			if tt.want == "" && (err != nil || "v"+version != a.tag) {
				t.Errorf("got %s, %v", version, err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// install downloads and unpacks a version. It asserts that nothing is left where that
// fails.
func install(t *testing.T, o Origin, version string) (string, error) {
	t.Helper()
	r := &Renewer{Store: newStore(t), Log: io.Discard}
	found, err := o.find(t.Context(), version)
	if err == nil {
		err = r.install(t.Context(), found)
	}
	if err != nil {
		entries, _ := os.ReadDir(r.Store.Dir)
		if len(entries) != 0 {
			t.Errorf("left %v", entries)
		}
		return "", err
	}
	if !r.Store.has(found.version) {
		t.Errorf("there is no copy of %s", found.version)
	}
	return found.version, nil
}

func TestChannel(t *testing.T) {
	public, private := newKey(t)
	_, stranger := newKey(t)
	const version = "2.338.0"
	name := actionsrunner.ArchiveName(arch.AMD64(), version)
	good := pack(t, runner())
	sign := func(key release.PrivateKey, name string) []byte {
		signature, err := release.Sign(key, name, good, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	signature := sign(private, name)
	const newest = "actions-runner-linux-x64.minisig"

	tests := []struct {
		summary string
		files   map[string][]byte
		keys    []release.PublicKey // that of the image if not set
		version string
		want    string // error; empty for none
	}{
		{summary: "newest", files: map[string][]byte{newest: signature, name: good}},
		{summary: "a certain one", files: map[string][]byte{name + ".minisig": signature, name: good}, version: version},
		{summary: "nothing there", want: "has no actions runner: there is no " + newest},
		{summary: "no keys", keys: []release.PublicKey{}, want: "this image has no update key"},
		{summary: "no archive", files: map[string][]byte{newest: signature}, want: "no such file"},
		{summary: "unknown key", files: map[string][]byte{newest: sign(stranger, name), name: good},
			want: "signed with an unknown key"},
		{summary: "bit flip", files: map[string][]byte{newest: signature, name: append([]byte{1}, good[1:]...)},
			want: "the signature does not fit the content"},
		{summary: "not a signature", files: map[string][]byte{newest: []byte("hello"), name: good},
			want: "not in minisign's format"},
		{summary: "of a manifest", files: map[string][]byte{newest: sign(private, "x.manifest.json"), name: good},
			want: `it is for "x.manifest.json"`},
		{summary: "of another architecture", files: map[string][]byte{
			newest: sign(private, actionsrunner.ArchiveName(arch.ARM64(), version)), name: good}, want: "it is for "},
		{summary: "of a path", files: map[string][]byte{newest: []byte(strings.Replace(string(signature), version,
			"../../x", 1))}, want: "it is for "},
		{summary: "renamed to a newer version", files: map[string][]byte{
			newest: []byte(strings.Replace(string(signature), version, "2.339.0", 1)),
			actionsrunner.ArchiveName(arch.AMD64(), "2.339.0"): good}, want: "the signature does not fit the content"},
		{summary: "of another version", files: map[string][]byte{
			actionsrunner.ArchiveName(arch.AMD64(), "2.339.0") + ".minisig": signature}, version: "2.339.0",
			want: "is a signature of version 2.338.0"},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tt.keys == nil {
				tt.keys = []release.PublicKey{public}
			}
			got, err := install(t, Channel{Source: dir, Keys: tt.keys, Arch: arch.AMD64()}, tt.version)
			if tt.want == "" && (err != nil || got != version) {
				t.Errorf("got %s, %v", got, err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func newKey(t *testing.T) (release.PublicKey, release.PrivateKey) {
	t.Helper()
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}
