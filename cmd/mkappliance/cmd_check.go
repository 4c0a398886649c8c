package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/spec"
)

func newCheckCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "check",
		Short: "Check images.toml, and list its images",
		Long: `Check images.toml as a build would, without building: every key, type and value,
and that the overlays exist. Print a line for each image: name, version,
architecture and suite, separated by tabs.

Exit status:
  0  the file is good
  2  the command line or images.toml is wrong`,
		Example: `  mkappliance check
  mkappliance check --file other/images.toml`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := spec.Load(file)
			if err != nil {
				return cli.Usage(err)
			}
			for _, img := range s.Images {
				fmt.Fprintf(c.OutOrStdout(), "%s\t%s\t%s\t%s\n", img.Name, img.Version, img.Architecture, img.Suite)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "images.toml", "read the description of images from `FILE`")
	return c
}
