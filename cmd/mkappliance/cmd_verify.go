package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/image"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/rootfs"
)

func newVerifyCommand() *cobra.Command {
	var flags environmentFlags
	c := &cobra.Command{
		Use:   "verify IMAGE.img",
		Short: "Check a baked image file",
		Long: `Check a baked image file, with the manifest beside it: its hash, the partition
table, every file system, and the verity hashes against the root hash that the
image boots with; that it holds no identity, such as an ssh host key; and, if the
update set of the version is beside it, that this is the same version.

Nothing is changed or mounted. The tools are those that baked the image, from
the cache; if they are not there, the tools that were used last. Only if the
cache has no tools at all are they downloaded, from this host's apt sources.

Exit status:
  0  the image is clean
  1  a check found a problem, or could not be done
  2  the command line is wrong`,
		Example: "  mkappliance verify out/runner-amd64_1.4.0.img",
		Args:    cli.Args("IMAGE.img"),
		RunE:    func(c *cobra.Command, args []string) error { return runVerify(c, flags, args[0]) },
	}
	f := c.Flags()
	flags.addCacheDir(f, "keep the tools in `DIR`")
	flags.addJSON(f, "print each check as a JSON object on a line")
	return c
}

func runVerify(c *cobra.Command, flags environmentFlags, path string) error {
	if !strings.HasSuffix(path, ".img") {
		return cli.Usage(fmt.Errorf("cannot verify %s: want a file whose name ends in .img", path))
	}
	if _, err := os.Stat(path); err != nil {
		return cli.Usage(fmt.Errorf("cannot verify image: %w", err))
	}
	environment, err := flags.environment()
	if err != nil {
		return cli.Usage(err)
	}
	if err := rootfs.EnterUserNamespace(); err != nil {
		return err
	}

	print := checkPrinter(c.OutOrStdout(), flags.json)
	clean, err := image.Verify(c.Context(), *environment, path, print)
	if err != nil {
		return err
	}
	if !clean {
		return &cli.StatusError{Status: cli.StatusFailed, Err: errors.New("the image has problems"), Quiet: true}
	}
	return nil
}

// checkPrinter returns a function that prints the outcome of a check on a line.
func checkPrinter(out io.Writer, asJSON bool) func(image.Check) {
	return func(check image.Check) {
		switch {
		case asJSON:
			_ = json.NewEncoder(out).Encode(check)
		case check.OK:
			fmt.Fprintf(out, "ok       %s\n", check.Name)
		default:
			fmt.Fprintf(out, "PROBLEM  %s: %s\n", check.Name, check.Problem)
		}
	}
}
