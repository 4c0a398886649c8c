package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/internal/buildinfo"
)

// AddVersion adds to root the flag --version and the verb "version", which print
// the source of the program.
func AddVersion(root *cobra.Command) {
	info := buildinfo.Read()
	// Cobra prints "NAME version VERSION". Another template for that would link
	// text/template: 2 MB of mkappliance.
	root.Version = info.String()
	root.Flags().Bool("version", false, "print version and commit") // cobra's own has a letter too, -v

	root.AddCommand(newVersionCommand(root.Name(), info))
}

func newVersionCommand(program string, info buildinfo.Info) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Print version, commit, date of the commit and Go version",
		Long: `Print version, commit, date of the commit and Go version, in one line or as a
JSON object with the keys "program", "version", "commit", "date" and "go".

Exit status:
  0  printed
  2  the command line is wrong`,
		Example: "  " + program + " version --json",
		Args:    Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			if !asJSON {
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s version %s\n", program, info)
				return err
			}
			return json.NewEncoder(c.OutOrStdout()).Encode(struct {
				Program string `json:"program"`
				buildinfo.Info
			}{program, info})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return c
}
