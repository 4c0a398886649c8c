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
	config, stateDir, osRelease string // paths
	user                        string // to register as, when run by root
}

func newInstallCommand() *cobra.Command {
	var o installOptions
	c := &cobra.Command{
		Use:   "install",
		Short: "Register the runner with GitHub, once",
		Long: `Register the runner that config.env describes with GitHub, and then write a
marker. If the marker exists, nothing is done. If it does not, the runner is
registered anew and replaces a runner of the same name (--replace).

The registration token reaches the actions runner through the environment and
appears in no argument list and no log. If registering fails, the previous
registration is restored.

Exit status:
  0  registered, now or before
  1  not registered; the line on standard error names the cause and the fix
  2  the command line is wrong`,
		Example: `  # what runner-install.service runs
  runner-agent install

  # register again
  rm /var/lib/runner/installed && systemctl restart runner-install.service`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.StringVar(&o.config, "config", layout.ConfigFile, "`FILE` with the settings, in the syntax of EnvironmentFile=")
	f.StringVar(&o.stateDir, "state-dir", layout.State, "`DIR` of the marker and the work directory")
	f.StringVar(&o.osRelease, "os-release", "/etc/os-release", "`FILE` with the image version, os-release(5)")
	f.StringVar(&o.user, "user", "runner", "`NAME` of the user to register as, when run by root")
	return c
}

func (o *installOptions) run(c *cobra.Command) error {
	in := &register.Installer{
		Config:    o.config,
		StateDir:  o.stateDir,
		WorkDir:   filepath.Join(o.stateDir, "work"),
		OSRelease: o.osRelease,
		Home:      os.Getenv("HOME"),
		Executor:  run.Local{},
		Log:       c.OutOrStdout(),
		Now:       time.Now,
	}
	if os.Geteuid() == 0 {
		var err error
		if in.Credential, in.Home, err = lookupUser(o.user); err != nil {
			return fmt.Errorf("cannot register as %s: %w; the image must have this user", o.user, err)
		}
	}
	return in.Run(c.Context())
}

// lookupUser returns ids and home directory of a user.
func lookupUser(name string) (*syscall.Credential, string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, "", err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, "", err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, "", err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, u.HomeDir, nil
}
