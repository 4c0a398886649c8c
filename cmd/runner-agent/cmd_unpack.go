package main

import (
	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/internal/cli"
)

func newUnpackCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "unpack",
		Short:  "Unpack a layer of an OCI image into the directory on descriptor 3",
		Hidden: true,
		Long: `Unpack a layer of an OCI image, a tar file on standard input, into the directory
that is open as descriptor 3. The broker starts this in a user namespace; it is
not meant to be started by hand.

Exit status:
  0  done
  1  the layer could not be unpacked`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return oci.UnpackMain(c.InOrStdin()) },
	}
}
