package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/run"
)

// Layer is a tree of Debian packages and nothing else. It is kept in the cache
// as a tar file named by the hash of everything it is made from.
type Layer struct {
	Name         string   // "host", "guest", "tools": for people only
	Variant      string   // of mmdebstrap(1): which packages come beside those listed
	Architecture string   // as dpkg names it
	Suite        string   // of the archive, as "trixie"
	Packages     []string // in any order
	ExcludePaths []string // dpkg's path-exclude globs, dpkg(1)
	Sources      *Sources
	// Archive is the hash of the archive's signed index files at this time, so
	// that a layer is made anew when the archive has changed.
	Archive string
	Epoch   int64 // SOURCE_DATE_EPOCH, seconds since 1970
}

// Key is the hash of everything the layer's content depends on.
func (l *Layer) Key() string {
	// The name is for people, and the options are how the archive is reached,
	// not what is in it.
	inputs := *l
	inputs.Name = ""
	inputs.Sources = &Sources{Lines: l.Sources.Lines}
	data, err := json.Marshal(inputs)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Argv is the mmdebstrap(1) command that writes the layer to the file tar,
// reading its sources from the file sourcesList.
func (l *Layer) Argv(tar, sourcesList string) []string {
	argv := []string{"mmdebstrap", "--mode=root", "--format=tar",
		"--variant=" + l.Variant, "--architectures=" + l.Architecture,
		"--aptopt=APT::Install-Recommends \"false\""}
	for _, option := range l.Sources.Options {
		argv = append(argv, "--aptopt="+option)
	}
	for _, glob := range l.ExcludePaths {
		argv = append(argv, "--dpkgopt=path-exclude="+glob)
	}
	for _, pkg := range l.Packages {
		argv = append(argv, "--include="+pkg)
	}
	return append(argv, l.Suite, tar, sourcesList)
}

// Cache keeps layers, the tools tree and downloaded components below one
// directory. Everything in it can be deleted and will be made again.
type Cache struct {
	Dir      string
	Executor run.Executor
}

// Has tells whether a layer is in the cache.
func (c *Cache) Has(l *Layer) bool {
	_, err := os.Stat(c.layerPath(l))
	return err == nil
}

func (c *Cache) layerPath(l *Layer) string { return filepath.Join(c.Dir, "layers", l.Key()+".tar") }

// Get gives the path of the layer's tar file, making it if it is not there.
// What mmdebstrap says goes to log.
func (c *Cache) Get(ctx context.Context, l *Layer, log io.Writer) (string, error) {
	path := c.layerPath(l)
	if c.Has(l) {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("cannot make the layer cache: %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return "", fmt.Errorf("cannot make %s tree: %w", l.Name, err)
	}
	defer os.RemoveAll(temp)
	list := filepath.Join(temp, "sources.list")
	var lines []byte
	for _, line := range l.Sources.Lines {
		lines = append(lines, line+"\n"...)
	}
	if err := os.WriteFile(list, lines, 0o644); err != nil {
		return "", fmt.Errorf("cannot make %s tree: %w", l.Name, err)
	}
	tar := filepath.Join(temp, "layer.tar")
	cmd := run.Cmd{Args: l.Argv(tar, list), Stdout: log, Stderr: log,
		// INITRD=No keeps the kernel package from making an initrd that the
		// compose step would make again.
		Env: append(os.Environ(), "INITRD=No", "SOURCE_DATE_EPOCH="+strconv.FormatInt(l.Epoch, 10))}
	if err := c.Executor.Exec(ctx, cmd); err != nil {
		return "", fmt.Errorf("cannot make %s tree: %w", l.Name, err)
	}
	if err := publish(tar, path); err != nil {
		return "", fmt.Errorf("cannot keep %s tree: %w", l.Name, err)
	}
	return path, nil
}

// publish makes the finished file temp durable and gives it its final name.
func publish(temp, path string) error {
	f, err := os.Open(temp)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// ArchiveState hashes the signed index of every source, fetched by apt's own
// downloader, so that its proxies and credentials apply.
func ArchiveState(ctx context.Context, executor run.Executor, sources *Sources) (string, error) {
	dir, err := os.MkdirTemp("", "mkappliance-release-")
	if err != nil {
		return "", fmt.Errorf("cannot read the archive's index: %w", err)
	}
	defer os.RemoveAll(dir)
	sum := sha256.New()
	for i, line := range sources.Lines {
		fields := strings.Fields(line) // deb URI SUITE COMPONENT
		url := strings.TrimSuffix(fields[1], "/") + "/dists/" + fields[2] + "/InRelease"
		file := filepath.Join(dir, strconv.Itoa(i))
		cmd := run.Cmd{Args: []string{"/usr/lib/apt/apt-helper", "download-file", url, file}}
		if err := executor.Exec(ctx, cmd); err != nil {
			return "", fmt.Errorf("cannot read the archive's index: %w", err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("cannot read the archive's index: %w", err)
		}
		sum.Write(data)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// ToolsTree gives the directory of the tools layer, unpacked once and kept. The
// files belong to the caller: nothing in the tree depends on who owns them.
func (c *Cache) ToolsTree(ctx context.Context, l *Layer, log io.Writer) (string, error) {
	dir := filepath.Join(c.Dir, "tools", l.Key())
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot read tools tree: %w", err)
	}
	tar, err := c.Get(ctx, l, log)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("cannot make tools tree: %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return "", fmt.Errorf("cannot make tools tree: %w", err)
	}
	defer os.RemoveAll(temp)
	if err := Unpack(ctx, c.Executor, tar, temp, "--no-same-owner"); err != nil {
		return "", fmt.Errorf("cannot make tools tree: %w", err)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", fmt.Errorf("cannot make tools tree: %w", err)
	}

	// Another build may have put the same tree there meanwhile: use that one.
	if err := os.Rename(temp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("cannot keep tools tree: %w", err)
	}
	return dir, nil
}

// Unpack extracts a tar file below dir with owners, modes and extended
// attributes. Device nodes are left out: the kernel's devtmpfs makes them, and
// an unprivileged build may not.
func Unpack(ctx context.Context, executor run.Executor, tar, dir string, options ...string) error {
	argv := append([]string{"tar", "--extract", "--file", tar, "--directory", dir, "--numeric-owner",
		"--xattrs", "--xattrs-include=*", "--exclude=./dev/*"}, options...)
	if err := executor.Exec(ctx, run.Cmd{Args: argv}); err != nil {
		return fmt.Errorf("cannot unpack %s: %w", filepath.Base(tar), err)
	}
	return nil
}
