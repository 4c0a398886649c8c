package image

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/rootfs"
)

// toolbox runs the tools that shape bytes. They come from the tools tree, so
// that the same tree gives the same bytes on any build host.
type toolbox struct {
	run   run.Executor
	tree  string // root of the tools tree
	work  string // the directory they read and write
	epoch int64
	log   io.Writer
}

// toolPackages is what the tools tree consists of.
func toolPackages() []string {
	return []string{"cryptsetup-bin", "dosfstools", "e2fsprogs", "erofs-utils", "fdisk", "gdisk", "mtools",
		"systemd", "systemd-boot-efi", "systemd-repart", "systemd-ukify"}
}

func (t toolbox) box() rootfs.Sandbox {
	return rootfs.Sandbox{Root: t.tree, Work: t.work, Epoch: t.epoch, Log: t.log}
}

// path gives the name by which tools see a file of the work directory.
func (t toolbox) path(name string) string { return t.box().Path(name) }

// file gives the name by which this process sees it.
func (t toolbox) file(name string) string { return filepath.Join(t.work, name) }

// do runs one tool.
func (t toolbox) do(ctx context.Context, what string, args ...string) error {
	if err := t.run.Exec(ctx, t.box().Command(args...)); err != nil {
		return fmt.Errorf("cannot %s: %w", what, err)
	}
	return nil
}

// output runs one tool and gives what it prints.
func (t toolbox) output(ctx context.Context, what string, args ...string) (string, error) {
	out, err := run.Output(ctx, t.run, t.box().Command(args...))
	if err != nil {
		return "", fmt.Errorf("cannot %s: %w", what, err)
	}
	return string(out), nil
}
