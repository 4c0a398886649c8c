package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/spec"
	"github.com/mkappliance/mkappliance/internal/store"
	"github.com/mkappliance/mkappliance/rootfs"
)

// Environment is what builds and checks use beside their input.
type Environment struct {
	CacheDir string // directory of layers, tools trees, downloads and work
	Epoch    int64  // SOURCE_DATE_EPOCH, seconds since 1970
	Executor run.Executor
	Progress *progress.Reporter
}

// Options is the input of a build.
type Options struct {
	Environment
	Spec     *spec.Image // the description of the image
	Programs rootfs.Programs
	OutDir   string // directory of the output, made if it is missing
}

// Result describes a finished build.
type Result struct {
	Image    string `json:"image"`    // path of the disk image
	Manifest string `json:"manifest"` // path of the manifest beside it
	// UpdateManifest is the path of the manifest of the update set beside the image.
	UpdateManifest string `json:"update_manifest"`
	// Upgradable is set if the image carries keys that may sign upgrades.
	Upgradable bool   `json:"upgradable"`
	Version    string `json:"version"`   // of the image
	RootHash   string `json:"root_hash"` // of the verity tree over the root file system, in hex
	SHA256     string `json:"sha256"`    // of the disk image, in hex
	Bytes      int64  `json:"bytes"`     // apparent size of the disk image
}

// Name returns the path of the image file that a build writes.
func Name(outDir string, s *spec.Image) string {
	return filepath.Join(outDir, s.Name+"_"+s.Version+".img")
}

// Build bakes the image. Nothing appears under the final name unless all of it
// succeeded. The caller must be root, if only of a user namespace. Build sets
// the umask of the process while it runs.
func Build(ctx context.Context, o Options) (*Result, error) {
	if err := os.MkdirAll(o.OutDir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make directory: %w", err)
	}
	b, release, err := newBuild(o.Environment)
	if err != nil {
		return nil, err
	}
	defer b.prune()
	defer release()

	resolved, err := b.resolve(ctx, o.Spec)
	if err != nil {
		return nil, err
	}
	p, err := newPlan(o, resolved)
	if err != nil {
		return nil, err
	}
	trees, err := b.makeTrees(ctx, p)
	if err != nil {
		return nil, err
	}
	fileSystems, err := b.makeFileSystems(ctx, p, trees)
	if err != nil {
		return nil, err
	}
	return b.publish(o.OutDir, p, trees.tools, fileSystems)
}

// GuestBase writes the guest base tree alone to o.OutDir, which must not exist.
// The caller must be root, if only of a user namespace. GuestBase sets the umask
// of the process while it runs.
func GuestBase(ctx context.Context, o Options) error {
	if err := os.MkdirAll(filepath.Dir(o.OutDir), 0o755); err != nil {
		return fmt.Errorf("cannot make directory: %w", err)
	}
	b, release, err := newBuild(o.Environment)
	if err != nil {
		return err
	}
	defer release()

	sources, err := b.resolveSources(ctx, o.Spec.Suite, o.Spec.Mirror)
	if err != nil {
		return err
	}
	p, err := newPlan(o, resolved{sources: *sources})
	if err != nil {
		return err
	}
	recipe := p.host.Guest
	if recipe.Layer, err = b.layer(ctx, p.guestLayer); err != nil {
		return err
	}
	return b.writeGuestBase(ctx, recipe, o.OutDir)
}

// writeGuestBase composes the tree beside its final name, so that a tree of that
// name is complete.
func (b *build) writeGuestBase(ctx context.Context, recipe rootfs.TreeSpec, dir string) error {
	temp, err := os.MkdirTemp(filepath.Dir(dir), ".guest-base-")
	if err != nil {
		return fmt.Errorf("cannot make directory: %w", err)
	}
	defer os.RemoveAll(temp)

	_, err = stage(b, "guest base tree", func(log io.Writer) (struct{}, string, error) {
		return struct{}{}, dir, b.composer(log).Guest(ctx, recipe, temp)
	})
	if err != nil {
		return err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return fmt.Errorf("cannot finish guest base tree: %w", err)
	}
	if err := os.Rename(temp, dir); err != nil {
		return fmt.Errorf("cannot finish guest base tree: %w", err)
	}
	return nil
}

