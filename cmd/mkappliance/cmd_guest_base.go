package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/image"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/rootfs"
)

func newGuestBaseCommand() *cobra.Command {
	var o buildOptions
	c := &cobra.Command{
		Use:   "guest-base IMAGE",
		Short: "Write the guest root file system to a directory",
		Long: `Write the guest base, the root file system that guests start from, to a
directory, as it is inside the image: to look at it, or to try it with
systemd-nspawn. Run this as root: the files have owners.

Exit status:
  0  the directory was written
  1  the build failed
  2  the command line or images.toml is wrong`,
		Example: "  mkappliance guest-base runner-amd64 --out /srv/base",
		Args:    cli.Args("IMAGE"),
		RunE:    func(c *cobra.Command, args []string) error { return runGuestBase(c, o, args[0]) },
	}
	f := c.Flags()
	o.addFlags(f)
	f.StringVarP(&o.outDir, "out", "o", "guest-base", "write to `DIR`, which must not exist yet")
	return c
}

func runGuestBase(c *cobra.Command, o buildOptions, name string) error {
	img, err := o.image(name)
	if err != nil {
		return cli.Usage(err)
	}
	if _, err := os.Lstat(o.outDir); err == nil {
		return cli.Usage(fmt.Errorf("cannot write guest base: %s exists already; remove it or give another --out", o.outDir))
	}
	environment, err := o.environment()
	if err != nil {
		return cli.Usage(err)
	}
	if err := rootfs.EnterUserNamespace(); err != nil {
		return err
	}
	return image.GuestBase(c.Context(), image.Options{Environment: *environment, Spec: img, OutDir: o.outDir})
}
