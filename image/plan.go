package image

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/spec"
	"github.com/mkappliance/mkappliance/rootfs"
)

// sources is the state of the Debian archive that a build takes its packages
// from.
type sources struct {
	list      *rootfs.Sources
	indexHash string
}

// resolved is what a build has to ask the world: everything after it depends on
// files of this host alone.
type resolved struct {
	sources       sources
	runnerTarball string // path of the actions runner's release
}

func (b *build) resolve(ctx context.Context, s *spec.Image) (resolved, error) {
	tarball, err := stage(b, "actions runner", func(io.Writer) (string, string, error) {
		c := s.Runner
		path, err := rootfs.Fetch(ctx, b.store, rootfs.Component{
			Name: "actions runner", Version: c.Version, URL: c.URL, Path: c.Path, SHA256: c.SHA256})
		return path, c.Version, err
	})
	if err != nil {
		return resolved{}, err
	}

	src, err := b.resolveSources(ctx, s.Suite, s.Mirror)
	if err != nil {
		return resolved{}, err
	}
	return resolved{sources: *src, runnerTarball: tarball}, nil
}

func (b *build) resolveSources(ctx context.Context, suite, mirror string) (*sources, error) {
	return stage(b, "archive", func(io.Writer) (*sources, string, error) {
		list, err := rootfs.FindSources(ctx, b.Executor, suite, mirror)
		if err != nil {
			return nil, "", err
		}
		indexHash, err := list.IndexHash(ctx, b.Executor)
		return &sources{list: list, indexHash: indexHash}, suite, err
	})
}

// plan is everything that a build decides before it makes anything.
type plan struct {
	image                             *spec.Image
	arch                              arch.Arch
	toolsLayer, hostLayer, guestLayer *rootfs.Layer
	host                              rootfs.HostSpec // but for the paths of the layers
}

func newPlan(o Options, r resolved) (*plan, error) {
	s := o.Spec
	a, err := arch.Lookup(s.Architecture)
	if err != nil {
		return nil, fmt.Errorf("cannot plan image: %w", err)
	}
	hostLayer := newLayer("host", "essential", s.Architecture, s.Suite, r.sources, o.Epoch)
	hostLayer.Packages, hostLayer.ExcludePaths = s.Host.Packages, s.Host.ExcludePaths
	guestLayer := newLayer("guest", "apt", s.Architecture, s.Suite, r.sources, o.Epoch)
	guestLayer.Packages, guestLayer.ExcludePaths = s.Guest.Packages, s.Guest.ExcludePaths

	return &plan{
		image:      s,
		arch:       a,
		toolsLayer: newToolsLayer(s.Architecture, s.Suite, r.sources, o.Epoch),
		hostLayer:  hostLayer,
		guestLayer: guestLayer,
		host: rootfs.HostSpec{
			TreeSpec:      rootfs.TreeSpec{Overlays: s.Host.Overlays},
			Guest:         rootfs.TreeSpec{Overlays: s.Guest.Overlays},
			Programs:      o.Programs,
			RunnerTarball: r.runnerTarball,
			RunnerVersion: s.Runner.Version,
			ImageID:       s.Name,
			ImageVersion:  s.Version,
			Files:         imageFiles(s),
		},
	}, nil
}

// imageFiles returns the small files of the host's root file system that follow
// from images.toml: path in the tree -> content.
func imageFiles(s *spec.Image) map[string]string {
	files := repartFiles(s.Disk)
	for _, key := range s.Update.Keys {
		files[strings.TrimPrefix(layout.UpdateKeys, "/")+"/"+key.Name] = key.Content
	}
	return files
}

func newLayer(name, variant, architecture, suite string, src sources, epoch int64) *rootfs.Layer {
	return &rootfs.Layer{Name: name, Variant: variant, Architecture: architecture, Suite: suite,
		Sources: src.list, IndexHash: src.indexHash, Epoch: epoch}
}

func newToolsLayer(architecture, suite string, src sources, epoch int64) *rootfs.Layer {
	l := newLayer("tools", "apt", architecture, suite, src, epoch)
	l.Packages = toolPackages()
	return l
}

// id returns the UUID of a part of the image, such as "esp fs".
func (p *plan) id(part string) string { return id(p.image.Name, p.image.Version, part) }

// volumeID returns the serial number of a FAT file system, in hex (mkfs.vfat(8) -i).
func (p *plan) volumeID(part string) string { return strings.ReplaceAll(p.id(part), "-", "")[:8] }
