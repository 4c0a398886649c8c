package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/internal/cli"
)

func newUnpackCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "unpack MAX-FILES",
		Short:  "Unpack a layer of an OCI image into the directory on descriptor 3",
		Hidden: true,
		Long: `Unpack a layer of an OCI image, a tar file on standard input, into the directory
that is open as descriptor 3. The broker starts this in a user namespace; it is
not meant to be started by hand.

Exit status:
  0  done
  1  the layer could not be unpacked`,
		Args: cli.Args("MAX-FILES"),
		RunE: func(c *cobra.Command, args []string) error {
			maxFiles, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return err
			}
			files, err := oci.UnpackMain(c.InOrStdin(), maxFiles)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), files)
			return err
		},
	}
}
