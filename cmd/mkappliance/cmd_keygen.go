package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/publish"
)

type keygenOptions struct {
	ask, json bool
	password  passwordFlags
}

func newKeygenCommand() *cobra.Command {
	var o keygenOptions
	c := &cobra.Command{
		Use:   "keygen NAME",
		Short: "Make a key pair that signs upgrades",
		Long: `Make a key pair that signs upgrades, Ed25519 in the format of minisign: NAME.key,
the private key, which only its owner can read, and NAME.pub, the public key.
Files that exist are never replaced.

List the public key under update.keys in images.toml before the first image is
flashed: appliances accept upgrades that one of the keys in their image signed.
A second key, kept elsewhere, replaces a lost one.

The private key is not encrypted, unless --password asks for a password or
--password-file has one.

Exit status:
  0  the files were written
  1  a file exists, or could not be written
  2  the command line or the password is wrong`,
		Example: `  mkappliance keygen release-2026
  mkappliance keygen release-2026 --password
  mkappliance keygen release-2026 --password-file /run/secrets/password --json`,
		Args: cli.Args("NAME"),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0]) },
	}
	f := c.Flags()
	f.BoolVar(&o.ask, "password", false, "ask for a password and encrypt the private key")
	o.password.add(f)
	f.BoolVar(&o.json, "json", false, "print the result as a JSON object")
	return c
}

func (o *keygenOptions) run(c *cobra.Command, name string) error {
	password, err := o.newPassword()
	if err != nil {
		return err
	}
	files, err := publish.Generate(name, password)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w; choose another name, or move it away", err)
	}
	if err != nil {
		return err
	}

	if o.json {
		return json.NewEncoder(c.OutOrStdout()).Encode(files)
	}
	fmt.Fprintf(
		c.OutOrStdout(),
		"private key  %s\npublic key   %s\nid           %s\n",
		files.Private,
		files.Public,
		files.ID,
	)
	return nil
}

// newPassword returns the password to encrypt with, or none.
func (o *keygenOptions) newPassword() (string, error) {
	password, named, err := o.password.read()
	if named || !o.ask {
		return password, err
	}
	first, err := askPassword("Password: ")
	if err != nil {
		return "", err
	}
	second, err := askPassword("The same again: ")
	if err == nil && first != second {
		err = cli.Usage(errors.New("the two passwords differ"))
	}
	return first, err
}
