package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/internal/actionsrunner"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/release"
)

func newSignCommand() *cobra.Command {
	var key keyFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "sign --key FILE MANIFEST|ARCHIVE...",
		Short: "Sign update sets and actions runners",
		Long: `Sign update sets: write a signature beside each manifest that 'mkappliance build'
wrote, MANIFEST.minisig. The files that the manifest describes must be beside it,
with the sizes and hashes that it has. An older signature is replaced.

An archive of the actions runner, under the name that it has at GitHub, is signed as
well: ARCHIVE.minisig, and a copy, actions-runner-linux-ARCH.minisig, in which
appliances look for the newest one.

'minisign -S' writes a signature that is as good.

Exit status:
  0  the signatures were written
  1  a set is not complete, or a signature could not be written
  2  the command line, the key or its password is wrong`,
		Example: `  mkappliance sign --key release.key out/runner-amd64_1.4.0.manifest.json
  minisign -Vm out/runner-amd64_1.4.0.manifest.json -p release.pub`,
		Args: cli.Args("MANIFEST|ARCHIVE..."),
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

func runSign(c *cobra.Command, flags keyFlags, asJSON bool, paths []string) error {
	key, err := flags.read()
	if err != nil {
		return err
	}
	for _, path := range paths {
		line, err := signFile(key, path)
		if err != nil {
			return err
		}
		if !asJSON {
			fmt.Fprintln(c.OutOrStdout(), line.Signature)
			continue
		}
		if err := json.NewEncoder(c.OutOrStdout()).Encode(line); err != nil {
			return err
		}
	}
	return nil
}

// signFile signs an update set or an archive of the actions runner.
func signFile(key release.PrivateKey, path string) (signedSet, error) {
	line := signedSet{Key: release.KeyID(key.ID())}
	if newest, version, ok := actionsrunner.ParseArchiveName(filepath.Base(path)); ok {
		var err error
		line.Image, line.Version = strings.TrimSuffix(newest, ".minisig"), version
		line.Signature, err = signArchive(key, path, newest)
		return line, err
	}

	set, err := publish.OpenSet(path)
	if err != nil {
		return line, err
	}
	line.Image, line.Version = set.Manifest.Image, set.Manifest.Version
	line.Signature, err = set.Sign(key, time.Now())
	return line, err
}

// signArchive writes the signature of an archive beside it, and another time under the
// name by which appliances find the newest one.
func signArchive(key release.PrivateKey, path, newest string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot sign: %w", err)
	}
	signature, err := release.Sign(key, filepath.Base(path), data, time.Now())
	if err != nil {
		return "", err
	}
	beside := path + ".minisig"
	if err := atomicfile.Write(beside, signature, 0o644); err != nil {
		return "", err
	}
	return beside, atomicfile.Write(filepath.Join(filepath.Dir(path), newest), signature, 0o644)
}
