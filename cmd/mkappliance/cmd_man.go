package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/mkappliance/mkappliance/internal/cli"
)

// newManCommand is for those who package mkappliance, so help does not list it.
func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages to a directory",
		Hidden: true,
		Long: `Write a manual page for mkappliance and each of its verbs to the directory DIR,
which is made if needed. SOURCE_DATE_EPOCH sets the date that they show.

Exit status:
  0  the pages were written
  1  they could not be written
  2  the command line is wrong`,
		Example: "  mkappliance man /usr/local/share/man/man1",
		Args:    cli.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return writeManualPages(c.Root(), args[0]) },
	}
}

func writeManualPages(root *cobra.Command, dir string) error {
	epoch, err := sourceDateEpoch(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return cli.Usage(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot write manual pages: %w", err)
	}
	date := time.Unix(epoch, 0).UTC()
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: "1", Source: root.Name(), Manual: "User Commands", Date: &date}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return fmt.Errorf("cannot write manual pages: %w", err)
	}
	return nil
}
