package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/internal/cli"
)

func newUnpackCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "unpack MAX-FILES",
		Short:  "Unpack a layer of an image into the directory on descriptor 3",
		Hidden: true,
		Long: `Unpack a layer of an image, a tar archive on standard input, into the directory
that is open as descriptor 3, and write the result to standard output. It makes
MAX-FILES files and directories at most. The helper that pulls images starts this in
a user namespace; nobody needs to start it by hand.

Exit status:
  0  done, or the result is an error
  1  no result`,
		Args: cli.Args("MAX-FILES"),
		RunE: func(c *cobra.Command, args []string) error {
			maxFiles, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return err
			}
			return oci.UnpackMain(c.InOrStdin(), maxFiles, c.OutOrStdout())
		},
	}
}
