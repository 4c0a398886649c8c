package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Credentials are those of one registry.
type Credentials struct {
	Username, Password string
	Server             string // HOST[:PORT], perhaps as a URL; empty for Docker Hub
}

// source is where an image comes from.
type source struct {
	reference name.Reference
	options   []remote.Option
}

func (s *Store) source(ctx context.Context, reference string, c *Credentials) (*source, error) {
	ref, err := s.parse(trimScheme(reference))
	if err != nil {
		return nil, err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithPlatform(platform()), remote.WithAuth(authn.Anonymous)}
	if c != nil && c.isFor(ref.Context().Registry) {
		options = append(options, remote.WithAuth(&authn.Basic{Username: c.Username, Password: c.Password}))
	}
	return &source{reference: ref, options: options}, nil
}

func (s *Store) parse(reference string) (name.Reference, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, fmt.Errorf("it is no name of an image: %w", err)
	}
	if slices.Contains(s.Insecure, ref.Context().RegistryStr()) {
		return name.ParseReference(reference, name.Insecure)
	}
	return ref, nil
}

// isFor tells whether the credentials may be shown to a registry. The runner
// names none for Docker Hub.
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

func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

func (s *source) name() string { return s.reference.Name() }

// resolve gives the digest that the reference stands for.
func (s *source) resolve() (string, error) {
	if digest, ok := s.reference.(name.Digest); ok {
		return digest.DigestStr(), nil
	}
	if head, err := remote.Head(s.reference, s.options...); err == nil {
		return head.Digest.String(), nil
	}
	// Not every registry answers HEAD, and none says in it what is wrong.
	got, err := remote.Get(s.reference, s.options...)
	if err != nil {
		return "", err
	}
	return got.Digest.String(), nil
}

// image gives the image for this machine.
func (s *source) image() (v1.Image, error) {
	got, err := remote.Get(s.reference, s.options...)
	if err != nil {
		return nil, err
	}
	if !got.MediaType.IsIndex() {
		image, err := got.Image()
		if err != nil {
			return nil, err
		}
		return image, checkPlatform(image)
	}
	index, err := got.ImageIndex()
	if err != nil {
		return nil, err
	}
	if err := checkIndex(index); err != nil {
		return nil, err
	}
	return got.Image()
}

func checkPlatform(image v1.Image) error {
	file, err := image.ConfigFile()
	if err != nil {
		return err
	}
	if want := platform(); file.Architecture != "" && (file.Architecture != want.Architecture || file.OS != want.OS) {
		return fmt.Errorf("it is for %s/%s, and this machine is %s/%s", file.OS, file.Architecture, want.OS, want.Architecture)
	}
	return nil
}

// checkIndex tells which platforms there are if this machine's is not one.
func checkIndex(index v1.ImageIndex) error {
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	var there []string
	want := platform()
	for _, m := range manifest.Manifests {
		if m.Platform == nil {
			continue
		}
		if m.Platform.OS == want.OS && m.Platform.Architecture == want.Architecture {
			return nil
		}
		if m.Platform.OS != "unknown" { // attestations
			there = append(there, m.Platform.OS+"/"+m.Platform.Architecture)
		}
	}
	return fmt.Errorf("there is none for %s/%s, only for %s", want.OS, want.Architecture, strings.Join(slices.Compact(there), ", "))
}

// unreachable tells whether a registry may answer another time: not one that
// refuses, or says that there is no such image.
func unreachable(err error) bool {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.StatusCode >= http.StatusInternalServerError || answer.StatusCode == http.StatusTooManyRequests
	}
	return true
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
