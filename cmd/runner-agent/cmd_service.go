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
	bakedDir string
	socket   string
}

func newServiceCommand() *cobra.Command {
	var o serviceOptions
	c := &cobra.Command{
		Use:   "service",
		Short: "Keep the runner's listener running",
		Long: `Start the actions runner's listener, with container jobs handed to the hook,
and keep it running until told to stop. systemd is told when it listens for
jobs. Settings are taken from the environment, under the names they have in
config.env: the user of this service may not read that file.

Unless steps may run on the host (RUNNER_REQUIRE_JOB_CONTAINER=false), nothing
that it starts can execute a file of the work root, where jobs write.

SIGTERM or SIGINT cancels the job under way and stops the listener. Before each
start of the listener and after its end the broker is asked to end all guests,
because a listener that was stopped leaves its job's guest behind.

Exit status:
  0  stopped as asked
  1  the listener could not be started
  2  the command line or a setting is wrong
  3  the runner is not registered (any more); register it again
  4  GitHub no longer serves this version of the runner; renew it`,
		Example: `  # what runner.service runs
  runner-agent service`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	c.Flags().StringVar(&o.bakedDir, "baked-dir", layout.BakedActionsRunner, "`directory` of the runner as it came with the image")
	c.Flags().StringVar(&o.socket, "socket", brokerapi.DefaultSocket, "unix socket `PATH` of the broker, asked to end leftover guests; empty for none")
	return c
}

func (o *serviceOptions) run(c *cobra.Command) error {
	cfg, err := config.FromEnviron(os.Environ())
	if err != nil {
		return cli.Usage(err)
	}
	if cfg.RequireJobContainer {
		if err := supervise.Confine(supervise.ProgramDirs(cfg, o.bakedDir)...); err != nil {
			return fmt.Errorf("%w; a kernel without Landlock can serve with RUNNER_REQUIRE_JOB_CONTAINER=false only", err)
		}
	}
	s := &supervise.Supervisor{
		Config: cfg, Home: os.Getenv("HOME"), BakedDir: o.bakedDir, Log: c.OutOrStdout(),
		// Without systemd there is nobody to tell, and no error in that.
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
