package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
)

// Where a guest that builds an image finds what it needs.
const (
	contextTarget = "/run/build/context"
	outputTarget  = "/run/build/output"
	outputVolume  = "output"
	archiveName   = "image.tar"
)

// buildScript builds an image with buildah(1). chroot isolation needs nothing
// that a guest does not have; the guest is what isolates.
const buildScript = `set -e
buildah --storage-driver vfs build --isolation chroot --network host --layers=false --pull=missing --tag image --file "$1" ` + contextTarget + `
buildah --storage-driver vfs push --quiet image oci-archive:` + outputTarget + "/" + archiveName

// build builds the image of a Dockerfile in a guest of the base tree, unless one
// of the same content was built before. Its output goes to the client.
func (s *Server) build(ctx context.Context, client *caller, b brokerapi.Build) (rootFS, error) {
	built, err := s.buildOrFind(ctx, client, b)
	if err != nil {
		return rootFS{}, fmt.Errorf("cannot build %s: %w", filepath.Base(b.Dockerfile), err)
	}
	return built, nil
}

func (s *Server) buildOrFind(ctx context.Context, client *caller, b brokerapi.Build) (rootFS, error) {
	dir, name := filepath.Split(b.Dockerfile)
	key, err := s.contextKey(dir, name)
	if err != nil {
		return rootFS{}, err
	}
	if found, ok := s.parts.Images.Lookup(key); ok {
		return newOCIRoot(found), nil
	}
	spec := containerSpec{root: s.baseRoot(), files: map[string]string{"/etc/containers/registries.conf": s.registriesConf()},
		Container: brokerapi.Container{Env: map[string]string{"HOME": "/root"}, Mounts: []brokerapi.Mount{
			{Target: contextTarget, Source: filepath.Clean(dir), ReadOnly: true}, {Target: outputTarget, Volume: outputVolume}}}}
	var result rootFS
	err = s.withGuest(ctx, spec, nil, func(c *container, volumes string) error {
		argv := []string{"sh", "-c", buildScript, "sh", contextTarget + "/" + name}
		status, err := c.guest.Exec(ctx, c.process(argv, c.env, "/"), client.streams())
		switch {
		case err != nil:
			return explainGuest(err)
		case status != 0:
			return fmt.Errorf("buildah ended with status %d", status)
		}
		c.guest.Kill() // nobody changes the result any more
		result, err = s.importBuilt(ctx, key, volumes)
		return err
	})
	return result, err
}

// importBuilt takes over what a guest has built. The guest chose the file, so
// nothing but a regular one is opened.
func (s *Server) importBuilt(ctx context.Context, key, volumes string) (rootFS, error) {
	archive, err := s.settings.root(volumes).OpenFile(filepath.Join(outputVolume, archiveName))
	if err != nil {
		return rootFS{}, fmt.Errorf("cannot read the built image: %w", err)
	}
	defer archive.Close()

	built, err := s.parts.Images.Import(ctx, key, "/proc/self/fd/"+strconv.Itoa(int(archive.Fd())))
	if err != nil {
		return rootFS{}, err
	}
	return newOCIRoot(built), nil
}

// registriesConf is containers-registries.conf(5) with what config.env says.
func (s *Server) registriesConf() string {
	var b strings.Builder
	b.WriteString("unqualified-search-registries = [\"docker.io\"]\n")
	for _, registry := range s.settings.InsecureRegistries {
		fmt.Fprintf(&b, "[[registry]]\nlocation = %q\ninsecure = true\n", registry)
	}
	return b.String()
}

// contextKey names a Dockerfile with all that lies beside it by content: names,
// permissions and bytes.
func (s *Server) contextKey(dir, dockerfile string) (string, error) {
	workRoot := s.settings.workRoot()
	work, beneath := workRoot.Name(dir)
	if !beneath {
		return "", errors.New("it does not lie beneath the work root")
	}
	root, err := workRoot.OpenRoot(work)
	if err != nil {
		return "", err
	}
	defer root.Close()

	if info, err := root.Lstat(dockerfile); err != nil || !info.Mode().IsRegular() {
		return "", errors.New("there is no such file")
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", dockerfile)
	if err := fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return hashEntry(sum, root, name)
	}); err != nil {
		return "", fmt.Errorf("cannot read its directory: %w", err)
	}
	return "dockerfile " + hex.EncodeToString(sum.Sum(nil)), nil
}

func hashEntry(sum io.Writer, root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(sum, "%q %v %d\n", name, info.Mode(), info.Size())
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		target, err := root.Readlink(name)
		fmt.Fprintf(sum, "%q\n", target)
		return err
	case 0:
		f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(sum, f)
		return err
	}
	return nil
}
