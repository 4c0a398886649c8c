package main

import (
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/image"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/rootfs"
)

func newGuestBaseCommand() *cobra.Command {
	var o buildOptions
	c := &cobra.Command{
		Use:   "guest-base IMAGE",
		Short: "Write the tree that container jobs run in to a directory",
		Long: `Write the tree that container jobs run in to a directory, as it will stand inside
the image: to look at it, or to try it with systemd-nspawn. Run it as root: the
files of the tree have owners.

Exit status:
  0  the tree was written
  1  the build failed
  2  the command line or images.toml is wrong`,
		Example: "  mkappliance guest-base runner-amd64 --out /srv/base",
		Args:    cli.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return runGuestBase(c, o, args[0]) },
	}
	f := c.Flags()
	o.addSpecFlags(f)
	f.StringVarP(&o.outDir, "out", "o", "guest-base", "write the tree to `DIR`, which must not exist yet")
	return c
}

func runGuestBase(c *cobra.Command, o buildOptions, name string) error {
	options, err := o.options(name)
	if err != nil {
		return cli.Usage(err)
	}
	if _, err := os.Lstat(o.outDir); err == nil {
		return cli.Usage(fmt.Errorf("cannot write tree: %s exists already", o.outDir))
	}
	if err := rootfs.EnterUserNamespace(); err != nil {
		return err
	}
	syscall.Umask(imageUmask)
	options.Executor = run.Local{}
	options.Progress = progress.New(os.Stderr, o.progressMode())
	return image.GuestBase(c.Context(), *options)
}
