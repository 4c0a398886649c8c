package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/broker"
	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/layout"
)

type brokerOptions struct {
	host       broker.Host
	configFile string
}

func newBrokerCommand() *cobra.Command {
	var o brokerOptions
	c := &cobra.Command{
		Use:   "broker",
		Short: "Start and end guests for the unprivileged runner",
		Long: `Start and end guests for the unprivileged runner. It runs as root, on the socket
that systemd hands over, and takes every host path and limit from config.env and
from its flags, never from a request. When it ends, so do the guests.

Exit status:
  0  it was asked to stop
  1  it could not listen, or could not sweep what an earlier broker left
  2  the command line or config.env is wrong`,
		Example: `  # what runner-guestd.service runs
  runner-agent broker
  # by hand, beside the appliance's own
  runner-agent broker --socket /run/test.sock --base /srv/tree --jobs-dir /srv/jobs`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	h := &o.host
	f.StringVar(&h.Socket, "socket", "", "listen on the unix socket `PATH` (default: the one systemd hands over)")
	f.StringVar(&o.configFile, "config", layout.ConfigFile, "read settings from `FILE`, if it exists")
	f.StringVar(&h.Base, "base", "", "guest base `TREE` (default: RUNNER_NSPAWN_BASE_ROOTFS)")
	f.StringVar(&h.JobsDir, "jobs-dir", layout.Jobs, "`DIR` for what guests write")
	f.StringVar(&h.ImagesDir, "images-dir", layout.OCIImages, "`DIR` for pulled images")
	f.StringVar(&h.WorkRoot, "work-root", layout.Work, "the runner's work `DIR`")
	f.StringVar(&h.Externals, "externals", layout.ActiveActionsRunner+"/externals",
		"`DIR` with the runner's node.js builds")
	f.StringVar(&h.ActionsRunner, "actions-runner", layout.ActiveActionsRunner,
		"`DIR` with bin and externals of the actions runner, for workers in guests")
	f.StringVar(&h.WorkerLogs, "worker-logs", layout.WorkerLogs, "`DIR` for the logs of workers in guests")
	f.StringVar(&h.Tools, "tools", layout.BakedTools, "`DIR` with tools for the tool cache of jobs, if it exists")
	f.StringVar(&h.KeptTools, "kept-tools", layout.KeptTools,
		"`DIR` for tools that jobs add, with RUNNER_TOOL_CACHE_WRITABLE")
	f.StringVar(&h.KeptVolumes, "kept-volumes", layout.KeptVolumes,
		"`DIR` for the volumes of RUNNER_VOLUMES, which outlive jobs")
	f.IntVar(&h.RunnerUID, "runner-uid", layout.RunnerUID, "user `ID` of the runner")
	f.IntVar(&h.RunnerGID, "runner-gid", layout.RunnerGID, "group `ID` of the runner")
	return c
}

func (o *brokerOptions) run(c *cobra.Command) error {
	if err := broker.EnterPrivateMounts(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
	cfg, err := o.config(log)
	if err != nil {
		return cli.Usage(err)
	}
	return o.host.Run(c.Context(), cfg, log)
}

// config reads config.env. Before cloud-init has written it, the defaults hold.
func (o *brokerOptions) config(log *slog.Logger) (*config.Config, error) {
	if _, err := os.Stat(o.configFile); errors.Is(err, fs.ErrNotExist) {
		return config.FromEnviron(nil)
	}
	cfg, warnings, err := config.Load(o.configFile)
	for _, w := range warnings {
		log.Warn(w)
	}
	return cfg, err
}
