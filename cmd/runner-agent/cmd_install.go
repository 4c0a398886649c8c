package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/register"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

type installOptions struct {
	config    string
	stateDir  string
	osRelease string
	user      string
}

func newInstallCommand() *cobra.Command {
	var o installOptions
	c := &cobra.Command{
		Use:   "install",
		Short: "Register the runner with GitHub, once",
		Long: `Register the runner that config.env describes with GitHub, and leave a marker
that says so. With the marker there, nothing is done. Without it, the runner is
registered again, in place of the registration it has (--replace).

The registration token goes to the actions runner by environment and shows up
in no argument list and no log. When registering fails, an identity that stood
before stands again.

Exit status:
  0  registered, now or before
  1  not registered; the one line on standard error says why and what to do
  2  the command line is wrong`,
		Example: `  # what runner-install.service runs
  runner-agent install

  # register again
  rm /var/lib/runner/installed && systemctl restart runner-install.service`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			in, err := o.installer(c)
			if err != nil {
				return err
			}
			return in.Run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&o.config, "config", layout.ConfigFile, "`file` with the settings, in systemd's EnvironmentFile syntax")
	f.StringVar(&o.stateDir, "state-dir", layout.State, "`directory` of marker and work root")
	f.StringVar(&o.osRelease, "os-release", "/etc/os-release", "`file` with the image version, os-release(5)")
	f.StringVar(&o.user, "user", "runner", "`name` of the user to register as, when run by root")
	return c
}

func (o *installOptions) installer(c *cobra.Command) (*register.Installer, error) {
	in := &register.Installer{
		Config: o.config, StateDir: o.stateDir, OSRelease: o.osRelease,
		WorkDir: filepath.Join(o.stateDir, "work"), Home: os.Getenv("HOME"),
		Executor: run.Local{}, Log: c.OutOrStdout(), Now: time.Now,
	}
	if os.Geteuid() != 0 {
		return in, nil
	}
	u, err := user.Lookup(o.user)
	if err != nil {
		return nil, fmt.Errorf("cannot register as %s: %w; the image must have this user", o.user, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("cannot register as %s: %w", o.user, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("cannot register as %s: %w", o.user, err)
	}
	in.Credential, in.Home = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, u.HomeDir
	return in, nil
}
