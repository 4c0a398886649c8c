package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/config"
	cloudinit "github.com/mkappliance/mkappliance/cloud-init"
	"github.com/mkappliance/mkappliance/internal/cli"
)

type seedOptions struct {
	configEnv, userData, output string
	hostname, instanceID        string
}

func newSeedCommand() *cobra.Command {
	var o seedOptions
	c := &cobra.Command{
		Use:   "seed --config-env FILE --output SEED",
		Short: "Make a cloud-init seed that configures an appliance",
		Long: `Make a cloud-init seed that configures an appliance: a small ISO image for the
NoCloud data source. At first boot cloud-init writes the given config.env to
/etc/runner/config.env. Attach the seed to the machine as a disk or CD, or write
it to a USB stick.

The seed holds the registration token, so only its owner can read it. The next
boot applies a seed again if its content has changed.

Exit status:
  0  the seed was written
  1  it could not be written
  2  the command line, config.env or the user-data is wrong`,
		Example: `  mkappliance seed --config-env config.env -o seed.iso
  mkappliance seed --config-env config.env --user-data users.yaml --hostname builder-7 -o seed.iso`,
		Args: cli.Args(),
		RunE: func(*cobra.Command, []string) error { return o.run() },
	}
	f := c.Flags()
	f.StringVar(&o.configEnv, "config-env", "", "write the content of `FILE` to config.env (required)")
	f.StringVar(&o.userData, "user-data", "", "add the cloud-init user-data in `FILE`: users, keys, further files")
	f.StringVarP(&o.output, "output", "o", "", "write the seed to `FILE` (required)")
	f.StringVar(&o.hostname, "hostname", "", "give the machine this `NAME`")
	f.StringVar(&o.instanceID, "instance-id", "", "name the instance `ID` (default: derived from the content)")
	_ = c.MarkFlagRequired("config-env")
	_ = c.MarkFlagRequired("output")
	return c
}

func (o *seedOptions) run() error {
	configEnv, err := readConfigEnv(o.configEnv)
	if err != nil {
		return err
	}
	seed := cloudinit.Seed{ConfigEnv: configEnv, Hostname: o.hostname, InstanceID: o.instanceID}
	if err := seed.Check(); err != nil {
		return cli.Usage(err)
	}
	if o.userData != "" {
		if seed.UserData, err = os.ReadFile(o.userData); err != nil {
			return cli.Usage(fmt.Errorf("cannot read user-data: %w", err))
		}
		if err := cloudinit.CheckUserData(o.userData, seed.UserData); err != nil {
			return cli.Usage(err)
		}
	}

	return seed.Write(o.output)
}

// readConfigEnv reads a config.env with which an appliance can register, and prints
// warnings of it. It reads the file once, since it may be a pipe.
func readConfigEnv(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("cannot read config.env: %w", err))
	}
	cfg, warnings, err := config.Parse(path, data)
	if err != nil {
		return nil, cli.Usage(err)
	}
	if err := cfg.CheckRegistration(); err != nil {
		return nil, cli.Usage(err)
	}
	for _, w := range warnings {
		fmt.Fprintln(os.Stderr, "mkappliance: warning:", w)
	}
	return data, nil
}
