package rootfs

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/run"
)

// Component is a release archive that is not a Debian package.
type Component struct {
	Name    string // for people
	Version string
	URL     string // where to download it, or
	Path    string // where it lies on this host
	SHA256  string // hex; what is not exactly this is refused
}

// Fetch gives the path of the component's archive, its hash checked. A download
// is kept in the cache under its hash.
func (c *Cache) Fetch(ctx context.Context, comp Component) (string, error) {
	if comp.Path != "" {
		return comp.Path, c.verify(comp, comp.Path)
	}
	path := filepath.Join(c.Dir, "components", comp.SHA256+"-"+filepath.Base(comp.URL))
	if _, err := os.Stat(path); err == nil {
		return path, c.verify(comp, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("cannot make the component cache: %w", err)
	}
	if err := download(ctx, comp, path); err != nil {
		return "", fmt.Errorf("cannot download %s %s: %w", comp.Name, comp.Version, err)
	}
	return path, nil
}

func (c *Cache) verify(comp Component, path string) error {
	got, err := FileHash(path, "")
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", comp.Name, err)
	}
	return comp.compare(got, path)
}

// FileHash gives the sha256 of a file in hex. If want is not empty the file
// must have that hash.
func FileHash(path, want string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	got := hex.EncodeToString(sum.Sum(nil))
	if want != "" && got != strings.ToLower(want) {
		return "", fmt.Errorf("%s has sha256 %s, not %s", path, got, want)
	}
	return got, nil
}

func (comp Component) compare(got, from string) error {
	if got != strings.ToLower(comp.SHA256) {
		return fmt.Errorf("cannot use %s: its sha256 is %s, images.toml says %s", from, got, comp.SHA256)
	}
	return nil
}

// download writes the archive to path if, and only if, its hash is right.
func download(ctx context.Context, comp Component, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, comp.URL, nil)
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
	f, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer f.Abandon()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), response.Body); err != nil {
		return err
	}
	if err := comp.compare(hex.EncodeToString(sum.Sum(nil)), comp.URL); err != nil {
		return err
	}
	return f.Commit()
}

// UnpackComponent extracts a .tar, .tar.gz or .tar.xz below dir as root's files.
func UnpackComponent(ctx context.Context, executor run.Executor, archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("cannot unpack component: %w", err)
	}
	defer f.Close()
	tar, err := decompress(archive, f)
	if err != nil {
		return fmt.Errorf("cannot unpack %s: %w", archive, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot unpack component: %w", err)
	}
	cmd := run.Cmd{Args: []string{"tar", "--extract", "--file", "-", "--directory", dir,
		"--no-same-owner", "--owner=root", "--group=root"}, Stdin: tar}
	if err := executor.Exec(ctx, cmd); err != nil {
		return fmt.Errorf("cannot unpack %s: %w", archive, err)
	}
	return nil
}

func decompress(name string, r io.Reader) (io.Reader, error) {
	// xz reads single bytes, so without a buffer each costs a system call.
	buffered := bufio.NewReaderSize(r, 1<<20)
	switch {
	case strings.HasSuffix(name, ".tar.gz"), strings.HasSuffix(name, ".tgz"):
		return gzip.NewReader(buffered)
	case strings.HasSuffix(name, ".tar.xz"):
		return xz.NewReader(buffered)
	case strings.HasSuffix(name, ".tar"):
		return buffered, nil
	}
	return nil, fmt.Errorf("unknown archive type: want .tar, .tar.gz or .tar.xz")
}
