package oci_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/oci"
)

// These make this test program the helper and the unpacking process.
const (
	helperVerb = "pull-an-image"
	unpackVerb = "unpack-a-layer"
)

func TestMain(m *testing.M) {
	// Under the race detector each helper would otherwise end a second later.
	if err := os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	if len(os.Args) > 2 && os.Args[1] == unpackVerb {
		// Not os.Exit: the race detector would sleep for a second, and the
		// environment, which could say otherwise, is empty here.
		if err := unpack(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			syscall.Exit(1)
		}
		syscall.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == helperVerb {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		defer stop()
		if err := oci.HelperMain(ctx, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func unpack(maxFiles string) error {
	max, err := strconv.ParseInt(maxFiles, 10, 64)
	if err != nil {
		return err
	}
	return oci.UnpackMain(os.Stdin, max, os.Stdout)
}

// owner owns the files of root in the tests' images.
const owner = 1 << 20

func newStore(t testing.TB) *oci.Store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("unpacking changes the owners of files: this needs root")
	}
	return &oci.Store{
		Dir: filepath.Join(t.TempDir(), "store"), Owner: owner,
		Helper: []string{helperVerb}, Unpacker: []string{unpackVerb}, RetryWait: time.Millisecond,
	}
}

// newStoreAndShop returns a store that may pull from a registry of its own.
func newStoreAndShop(t testing.TB) (*oci.Store, *shop) {
	t.Helper()
	store, shop := newStore(t), newShop(t)
	store.Insecure = []string{shop.addr()}
	return store, shop
}

// file is an entry of a layer.
type file struct {
	name string
	body string
	with func(*tar.Header)
}

func dir(name string) file {
	return file{name, "", func(h *tar.Header) { h.Typeflag, h.Mode = tar.TypeDir, 0o755 }}
}

func link(name string, kind byte, to string) file {
	return file{name, "", func(h *tar.Header) { h.Typeflag, h.Linkname = kind, to }}
}

func newArchive(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.body)), Format: tar.FormatPAX}
		if f.with != nil {
			f.with(h)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// sparseFile is an entry that is a hole of a size alone, once withSparse has
// changed the archive.
func sparseFile(name, size string) file {
	return file{name: name, body: "0\n" + strings.Repeat("\x00", 510), with: func(h *tar.Header) {
		h.PAXRecords = map[string]string{
			"GNU-sparse.major": "1", "GNU-sparse.minor": "0", "GNU-sparse.name": name, "GNU-sparse.realsize": size,
		}
	}}
}

// withSparse makes the sparse files of an archive. The library reads them, but
// writes none.
func withSparse(archive []byte) []byte {
	return bytes.ReplaceAll(archive, []byte("GNU-sparse"), []byte("GNU.sparse"))
}

func newLayer(t testing.TB, files ...file) v1.Layer { return layerOf(t, newArchive(t, files...)) }

func layerOf(t testing.TB, archive []byte, options ...tarball.LayerOption) v1.Layer {
	t.Helper()
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
	l, err := tarball.LayerFromOpener(open, options...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// newImage makes an image for this platform.
func newImage(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return configure(t, image, func(f *v1.ConfigFile) { f.OS, f.Architecture = "linux", arch })
}

func appendLayer(t testing.TB, image v1.Image, layer v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(image, layer)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func configure(t testing.TB, image v1.Image, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	f, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	change(f)
	image, err = mutate.ConfigFile(image, f)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// shop is a registry that records its requests and can be made to answer
// otherwise.
type shop struct {
	*httptest.Server
	t testing.TB

	mu    sync.Mutex
	asked []string
	// answer, if set, answers a request, or returns false to leave it to the registry.
	answer func(http.ResponseWriter, *http.Request) bool
}

func newShop(t testing.TB) *shop {
	s := &shop{t: t}
	standard := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.Method+" "+r.URL.Path)
		answer := s.answer
		s.mu.Unlock()
		if answer == nil || !answer(w, r) {
			standard.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *shop) addr() string { return strings.TrimPrefix(s.URL, "http://") }

// requests returns the requests since the last call, except for pings.
func (s *shop) requests() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.asked {
		if r != "GET /v2/" {
			list = append(list, r)
		}
	}
	s.asked = nil
	return list
}

// say sets the answer.
func (s *shop) say(answer func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// status makes the registry answer all requests with a status.
func (s *shop) status(code int) {
	s.say(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "the secret of a service nearby", code)
		return true
	})
}

// push puts an image into the registry and returns its name there.
func (s *shop) push(repository string, image v1.Image) string {
	s.t.Helper()
	ref, err := name.ParseReference(s.addr() + "/" + repository)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		s.t.Fatal(err)
	}
	s.requests()
	return ref.String()
}

// progress collects lines.
type progress struct {
	sync.Mutex
	lines []string
}

func (p *progress) add(line string) {
	p.Lock()
	defer p.Unlock()
	p.lines = append(p.lines, line)
}

func (p *progress) String() string { return strings.Join(p.lines, "\n") }

func pull(t *testing.T, s *oci.Store, reference string) *oci.Image {
	t.Helper()
	image, err := s.Pull(t.Context(), reference, nil, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(image.Release)
	return image
}