// build is one build, or check, under way.
type build struct {
	Environment
	store *store.Store
	work  string // work directory, removed at the end
}

// treeUmask is in force while trees are made: the modes in an image must not
// depend on the caller's.
const treeUmask = 0o022

// newBuild prepares a build. Calling release removes its work directory.
func newBuild(e Environment) (b *build, release func(), err error) {
	b = &build{Environment: e, store: &store.Store{Dir: e.CacheDir}}
	unlock, err := b.store.Use()
	if err != nil {
		return nil, nil, err
	}
	work, removeWork, err := b.store.WorkDir()
	if err != nil {
		unlock()
		return nil, nil, err
	}
	b.work = work

	callers := syscall.Umask(treeUmask)
	return b, func() {
		syscall.Umask(callers)
		removeWork()
		unlock()
	}, nil
}

// keepUnused is how long the store keeps entries that no build uses. The archive
// changes every few days, and each change makes new layers.
const keepUnused = 30 * 24 * time.Hour

// prune removes what has not been used for long. A failure is reported but does
// not fail the build: the image is finished.
func (b *build) prune() {
	err := b.store.Prune(time.Now().Add(-keepUnused))
	if err == nil || errors.Is(err, store.ErrInUse) {
		return
	}
	b.Progress.Stage("cache").Fail(err)
}

// stage runs do as one reported stage and returns its result. do also returns a
// note for the report.
func stage[T any](b *build, name string, do func(log io.Writer) (result T, note string, err error)) (T, error) {
	s := b.Progress.Stage(name)
	result, note, err := do(s.Writer())
	if err != nil {
		s.Fail(err)
		var none T
		return none, err
	}
	s.Done(note)
	return result, nil
}

// file returns the path of a file in the work directory.
func (b *build) file(name string) string { return filepath.Join(b.work, name) }

// layer returns the path of a layer.
func (b *build) layer(ctx context.Context, l *rootfs.Layer) (string, error) {
	builder := rootfs.Builder{Store: b.store, Executor: b.Executor}
	return stage(b, l.Name+" packages", func(log io.Writer) (string, string, error) {
		path, cached, err := builder.Layer(ctx, l, log)
		return path, cachedNote(cached), err
	})
}

// makeTools returns the tools tree of a layer.
func (b *build) makeTools(ctx context.Context, l *rootfs.Layer) (*rootfs.Tools, error) {
	builder := rootfs.Builder{Store: b.store, Executor: b.Executor}
	return stage(b, l.Name+" packages", func(log io.Writer) (*rootfs.Tools, string, error) {
		tools, cached, err := builder.Tools(ctx, l, log)
		return tools, cachedNote(cached), err
	})
}

func cachedNote(cached bool) string {
	if cached {
		return "cached"
	}
	return ""
}

func (b *build) composer(log io.Writer) *rootfs.Composer {
	return &rootfs.Composer{Executor: b.Executor, Epoch: b.Epoch, Log: log}
}

// trees are the trees of a build.
type trees struct {
	tools *rootfs.Tools
	host  *rootfs.HostTree
}

// makeTrees makes the tools tree and the host tree.
func (b *build) makeTrees(ctx context.Context, p *plan) (*trees, error) {
	tools, err := b.makeTools(ctx, p.toolsLayer)
	if err != nil {
		return nil, err
	}
	recipe := p.host
	if recipe.Layer, err = b.layer(ctx, p.hostLayer); err != nil {
		return nil, err
	}
	if recipe.Guest.Layer, err = b.layer(ctx, p.guestLayer); err != nil {
		return nil, err
	}

	host, err := stage(b, "host tree", func(log io.Writer) (*rootfs.HostTree, string, error) {
		tree, err := b.composer(log).Host(ctx, recipe, b.work)
		if err != nil {
			return nil, "", err
		}
		return tree, "kernel " + tree.KernelRelease, nil
	})
	return &trees{tools: tools, host: host}, err
}
