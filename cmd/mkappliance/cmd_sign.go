package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/release"
)

func newSignCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "sign --key FILE MANIFEST...",
		Short: "Sign update sets",
		Long: `Sign update sets: write a signature beside each manifest that 'mkappliance build'
wrote, MANIFEST.minisig. The files that the manifest describes must be beside it,
with the sizes and hashes that it has. An older signature is replaced.

'minisign -S' writes a signature that is as good.

Exit status:
  0  the signatures were written
  1  a set is not complete, or a signature could not be written
  2  the command line, the key or its password is wrong`,
		Example: `  mkappliance sign --key release.key out/runner-amd64_1.4.0.manifest.json
  minisign -Vm out/runner-amd64_1.4.0.manifest.json -p release.pub`,
		Args: cli.Args("MANIFEST..."),
		RunE: func(c *cobra.Command, args []string) error { return runSign(c, key, asJSON, args) },
	}
	key.add(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print each signature as a JSON object on a line")
	return c
}

// signedSet is a line of the output of sign.
type signedSet struct {
	Image     string `json:"image"`
	Version   string `json:"version"`
	Signature string `json:"signature"` // path
	Key       string `json:"key"`       // id
}

func runSign(c *cobra.Command, flags keyFlags, asJSON bool, manifests []string) error {
	key, err := flags.read()
	if err != nil {
		return err
	}
	for _, path := range manifests {
		set, err := publish.OpenSet(path)
		if err != nil {
			return err
		}
		signature, err := set.Sign(key, time.Now())
		if err != nil {
			return err
		}

		if !asJSON {
			fmt.Fprintln(c.OutOrStdout(), signature)
			continue
		}
		line := signedSet{Image: set.Manifest.Image, Version: set.Manifest.Version, Signature: signature,
			Key: release.KeyID(key.ID())}
		if err := json.NewEncoder(c.OutOrStdout()).Encode(line); err != nil {
			return err
		}
	}
	return nil
}
