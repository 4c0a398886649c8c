package dist

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/agent/upgrade"
	"github.com/mkappliance/mkappliance/internal/actionsrunner"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/release"
)

// RefusedError is the error of a version that must not be installed. Nothing has
// changed.
type RefusedError struct{ reason error }

func (e *RefusedError) Error() string { return "refused: " + e.reason.Error() }
func (e *RefusedError) Unwrap() error { return e.reason }

func refuse(format string, args ...any) error { return &RefusedError{fmt.Errorf(format, args...)} }

// Origin is where newer versions are from.
type Origin interface {
	// find returns a version, or the newest for "".
	find(ctx context.Context, version string) (*offer, error)
}

// offer is a version that can be had.
type offer struct {
	version   string
	published time.Time // zero if not known
	from      string    // for people
	size      int64     // of the archive; 0 if not known
	open      func(context.Context) (io.ReadCloser, error)
	// check returns an error unless the archive, which it reads to its end, is the
	// one that was published.
	check func(archive io.Reader) error
}

// maxArchive is far more than an archive has: 220 MB in release 2.336.0.
const maxArchive = 1 << 30

// GitHub is the releases of the actions runner at GitHub. An archive is accepted if it
// has the digest that the API states.
type GitHub struct {
	API       string // address of the REST API
	Arch      arch.Arch
	Transport http.RoundTripper // of requests; nil for the usual one
}

func (g GitHub) find(ctx context.Context, version string) (*offer, error) {
	directory, name := strings.TrimSuffix(g.API, "/")+actionsrunner.ReleasesPath, "latest"
	if version != "" {
		directory, name = directory+"tags/", "v"+version
	}
	api, err := upgrade.OpenSource(directory, g.Transport)
	if err != nil {
		return nil, err
	}
	data, err := api.Read(ctx, name, actionsrunner.MaxAnswer)
	if code := upgrade.StatusCode(err); code == http.StatusForbidden || code == http.StatusTooManyRequests {
		err = fmt.Errorf("%w; it answers 60 requests an hour of each address", err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s for the actions runner: %w", g.API, err)
	}

	r, err := actionsrunner.Parse(data)
	if err != nil {
		return nil, refuse("the release at %s: %w", g.API, err)
	}
	if version != "" && r.Version != version {
		return nil, refuse("%s has sent release %s instead of %s", g.API, r.Version, version)
	}
	archive, err := r.Archive(g.Arch)
	if err != nil {
		return nil, &RefusedError{err}
	}
	if archive.Size <= 0 || archive.Size > maxArchive {
		return nil, refuse("the archive of release %s has %d bytes, want 1 to %d", r.Version, archive.Size, maxArchive)
	}
	end := strings.LastIndexByte(archive.URL, '/') + 1
	files, err := upgrade.OpenSource(archive.URL[:end], g.Transport)
	if err != nil {
		return nil, refuse("release %s: %w", r.Version, err)
	}
	return &offer{
		version: r.Version, published: r.Published, from: "GitHub", size: archive.Size,
		open: func(ctx context.Context) (io.ReadCloser, error) {
			return files.Open(ctx, archive.URL[end:], archive.Size+1)
		},
		check: func(content io.Reader) error { return checkDigest(content, archive.SHA256) },
	}, nil
}

func checkDigest(content io.Reader, want string) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return refuse("its SHA-256 is %s, and GitHub's API states %s", got, want)
	}
	return nil
}

// Channel is the directory of the channel that the image is upgraded from. Beside the
// archive of the actions runner, under the name that it has at GitHub, lies its
// signature, ARCHIVE.minisig. The file actions-runner-linux-ARCH.minisig is a copy of
// the newest's.
type Channel struct {
	Source string // URL or absolute path
	Keys   []release.PublicKey
	Arch   arch.Arch
}

func (c Channel) find(ctx context.Context, version string) (*offer, error) {
	if len(c.Keys) == 0 {
		return nil, refuse("this image has no update key, so that nothing of %s can be trusted; "+
			"list one in update.keys of images.toml", c.Source)
	}
	files, err := upgrade.OpenSource(c.Source, nil)
	if err != nil {
		return nil, err
	}

	signatureName := actionsrunner.NewestName(c.Arch)
	if version != "" {
		signatureName = actionsrunner.ArchiveName(c.Arch, version) + ".minisig"
	}
	signature, err := files.Read(ctx, signatureName, release.MaxSignature)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s has no actions runner: there is no %s", c.Source, signatureName)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of %s: %w", signatureName, c.Source, err)
	}
	named, err := namedVersion(signature, c.Arch)
	if err != nil {
		return nil, refuse("%s: %w", signatureName, err)
	}
	if version != "" && named != version {
		return nil, refuse("%s is a signature of version %s", signatureName, named)
	}

	name := actionsrunner.ArchiveName(c.Arch, named)
	return &offer{
		version: named, from: c.Source,
		open: func(ctx context.Context) (io.ReadCloser, error) { return files.Open(ctx, name, maxArchive+1) },
		check: func(content io.Reader) error {
			if err := release.VerifyReader(c.Keys, name, content, signature); err != nil {
				return &RefusedError{err}
			}
			return nil
		},
	}, nil
}

// namedVersion returns the version in the name of the archive that a signature claims
// to be for.
func namedVersion(signature []byte, a arch.Arch) (string, error) {
	name, err := release.SignedName(signature)
	if err != nil {
		return "", err
	}
	newest, version, ok := actionsrunner.ParseArchiveName(name)
	if !ok || newest != actionsrunner.NewestName(a) {
		return "", fmt.Errorf("it is for %.80q, and not for %s", name, actionsrunner.ArchiveName(a, "VERSION"))
	}
	return version, nil
}
