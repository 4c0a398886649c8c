package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkappliance/mkappliance/internal/store"
)

// Component is a release tarball of something that is not a Debian package.
// Exactly one of URL and Path is set.
type Component struct {
	Name    string // for messages
	Version string
	URL     string // where to download it
	Path    string // where it is on this host
	// SHA256 is the hex digest that the file must have. It may be empty, for
	// any, if Path is set.
	SHA256 string
}

// componentsKind is the kind of components in the store.
const componentsKind = "components"

// Fetch returns the path of a component's tarball, its digest checked. A
// download is kept in the store.
func Fetch(ctx context.Context, s *store.Store, c Component) (string, error) {
	if c.Path != "" {
		if c.SHA256 == "" {
			return c.Path, nil
		}
		return c.Path, c.check(c.Path)
	}

	key := c.SHA256 + "-" + filepath.Base(c.URL)
	path, err := s.Get(componentsKind, key)
	if err == nil {
		return path, c.check(path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	path, err = s.Put(componentsKind, key, func(path string) error { return c.download(ctx, path) })
	if err != nil {
		return "", fmt.Errorf("cannot download %s %s: %w", c.Name, c.Version, err)
	}
	return path, nil
}

// check compares the digest of a file on this host.
func (c *Component) check(path string) error {
	got, err := FileHash(path)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", c.Name, err)
	}
	if err := c.compare(got, path); err != nil {
		return fmt.Errorf("cannot use %w", err)
	}
	return nil
}

func (c *Component) compare(got, from string) error {
	if got != strings.ToLower(c.SHA256) {
		return fmt.Errorf("%s: its sha256 is %s, images.toml says %s", from, got, c.SHA256)
	}
	return nil
}

// download writes the tarball to path and checks its digest.
func (c *Component) download(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", response.Status)
	}

	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), response.Body); err != nil {
		return err
	}
	if err := c.compare(hex.EncodeToString(sum.Sum(nil)), c.URL); err != nil {
		return err
	}
	return f.Close()
}

// FileHash returns the sha256 of a file in lower-case hex.
func FileHash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()

	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// CheckFileHash compares the sha256 of a file with a digest in hex.
func CheckFileHash(path, want string) error {
	got, err := FileHash(path)
	if err != nil {
		return err
	}
	if got != strings.ToLower(want) {
		return fmt.Errorf("%s has sha256 %s, not %s", path, got, want)
	}
	return nil
}
