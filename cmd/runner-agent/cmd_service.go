package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/supervise"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/layout"
)

type serviceOptions struct {
	bakedDir   string
	controlDir string
	socket     string
}

func newServiceCommand() *cobra.Command {
	var o serviceOptions
	c := &cobra.Command{
		Use:   "service",
		Short: "Keep the runner's listener running",
		Long: `Start the actions runner's listener, which hands container jobs to the hook, and
keep it running until the service is stopped. systemd is notified when the
listener waits for jobs. Settings come from the environment, under their names
in config.env: the user of this service may not read that file.

Unless RUNNER_JOBS=host lets steps run on the host, neither
this program nor its children can execute a file of the work directory, where
jobs write.

The status is saved in the directory of --control-dir, and requests are served at
a socket there: see runner-agent status and runner-agent drain. A drain that was
asked for before this service started holds, and the listener is not started.

SIGTERM or SIGINT cancels the job under way and stops the listener. Before each
start of the listener and after its end the broker stops all guests, because a
listener that is stopped leaves its job's guest behind.

Exit status:
  0  stopped as asked
  1  the listener could not be started
  2  the command line or a setting is wrong
  3  the runner is not registered, or no longer; register it again
  4  GitHub no longer serves this version of the runner; renew it`,
		Example: `  # what runner.service runs
  runner-agent service`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.StringVar(&o.bakedDir, "baked-dir", layout.ActiveActionsRunner,
		"`DIR` of the copy of the actions runner that runs")
	f.StringVar(&o.controlDir, "control-dir", os.Getenv("RUNTIME_DIRECTORY"),
		"`DIR` for status and control requests, by default $RUNTIME_DIRECTORY; empty for neither")
	f.StringVar(&o.socket, "socket", brokerapi.DefaultSocket,
		"unix socket `PATH` of the broker, which stops leftover guests; empty for none")
	return c
}

func (o *serviceOptions) run(c *cobra.Command) error {
	cfg, err := config.FromEnviron(os.Environ())
	if err != nil {
		return cli.Usage(err)
	}

	if cfg.Jobs != config.JobsHost {
		if err := supervise.Confine(supervise.ProgramDirs(cfg, o.bakedDir)...); err != nil {
			return fmt.Errorf("%w; a kernel without Landlock can serve with RUNNER_JOBS=host only", err)
		}
	}

	s := &supervise.Supervisor{
		Config:     cfg,
		Home:       os.Getenv("HOME"),
		BakedDir:   o.bakedDir,
		ControlDir: o.controlDir,
		Log:        c.OutOrStdout(),
		// It fails if systemd did not start us, and then nobody waits for it.
		Notify: func(state string) { _, _ = daemon.SdNotify(false, state) },
		Delay:  supervise.Backoff,
	}
	if o.socket != "" {
		s.Guests = &brokerapi.Client{Socket: o.socket}
	}

	err = s.Run(c.Context())
	var stop *supervise.StopError
	if errors.As(err, &stop) {
		return &cli.StatusError{Status: stop.Status, Err: err}
	}
	return err
}
