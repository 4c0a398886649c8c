// Package stubrunner builds a tarball shaped like the actions runner's release,
// with a listener that talks to ci/fakegithub, and a worker that runs scripted
// jobs through ci/miniworker. externals holds a placeholder for node.
package stubrunner

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/run"
)

// Version is what the stub says it is unless told otherwise.
const Version = "2.336.0"

// Options choose what to build.
type Options struct {
	Version string // default Version
	GOARCH  string // default amd64
	// ModuleDir is where the module lies; default the working directory.
	ModuleDir string
}

// Build writes actions-runner-linux-ARCH-VERSION.tar.gz into dir and returns
// its path and the sha256 of its bytes. Same sources, same bytes.
func Build(ctx context.Context, dir string, opt Options) (path, sum string, err error) {
	if opt.Version == "" {
		opt.Version = Version
	}
	if opt.GOARCH == "" {
		opt.GOARCH = "amd64"
	}

	listener, err := compile(ctx, opt, "listener")
	if err != nil {
		return "", "", err
	}
	worker, err := compile(ctx, opt, "worker")
	if err != nil {
		return "", "", err
	}
	data, err := archive(files(listener, worker))
	if err != nil {
		return "", "", err
	}

	arch := map[string]string{"amd64": "x64"}[opt.GOARCH]
	if arch == "" {
		arch = opt.GOARCH
	}

	path = filepath.Join(dir, fmt.Sprintf("actions-runner-linux-%s-%s.tar.gz", arch, opt.Version))
	hash := sha256.Sum256(data)
	return path, hex.EncodeToString(hash[:]), atomicfile.Write(path, data, 0o644)
}

// compile returns a program, linked statically: the worker runs in guests.
func compile(ctx context.Context, opt Options, program string) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "stubrunner")
	if err != nil {
		return nil, fmt.Errorf("cannot build stub runner: %w", err)
	}
	defer os.RemoveAll(tmp)

	out := filepath.Join(tmp, program)
	err = run.Local{}.Exec(ctx, run.Cmd{
		Args: []string{"go", "build", "-trimpath", "-buildvcs=false",
			"-ldflags=-s -w -buildid= -X main.version=" + opt.Version,
			"-o", out, "github.com/mkappliance/mkappliance/ci/stubrunner/" + program},
		Dir: opt.ModuleDir,
		Env: append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+opt.GOARCH),
	})
	if err != nil {
		return nil, fmt.Errorf("cannot build stub runner: %w", err)
	}
	return os.ReadFile(out)
}

type file struct {
	name string
	mode int64
	data []byte // nil for a directory
}

// Scripts that stand in the place of the runner's own.
const (
	bash     = "#!/bin/bash\n"
	findRoot = `root="$(cd "$(dirname "$0")" && pwd)"` + "\n"

	configScript = bash + "# Stand-in for the runner's config.sh.\n" + findRoot + `if [ "$1" = remove ]; then
  exec "$root/bin/Runner.Listener" "$@"
fi
exec "$root/bin/Runner.Listener" configure "$@"
`
	envScript  = bash + "# Stand-in for the runner's env.sh.\n"
	nodeScript = bash + `echo "stub node: $*"` + "\n"
	runScript  = bash + "# Stand-in for the runner's run.sh.\n" + findRoot +
		`exec "$root/bin/Runner.Listener" run "$@"` + "\n"
)

func files(listener, worker []byte) []file {
	return []file{
		{name: "./", mode: 0o755},
		{name: "./bin/", mode: 0o755},
		{name: "./bin/Runner.Listener", mode: 0o755, data: listener},
		{name: "./bin/Runner.Worker", mode: 0o755, data: worker},
		{name: "./config.sh", mode: 0o755, data: []byte(configScript)},
		{name: "./env.sh", mode: 0o755, data: []byte(envScript)},
		{name: "./externals/", mode: 0o755},
		{name: "./externals/node20/", mode: 0o755},
		{name: "./externals/node20/bin/", mode: 0o755},
		{name: "./externals/node20/bin/node", mode: 0o755, data: []byte(nodeScript)},
		{name: "./run.sh", mode: 0o755, data: []byte(runScript)},
	}
}

// archive packs with fixed times and owners.
func archive(files []file) ([]byte, error) {
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	tw := tar.NewWriter(gz)
	for _, f := range files {
		h := &tar.Header{
			Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: time.Unix(0, 0),
			Typeflag: tar.TypeReg, Format: tar.FormatUSTAR,
		}
		if f.data == nil {
			h.Typeflag = tar.TypeDir
		}
		if err := tw.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("cannot pack %s: %w", f.name, err)
		}
		if _, err := io.Copy(tw, bytes.NewReader(f.data)); err != nil {
			return nil, fmt.Errorf("cannot pack %s: %w", f.name, err)
		}
	}

	if err := tw.Close(); err != nil {
		return nil, fmt.Errorf("cannot pack stub runner: %w", err)
	}
	if err := gz.Close(); err != nil {
		return nil, fmt.Errorf("cannot pack stub runner: %w", err)
	}
	return b.Bytes(), nil
}
