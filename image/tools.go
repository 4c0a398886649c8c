package image

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/rootfs"
)

// toolPackages returns the packages of the tools tree.
func toolPackages() []string {
	return []string{"cryptsetup-bin", "dosfstools", "e2fsprogs", "erofs-utils", "fdisk", "gdisk", "mtools",
		"systemd", "systemd-boot-efi", "systemd-repart", "systemd-ukify"}
}

// tools runs the programs that shape bytes. They come from a tools tree, so that
// the same tree makes the same bytes on any build host.
type tools struct {
	executor run.Executor
	tree     *rootfs.Tools
	arch     arch.Arch // of the image
	work     string    // the directory they read and write
	epoch    int64     // SOURCE_DATE_EPOCH, seconds since 1970
	log      io.Writer
}

func (t tools) sandbox() rootfs.Sandbox {
	return rootfs.Sandbox{Root: t.tree.Root, Work: t.work, Epoch: t.epoch, Log: t.log}
}

// inSandbox returns the path by which the programs see a file of the work
// directory.
func (t tools) inSandbox(path string) string {
	return t.sandbox().Path(strings.TrimPrefix(path, t.work+string(filepath.Separator)))
}

// run runs one program. what continues "cannot".
func (t tools) run(ctx context.Context, what string, args ...string) error {
	if err := t.executor.Exec(ctx, t.sandbox().Command(args...)); err != nil {
		return fmt.Errorf("cannot %s: %w", what, err)
	}
	return nil
}

// output runs one program and returns what it prints.
func (t tools) output(ctx context.Context, what string, args ...string) (string, error) {
	out, err := run.Output(ctx, t.executor, t.sandbox().Command(args...))
	if err != nil {
		return "", fmt.Errorf("cannot %s: %w", what, err)
	}
	return string(out), nil
}
