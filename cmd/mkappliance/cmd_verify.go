package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/image"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/rootfs"
)

type verifyOptions struct {
	cacheDir string
	json     bool
}

func newVerifyCommand() *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify IMAGE.img",
		Short: "Check a baked image file",
		Long: `Check a baked image file, with the manifest beside it: its hash, the partition
table, every file system, and the verity hashes against the root hash that the
image boots with; and that it holds no identity, such as an ssh host key.

Nothing is changed or mounted. The tools are those that baked the image.

Exit status:
  0  the image is clean
  1  a check found a problem, or could not be done
  2  the command line is wrong`,
		Example: "  mkappliance verify out/runner-amd64_1.4.0.img",
		Args:    cli.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return runVerify(c, o, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.cacheDir, "cache-dir", "", "keep the tools in `DIR` (default: mkappliance in your cache directory)")
	f.BoolVar(&o.json, "json", false, "print each check as a JSON object on a line")
	return c
}

func runVerify(c *cobra.Command, o verifyOptions, path string) error {
	if !strings.HasSuffix(path, ".img") {
		return cli.Usage(fmt.Errorf("cannot verify %s: want a file whose name ends in .img", path))
	}
	if _, err := os.Stat(path); err != nil {
		return cli.Usage(fmt.Errorf("cannot verify image: %w", err))
	}
	epoch, err := sourceDateEpoch(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return cli.Usage(err)
	}
	cache, err := cacheDir(o.cacheDir)
	if err != nil {
		return cli.Usage(err)
	}
	if err := rootfs.EnterUserNamespace(); err != nil {
		return err
	}
	mode := progress.DetectMode(os.Stderr)
	if o.json {
		mode = progress.JSON
	}
	options := image.VerifyOptions{Image: path, CacheDir: cache, Epoch: epoch, Executor: run.Local{}, Progress: progress.New(os.Stderr, mode)}
	out := c.OutOrStdout()
	clean, err := image.Verify(c.Context(), options, func(check image.Check) {
		switch {
		case o.json:
			_ = json.NewEncoder(out).Encode(check)
		case check.OK:
			fmt.Fprintf(out, "ok       %s\n", check.Name)
		default:
			fmt.Fprintf(out, "PROBLEM  %s: %s\n", check.Name, check.Problem)
		}
	})
	if err == nil && !clean {
		err = &cli.StatusError{Status: cli.StatusFailed, Err: errors.New("the image has problems"), Quiet: true}
	}
	return err
}
