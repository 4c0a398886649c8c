// Package imagebuild describes how the OCI image of a Dockerfile is built: by
// buildah(1) in a guest of the guest base, from a copy of the Dockerfile's
// directory, into a volume. It starts nothing itself; the broker does.
package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// Where the guest finds what it needs, and its result.
const (
	contextTarget = "/run/build/context"
	outputTarget  = "/run/build/output"
	contextVolume = "context"
	outputVolume  = "output"
	archiveName   = "image.tar"
)

// script builds an OCI image. chroot isolation needs nothing that a guest does
// not have; the guest is what isolates.
const script = `set -e
buildah --storage-driver vfs build --isolation chroot --network host --layers=false --pull=missing \
  --tag image --file "$1" ` + contextTarget + `
buildah --storage-driver vfs push --quiet image oci-archive:` + outputTarget + "/" + archiveName

// Build is the build of one Dockerfile.
type Build struct {
	// Key names the Dockerfile and everything beside it by content. Two builds
	// with one key have the same result, as far as a build can tell.
	Key string

	copy       workroot.Root // of the context; gone once it is placed
	dockerfile string        // name in it
}

// New returns the build of a Dockerfile. It copies the whole directory that it
// lies in, its context, to the new directory dir, which no job can write to. The
// path of the Dockerfile is the host's, beneath the work root.
//
// The caller discards the build.
func New(ctx context.Context, workRoot workroot.Root, dockerfile, dir string) (*Build, error) {
	return newBuild(ctx, workRoot, dockerfile, dir, defaultLimits())
}

func newBuild(ctx context.Context, workRoot workroot.Root, dockerfile, dir string, l limits) (*Build, error) {
	from, name := filepath.Split(dockerfile)
	source, err := openContext(workRoot, from, name)
	if err != nil {
		return nil, err
	}
	defer source.Close()

	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot copy its directory: %w", err)
	}
	b := &Build{copy: workroot.Root{Path: dir, UID: workRoot.UID, GID: workRoot.GID}, dockerfile: name}
	if err := b.fill(ctx, source, l); err != nil {
		return nil, errors.Join(err, b.Discard())
	}
	return b, nil
}

// fill copies the context, and names it.
func (b *Build) fill(ctx context.Context, source *os.File, l limits) error {
	to, err := os.OpenRoot(b.copy.Path)
	if err != nil {
		return err
	}
	defer to.Close()

	if err := errors.Join(to.Lchown(".", b.copy.UID, b.copy.GID), to.Chmod(".", 0o755)); err != nil {
		return err
	}
	c := copier{limits: l, ctx: ctx, to: to, owner: b.copy}
	if err := c.copy(source); err != nil {
		return err
	}
	b.Key = c.key(b.dockerfile)
	return nil
}

// openContext opens the directory of a Dockerfile.
func openContext(workRoot workroot.Root, dir, dockerfile string) (*os.File, error) {
	name, beneath := workRoot.Name(dir)
	if !beneath {
		return nil, errors.New("it does not lie beneath the work root")
	}
	source, err := workRoot.Open(name)
	if err != nil {
		return nil, err
	}

	var stat unix.Stat_t
	err = unix.Fstatat(int(source.Fd()), dockerfile, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = source.Close()
		return nil, errors.New("there is no such file")
	}
	return source, nil
}

// Place moves the context into the volumes of the job that builds, for its
// container to mount.
func (b *Build) Place(volumes workroot.Root) error {
	err := os.Mkdir(volumes.Path, 0o700)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot show the context to the build: %w", err)
	}
	if err := os.Rename(b.copy.Path, filepath.Join(volumes.Path, contextVolume)); err != nil {
		return fmt.Errorf("cannot show the context to the build: %w", err)
	}
	return nil
}

// Discard removes the copy of the context, unless it was placed.
func (b *Build) Discard() error { return b.copy.Remove() }

// Container returns the container to build in. Its root file system is the guest
// base.
func (b *Build) Container() brokerapi.Container {
	return brokerapi.Container{
		Env: map[string]string{"HOME": "/root"},
		Mounts: []brokerapi.Mount{
			{Target: contextTarget, Volume: contextVolume, ReadOnly: true},
			{Target: outputTarget, Volume: outputVolume},
		},
	}
}

// Argv returns the command that builds, in the container.
func (b *Build) Argv() []string {
	return []string{"sh", "-c", script, "sh", contextTarget + "/" + b.dockerfile}
}

// Files returns the files that the container needs, by path. Insecure are the
// registries, HOST or HOST:PORT, that buildah uses without TLS.
func Files(insecure []string) map[string]string {
	return map[string]string{"/etc/containers/registries.conf": registriesConf(insecure)}
}

// registriesConf returns containers-registries.conf(5).
func registriesConf(insecure []string) string {
	var b strings.Builder
	b.WriteString("unqualified-search-registries = [\"docker.io\"]\n")
	for _, registry := range insecure {
		fmt.Fprintf(&b, "[[registry]]\nlocation = %q\ninsecure = true\n", registry)
	}
	return b.String()
}

// OpenResult opens the OCI archive that a build left in the volumes of its job.
// The guest chose the file, so nothing but a regular one is opened; its content
// is not checked.
func OpenResult(volumes workroot.Root) (*os.File, error) {
	archive, err := volumes.OpenFile(filepath.Join(outputVolume, archiveName))
	if err != nil {
		return nil, fmt.Errorf("cannot read the built image: %w", err)
	}
	return archive, nil
}
