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

	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/store"
)

// Layer describes a tree of Debian packages and nothing else.
type Layer struct {
	Name         string   // "host", "guest", "tools": for messages only
	Variant      string   // of mmdebstrap(1): which packages come beside those listed
	Architecture string   // as dpkg names it
	Suite        string   // Debian release, as "trixie"
	Packages     []string // in the order in which mmdebstrap(1) gets them
	ExcludePaths []string // globs of files not to unpack, dpkg(1) --path-exclude
	Sources      *Sources // where the packages come from
	// IndexHash is what Sources.IndexHash returned: a layer is made anew when
	// the index of its sources has changed.
	IndexHash string
	Epoch     int64 // SOURCE_DATE_EPOCH, seconds since 1970
}

// layerFormat is part of every key. Raise it when layers change although the
// commands that make them do not.
const layerFormat = 1

// Key returns the digest of everything the layer's content depends on: the
// command that makes it, and the packages which that command will find.
func (l *Layer) Key() string {
	// The options of apt are left out: they are how a source is reached.
	inputs := struct {
		Format      int
		Argv, Env   []string
		SourcesList string
		IndexHash   string
	}{layerFormat, l.argv(nil, "layer.tar", "sources.list"), l.environment(), l.Sources.list(), l.IndexHash}

	data, err := json.Marshal(inputs)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// argv returns the mmdebstrap(1) command that writes the layer to the file tar,
// reading its sources from the file sourcesList.
func (l *Layer) argv(aptOptions []string, tar, sourcesList string) []string {
	argv := []string{"mmdebstrap", "--mode=root", "--format=tar",
		"--variant=" + l.Variant, "--architectures=" + l.Architecture,
		"--aptopt=APT::Install-Recommends \"false\""}
	for _, option := range aptOptions {
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

// environment returns what the command gets beside the caller's environment.
func (l *Layer) environment() []string {
	// INITRD=No keeps the kernel package from making an initrd that the
	// Composer would make again.
	return []string{"INITRD=No", "SOURCE_DATE_EPOCH=" + strconv.FormatInt(l.Epoch, 10)}
}

// layersKind is the kind of layers in the store.
const layersKind = "layers"

// Builder makes layers and tools trees, or takes them from the store.
type Builder struct {
	Store    *store.Store
	Executor run.Executor
}

// Layer returns the path of the layer's tar file, and whether it was in the
// store already. The output of mmdebstrap goes to log.
func (b *Builder) Layer(ctx context.Context, l *Layer, log io.Writer) (path string, cached bool, err error) {
	key := l.Key() + ".tar"
	path, err = b.Store.Get(layersKind, key)
	if !errors.Is(err, fs.ErrNotExist) {
		return path, err == nil, err
	}

	path, err = b.Store.Put(layersKind, key, func(tar string) error {
		list := filepath.Join(filepath.Dir(tar), "sources.list")
		if err := os.WriteFile(list, []byte(l.Sources.list()), 0o644); err != nil {
			return err
		}
		return b.Executor.Exec(ctx, run.Cmd{Args: l.argv(l.Sources.Options, tar, list),
			Env: append(os.Environ(), l.environment()...), Stdout: log, Stderr: log})
	})
	if err != nil {
		return "", false, fmt.Errorf("cannot make %s layer: %w", l.Name, err)
	}
	return path, false, nil
}
