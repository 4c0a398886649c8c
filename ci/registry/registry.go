// Package registry is an OCI registry for tests, and makes the images in it. It
// speaks the real protocol over a real connection; only its content is made up.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Credentials that repositories beneath private/ want.
const (
	Username = "octocat"
	Password = "s3cret-of-the-registry"
)

// Registry is a registry that runs.
type Registry struct {
	server *http.Server
	addr   string
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	layers registry.BlobPutHandler

	mu       sync.Mutex
	requests []string // METHOD PATH
}

// Serve serves on l, with its content in dir, until Close. dial reaches l, which
// may be in another network namespace.
func Serve(l net.Listener, dir string, dial func(context.Context, string, string) (net.Conn, error)) *Registry {
	blobs := registry.NewDiskBlobHandler(dir)
	r := &Registry{addr: l.Addr().String(), dial: dial, layers: blobs.(registry.BlobPutHandler)}
	handler := registry.New(registry.WithBlobHandler(blobs), registry.Logger(log.New(io.Discard, "", 0)))
	r.server = &http.Server{Handler: r.guard(handler), ReadHeaderTimeout: time.Minute}
	go func() {
		if err := r.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "registry:", err)
		}
	}()
	return r
}

// Close ends the registry: it cannot be reached any more.
func (r *Registry) Close() error { return r.server.Close() }

// Addr is HOST:PORT, the first part of its images' names.
func (r *Registry) Addr() string { return r.addr }

// Requests returns what was asked of it since the last call, as METHOD PATH.
func (r *Registry) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.requests
	r.requests = nil
	return list
}

// guard notes requests and asks for credentials where they are wanted.
func (r *Registry) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.requests = append(r.requests, q.Method+" "+q.URL.Path)
		r.mu.Unlock()
		user, password, _ := q.BasicAuth()
		wanted := strings.HasPrefix(q.URL.Path, "/v2/private/") && (user != Username || password != Password)
		// A client learns from /v2/ how to log in.
		if wanted || q.URL.Path == "/v2/" && user == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}`, http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, q)
	})
}

// Push puts an image in under a name such as "debian:13" and returns the whole
// name by which it is pulled.
func (r *Registry) Push(ctx context.Context, repository string, image v1.Image) (string, error) {
	whole := r.addr + "/" + repository
	ref, err := name.ParseReference(whole, name.Insecure)
	if err != nil {
		return "", err
	}
	if err := r.keepLayers(ctx, repository, image); err != nil {
		return "", err
	}
	return whole, remote.Write(ref, image, remote.WithContext(ctx),
		remote.WithTransport(&http.Transport{DialContext: r.dial, DisableKeepAlives: true}),
		remote.WithAuth(&authn.Basic{Username: Username, Password: Password}))
}

// keepLayers puts the layers in without uploading them: the handler keeps an
// upload in memory until it is complete.
func (r *Registry) keepLayers(ctx context.Context, repository string, image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		data, err := layer.Compressed()
		if err != nil {
			return err
		}
		err = r.layers.Put(ctx, repository, digest, data)
		if err := errors.Join(err, data.Close()); err != nil {
			return err
		}
	}
	return nil
}
