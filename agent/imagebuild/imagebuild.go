// Package imagebuild describes how the OCI image of a Dockerfile is built: by
// buildah(1) in a guest of the guest base, from a directory that the guest
// shows, into a volume. It starts nothing itself; the broker does.
package imagebuild

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// Where the guest finds what it needs, and its result.
const (
	contextTarget = "/run/build/context"
	outputTarget  = "/run/build/output"
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

	context    string // directory of the host
	dockerfile string // name in it
}

// New returns the build of a Dockerfile, which it reads with the whole directory
// that it lies in, its context. The path is the host's, beneath the work root.
func New(workRoot workroot.Root, dockerfile string) (*Build, error) {
	dir, name := filepath.Split(dockerfile)
	key, err := contextKey(workRoot, dir, name)
	if err != nil {
		return nil, err
	}
	return &Build{Key: key, context: filepath.Clean(dir), dockerfile: name}, nil
}

// Container returns the container to build in. Its root file system is the guest
// base.
func (b *Build) Container() brokerapi.Container {
	return brokerapi.Container{
		Env: map[string]string{"HOME": "/root"},
		Mounts: []brokerapi.Mount{
			{Target: contextTarget, Source: b.context, ReadOnly: true},
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
