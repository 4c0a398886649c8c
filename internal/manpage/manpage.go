// Package manpage writes the manual pages of a program from the help of its
// verbs.
package manpage

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/mkappliance/mkappliance/internal/cli"
)

// Add adds the verb "man" to root. It is for those who package the program, so
// help does not list it.
func Add(root *cobra.Command) {
	root.AddCommand(&cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages to a directory",
		Hidden: true,
		Long: `Write a manual page for ` + root.Name() + ` and each of its verbs to the directory
DIR, which is made if needed. SOURCE_DATE_EPOCH sets the date that they show.

Exit status:
  0  the pages were written
  1  they could not be written
  2  the command line is wrong`,
		Example: "  " + root.Name() + " man /usr/local/share/man/man1",
		Args:    cli.Args("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			epoch, err := cli.SourceDateEpoch()
			if err != nil {
				return cli.Usage(err)
			}
			return Write(c.Root(), args[0], time.Unix(epoch, 0))
		},
	})
}

// Write writes the pages of root and of each verb that help lists to dir, as
// "NAME.1" and "NAME-VERB.1", with the date in UTC.
func Write(root *cobra.Command, dir string, date time.Time) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot write manual pages: %w", err)
	}

	date = date.UTC()
	root.DisableAutoGenTag = true // it holds today's date
	header := &doc.GenManHeader{Section: "1", Source: root.Name(), Manual: "User Commands", Date: &date}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return fmt.Errorf("cannot write manual pages: %w", err)
	}
	return nil
}
