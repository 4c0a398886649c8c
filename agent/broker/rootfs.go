package broker

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/oci"
)

// rootFS is the root file system that a container's guest starts from: that of
// an OCI image, or a tree that is baked into the appliance.
type rootFS struct {
	tree    string // directory on the host
	owner   int    // on disk, of what is root's in the tree
	hasInit bool   // runs an init system of its own
	config  oci.Config
	release func() // lets the tree be removed
}

// ociOwner owns on disk what is root's in an OCI image: it is not a user of the
// host.
const ociOwner = guest.SubordinateBase

// newBakedRoot returns that of a baked tree, which boots if it can.
func newBakedRoot(tree string) rootFS {
	_, err := os.Lstat(filepath.Join(tree, "sbin/init"))
	return rootFS{tree: tree, hasInit: err == nil, release: func() {}}
}

func newOCIRoot(i Image) rootFS {
	return rootFS{tree: i.Tree, owner: ociOwner, config: i.Config, release: i.Release}
}

// baseRoot returns the guest base.
func (r *resources) baseRoot() rootFS { return newBakedRoot(r.settings.Base) }

// findRoot finds the baked tree or pulls the OCI image that a container names.
func (r *resources) findRoot(ctx context.Context, c brokerapi.Container, report reporter) (rootFS, error) {
	name := strings.TrimPrefix(c.Image, "docker://")
	if tree, ok := r.settings.Images[name]; ok {
		return newBakedRoot(tree), nil
	}

	credentials := (*oci.Credentials)(c.Credentials)
	pulled, err := r.images.Pull(ctx, name, credentials, func(line string) { report("%s", line) })
	if err != nil {
		return rootFS{}, err
	}
	return newOCIRoot(pulled), nil
}

// findOrBuildRoot is findRoot for an OCI image that may have to be built first.
func (r *resources) findOrBuildRoot(
	ctx context.Context, client *caller, work workDir, j *job, request brokerapi.ContainerRequest,
) (rootFS, error) {
	if request.Build == nil {
		return r.findRoot(ctx, request.Container, reportTo(client.Conn))
	}
	return r.build(ctx, client, work, j, *request.Build)
}
