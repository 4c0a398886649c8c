package main

import (
	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/internal/cli"
)

func newImagesCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "images",
		Short:  "Pull or import an image into the store on descriptor 3",
		Hidden: true,
		Long: `Pull or import an image into the store whose directory is open as descriptor 3,
as the request on standard input says, and answer on standard output. The broker
starts this in a user namespace; nobody needs to start it by hand.

Exit status:
  0  answered, also with an error
  1  no answer`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			return oci.HelperMain(c.Context(), c.InOrStdin(), c.OutOrStdout())
		},
	}
}
