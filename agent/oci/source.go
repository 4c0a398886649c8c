package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Credentials log in to one registry and are sent to no other.
type Credentials struct {
	Username, Password string
	Server             string // HOST[:PORT], also in a URL; empty for Docker Hub
}

// source is a registry with the reference to pull from it.
type source struct {
	reference   name.Reference
	transport   *guard
	options     []remote.Option
	credentials *Credentials // that are for the registry, or nil
}

func (s *Store) newSource(reference string, c *Credentials) (*source, error) {
	ref, err := s.parse(reference)
	if err != nil {
		return nil, err
	}
	t := s.newTransport()
	options := []remote.Option{
		remote.WithTransport(t), remote.WithAuth(authn.Anonymous),
		remote.WithRetryBackoff(remote.Backoff{Duration: cmp.Or(s.RetryWait, time.Second), Factor: 3, Jitter: 0.1, Steps: 3}),
	}
	if c != nil && !c.isFor(ref.Context().Registry) {
		c = nil
	}
	if c != nil {
		options = append(options, remote.WithAuth(&authn.Basic{Username: c.Username, Password: c.Password}))
	}
	return &source{reference: ref, transport: t, options: options, credentials: c}, nil
}

func (s *Store) parse(reference string) (name.Reference, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, fmt.Errorf("it is not the name of an image: %w", err)
	}
	if slices.Contains(s.Insecure, ref.Context().RegistryStr()) {
		return name.ParseReference(reference, name.Insecure)
	}
	return ref, nil
}

// isFor reports whether the credentials may be sent to a registry. The actions
// runner names no server for Docker Hub.
func (c *Credentials) isFor(registry name.Registry) bool {
	server := c.Server
	if u, err := url.Parse(server); err == nil && u.Host != "" {
		server = u.Host
	}
	if server == "" || server == "docker.io" {
		server = name.DefaultRegistry
	}
	return strings.EqualFold(server, registry.RegistryStr())
}

func (s *source) close() { s.transport.CloseIdleConnections() }

// name returns the reference in full, with registry and tag or digest.
func (s *source) name() string { return s.reference.Name() }

func (s *source) isDigest() bool {
	_, ok := s.reference.(name.Digest)
	return ok
}

// at returns the full reference of a digest in the same repository.
func (s *source) at(digest string) string { return s.reference.Context().Digest(digest).Name() }

func (s *source) with(ctx context.Context) []remote.Option {
	return append(slices.Clone(s.options), remote.WithContext(ctx))
}

// resolveTimeout is how long a registry may take to resolve a name before it
// counts as unreachable.
const resolveTimeout = 30 * time.Second

// resolve returns the digest that the reference stands for. It asks the registry
// even for a digest, since that shows whether the credentials suffice.
func (s *source) resolve(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	head, err := remote.Head(s.reference, s.with(ctx)...)
	switch {
	case err == nil:
		return head.Digest.String(), nil
	case unreachable(err):
		return "", err
	}

	// Not every registry answers HEAD, and its answer has no body that explains
	// an error.
	got, err := remote.Get(s.reference, s.with(ctx)...)
	if err != nil {
		return "", err
	}
	return got.Digest.String(), nil
}

// image returns the image under a digest, or of the index under it the one for
// this platform. Later reads of the image end with ctx as well.
func (s *source) image(ctx context.Context, digest string) (v1.Image, error) {
	got, err := remote.Get(s.reference.Context().Digest(digest), s.with(ctx)...)
	if err != nil {
		return nil, err
	}
	if !got.MediaType.IsIndex() {
		return got.Image()
	}
	index, err := got.ImageIndex()
	if err != nil {
		return nil, err
	}
	return imageOf(index)
}

func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// imageOf returns the image of an index for this platform. If there is none, the
// error lists those there are.
func imageOf(index v1.ImageIndex) (v1.Image, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}

	var others []string
	for _, m := range manifest.Manifests {
		if !m.MediaType.IsImage() {
			continue
		}
		// An index of one image need not name a platform; the image does.
		if m.Platform == nil && len(manifest.Manifests) == 1 || m.Platform != nil && m.Platform.Satisfies(platform()) {
			return index.Image(m.Digest)
		}
		if m.Platform != nil && m.Platform.OS != "unknown" { // those are attestations
			others = append(others, m.Platform.OS+"/"+m.Platform.Architecture)
		}
	}

	slices.Sort(others)
	others = slices.Compact(others)
	if len(others) == 0 {
		others = []string{"no platform"}
	}
	return nil, fmt.Errorf("there is none for %s, only for %.400s", platform(), strings.Join(others, ", "))
}

// checkPlatform refuses an image that says it is for another platform.
func checkPlatform(file *v1.ConfigFile) error {
	want := platform()
	if file.Architecture != "" && (file.Architecture != want.Architecture || file.OS != want.OS) {
		return fmt.Errorf("it is for %.80s, and this host is %s", file.OS+"/"+file.Architecture, want)
	}
	return nil
}

// unreachable reports whether the registry may answer another time. One that
// refuses, has no such image or sends wrong content has answered, and one that must
// not be contacted never will.
func unreachable(err error) bool {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.StatusCode >= http.StatusInternalServerError || answer.StatusCode == http.StatusTooManyRequests
	}
	var refused refusal
	var network *url.Error
	return !errors.As(err, &refused) && (errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded))
}

// explain returns the error of a registry in the words of the protocol, without
// any text that the registry sent: a job, which chose the registry's name, must
// not be able to read the answers of a server that only the host reaches.
func explain(err error) error {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return err
	}
	text := fmt.Sprintf("the registry answered %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	for _, e := range answer.Errors {
		if known, ok := errorCodes[e.Code]; ok {
			text += fmt.Sprintf(", %s: %s", e.Code, known)
		}
	}
	return errors.New(text)
}

// errorCodes explains the codes of the OCI distribution specification that a
// pull can meet, and those of Docker Hub.
var errorCodes = map[transport.ErrorCode]string{
	transport.UnauthorizedErrorCode:    "no such image, or it needs (other) credentials",
	transport.DeniedErrorCode:          "no such image, or these credentials do not suffice",
	transport.NameUnknownErrorCode:     "it has no such repository",
	transport.ManifestUnknownErrorCode: "it has no such tag",
	transport.BlobUnknownErrorCode:     "a part of the image is missing there",
	transport.NameInvalidErrorCode:     "it allows no such name",
	transport.TooManyRequestsErrorCode: "its limit of pulls is reached; credentials may raise it",
}
