package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/trust"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/layout"
)

type trustOptions struct {
	config string
	store  trust.Store
}

func newTrustCommand() *cobra.Command {
	var o trustOptions
	c := &cobra.Command{
		Use:   "trust",
		Short: "Trust the certificate authorities of RUNNER_CA_CERTS",
		Long: `Add the certificate authorities in the file that RUNNER_CA_CERTS names to those
that the programs of the appliance trust, in place of those that an earlier call
added. Without RUNNER_CA_CERTS only these are removed. runner-trust.service runs
this at every boot, because /etc is rebuilt then.

Exit status:
  0  done
  1  the files could not be written
  2  the command line, config.env or the file of certificates is wrong`,
		Example: `  # after a change of RUNNER_CA_CERTS or of its file
  systemctl restart runner-trust runner-guestd runner`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.StringVar(&o.config, "config", layout.ConfigFile, "`file` with the settings, in systemd's EnvironmentFile syntax")
	f.StringVar(&o.store.Bundle, "bundle", layout.CABundle, "`file` of all authorities, in PEM")
	f.StringVar(&o.store.Own, "own", layout.CACerts, "`file` for those of RUNNER_CA_CERTS alone")
	return c
}

func (o *trustOptions) run(c *cobra.Command) error {
	if _, err := os.Stat(o.config); errors.Is(err, fs.ErrNotExist) {
		return o.store.Set(nil)
	}
	cfg, warnings, err := config.Load(o.config)
	for _, w := range warnings {
		fmt.Fprintln(c.OutOrStdout(), "warning:", w)
	}
	if err != nil {
		return cli.Usage(err)
	}

	if err := o.store.Set(cfg.CACerts.PEM); err != nil {
		return err
	}
	if cfg.CACerts.File != "" {
		fmt.Fprintln(c.OutOrStdout(), "trusting the authorities of", cfg.CACerts.File)
	}
	return nil
}
