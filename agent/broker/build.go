package broker

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/imagebuild"
)

// build builds the OCI image of a Dockerfile in a guest of the guest base, unless
// one of the same content was built before. Its output goes to the client. The
// job j that it belongs to is nil if there is none.
func (r *resources) build(
	ctx context.Context, client *caller, work workDir, j *job, b brokerapi.Build,
) (rootFS, error) {
	root, err := r.findOrBuild(ctx, client, work, j, b.Dockerfile)
	if err != nil {
		return rootFS{}, fmt.Errorf("cannot build %s: %w", filepath.Base(b.Dockerfile), err)
	}
	return root, nil
}

func (r *resources) findOrBuild(
	ctx context.Context, client *caller, work workDir, whole *job, dockerfile string,
) (root rootFS, err error) {
	copyDir := filepath.Join(r.settings.JobsDir, "c-"+newID()[:8])
	build, err := imagebuild.New(ctx, work.Root, work.onHost(dockerfile), copyDir)
	if err != nil {
		return rootFS{}, err
	}
	defer func() {
		if err := build.Discard(); err != nil {
			r.log.Warn("the context of a build is left", "error", err)
		}
	}()
	if found, ok := r.images.Lookup(build.Key); ok {
		return newOCIRoot(found), nil
	}

	m := &member{
		spec: containerSpec{Container: build.Container(), files: imagebuild.Files(r.settings.InsecureRegistries)},
		root: r.baseRoot(),
	}
	var built *Image
	err = r.alone(work, whole, func(j *job) error {
		if err := build.Place(j.volumes); err != nil {
			return err
		}
		status, err := j.start(ctx, m, build.Argv(), client.streams())
		switch {
		case err != nil:
			return err
		case status != 0:
			return fmt.Errorf("buildah ended with status %d", status)
		}

		m.container.guest.Kill() // nothing in the guest changes the result any more
		built, err = r.importBuilt(ctx, build.Key, j)
		return err
	})
	if err != nil && built != nil {
		built.Release()
	}
	if err != nil {
		return rootFS{}, err
	}
	return newOCIRoot(*built), nil
}

// importBuilt takes over the OCI image that a guest of a job has built.
func (r *resources) importBuilt(ctx context.Context, key string, j *job) (*Image, error) {
	archive, err := imagebuild.OpenResult(j.volumes)
	if err != nil {
		return nil, err
	}
	defer archive.Close()

	built, err := r.images.Import(ctx, key, "/proc/self/fd/"+strconv.Itoa(int(archive.Fd())))
	if err != nil {
		return nil, err
	}
	return &built, nil
}
