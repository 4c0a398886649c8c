package trial

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/release"
)

// A channel is what a machine sees as one directory: a file is that of the first
// directory which has it.
type channel []string

// newChannel writes an index with one set to the directory dir. The set stays where
// it is.
func newChannel(ctx context.Context, dir string, set *publish.Set, key release.PrivateKey) (channel, error) {
	target, err := publish.OpenTarget(dir, "")
	if err != nil {
		return nil, err
	}
	p := publish.Publisher{Target: indexTarget{target}, Key: key, New: true,
		Report: func(string) func(error) { return func(error) {} }}
	_, err = p.Publish(ctx, []*publish.Set{set}, time.Now())
	return channel{dir, set.Dir}, err
}

// indexTarget takes the index, and leaves all other files where they are.
type indexTarget struct{ publish.Target }

// Put implements publish.Target.
func (t indexTarget) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	if strings.TrimSuffix(name, release.SignatureSuffix) != release.IndexName {
		return nil
	}
	return t.Target.Put(ctx, name, content, size)
}

// ServeHTTP implements http.Handler for the paths of a pattern with {name}.
func (c channel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := filepath.Base(r.PathValue("name"))
	for _, dir := range c {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			http.ServeFile(w, r, path)
			return
		}
	}
	http.NotFound(w, r)
}

// serve serves channels by name at an address of this host until the server is
// closed.
func serve(channels map[string]channel) (*http.Server, net.Addr, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	for name, c := range channels {
		mux.Handle("GET /"+name+"/{name}", c)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	return server, listener.Addr(), nil
}
