package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/agent/dist"
	"github.com/mkappliance/mkappliance/internal/actionsrunner"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/osrelease"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/run"
)

type renewOptions struct {
	config, source, version  string
	check, scheduled, choose bool
	asJSON                   bool
	bound                    time.Duration

	api, keys, controlDir string
	root                  string
	store                 dist.Store
}

func newRenewCommand() *cobra.Command {
	var o renewOptions
	c := &cobra.Command{
		Use:   "renew [--check] [--to VERSION] [--source URL|DIR]",
		Short: "Replace the actions runner by a newer one",
		Long: `Look for a newer version of the actions runner, install it beside the image's, let
the job under way end, and restart runner.service with it. Without a newer version
nothing happens.

GitHub stops to serve a version 30 days after the next one was published. With
RUNNER_UPGRADE_ACTIONS_RUNNER the appliance renews by itself.

An archive is taken from GitHub's releases if it has the SHA-256 that GitHub's API
states for it, or from a source if a key of the image has signed it. A source is
that of RUNNER_UPGRADE_ACTIONS_RUNNER=source, or of --source.

If the runner is not online in time with the new version, the one before comes back,
and the version is not tried again, but by --to. --to also leads back to an older
version, if it is still there, and to the image's.

With --json the output is an object with the keys "running", "version" (that was
found), "from", "renewed" (the runner is online with it), "waits_for" (what it will
run after) and "failed" (why it does not run). Those that do not apply are left out.

Only root may renew.

Exit status:
  0  the runner is online with the version, or will be; or none is newer
  1  not installed, or not online with it: the version before is back
  2  the command line or config.env is wrong
  3  --check: there is a newer version
  4  refused: by its hash, its signature or its size; nothing has changed`,
		Example: `  # is there a newer one?
  runner-agent renew --check

  # from a USB stick, signed with a key of the image
  runner-agent renew --source /mnt

  # back to the image's
  runner-agent renew --to 2.336.0`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	o.addFlags(c)
	return c
}

func (o *renewOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.version, "to", "", "install this `VERSION`")
	f.StringVar(&o.source, "source", "", "`URL|DIR` with signed archives, instead of GitHub's releases")
	f.BoolVar(&o.check, "check", false, "look for a version only")
	f.BoolVar(&o.scheduled, "scheduled", false,
		"do nothing if RUNNER_UPGRADE_ACTIONS_RUNNER is off, outside of RUNNER_UPGRADE_WINDOW, or if it was done today")
	f.BoolVar(&o.choose, "choose", false, "choose the version for the next start of runner.service only")
	f.DurationVar(&o.bound, "online-within", 10*time.Minute, "how long the runner may take to come online")
	f.BoolVar(&o.asJSON, "json", false, "print a JSON object")
	f.StringVar(&o.config, "config", layout.ConfigFile, "`FILE` with the settings")
	f.StringVar(&o.keys, "keys", layout.UpdateKeys, "`DIR` of the public keys")
	f.StringVar(&o.api, "api", actionsrunner.DefaultAPI, "`URL` of GitHub's API")
	f.StringVar(&o.root, "root", "/", "`DIR` of the system that the image is")
	f.StringVar(&o.store.Dir, "dir", layout.ActionsRunnerCopies, "`DIR` of the copies")
	f.StringVar(&o.store.Baked, "baked-dir", layout.BakedActionsRunner,
		"`DIR` of the actions runner as the image carries it")
	f.StringVar(&o.store.Link, "link", layout.ActiveActionsRunner, "`PATH` of the link to the copy that runs")
	addControlDir(c, &o.controlDir)
	c.MarkFlagsMutuallyExclusive("check", "choose", "scheduled")
}

func (o *renewOptions) run(c *cobra.Command) error {
	o.store.Version = osrelease.Read(o.root)["RUNNER_VERSION"]
	if o.choose {
		version, err := o.store.Select(time.Now())
		if version != "" {
			fmt.Fprintf(c.OutOrStdout(), "starting with actions runner %s of %s\n", version, o.store.Dir)
		}
		return err
	}
	if o.store.Version == "" {
		return fmt.Errorf("os-release(5) of %s has no RUNNER_VERSION: this image has no actions runner", o.root)
	}
	cfg, _, err := config.Load(o.config)
	if err != nil {
		return cli.Usage(err)
	}
	if o.scheduled && !o.due(c.Context(), cfg) {
		return nil
	}

	log := c.OutOrStdout()
	if o.asJSON {
		log = c.ErrOrStderr()
	}
	r, err := o.renewer(cfg, log)
	if err != nil {
		return err
	}
	renew := r.Renew
	if o.check {
		renew = r.Find
	}
	outcome, err := renew(c.Context(), o.version)
	if refused := (*dist.RefusedError)(nil); errors.As(err, &refused) {
		return &cli.StatusError{Status: statusRefused, Err: err}
	}
	if err != nil {
		return err
	}
	return o.report(c.OutOrStdout(), outcome)
}

// askEvery is how often a newer version is looked for, without being asked.
const askEvery = 20 * time.Hour

// due reports whether a scheduled renewal has something to do.
func (o *renewOptions) due(ctx context.Context, cfg *config.Config) bool {
	if cfg.Renewal() == config.RenewOff {
		return false
	}
	status, err := (&control.Client{Dir: o.controlDir}).Status(ctx)
	if err == nil && status.State == control.Deprecated {
		return true // it takes no jobs: each hour counts
	}
	state, err := dist.LoadState(o.store.Dir)
	if err != nil {
		return true // which reports it
	}
	return state.Trial != nil || cfg.Upgrade.Window.Contains(time.Now()) && time.Since(state.Checked) > askEvery
}

func (o *renewOptions) renewer(cfg *config.Config, log io.Writer) (*dist.Renewer, error) {
	// The transport of net/http reads them when it is first used.
	for _, setting := range cfg.Proxy {
		key, value, _ := strings.Cut(setting, "=")
		if err := os.Setenv(key, value); err != nil {
			return nil, err
		}
	}

	origin, err := o.origin(cfg)
	if err != nil {
		return nil, err
	}
	return &dist.Renewer{
		Store: &o.store, Origin: origin, Runner: &control.Client{Dir: o.controlDir},
		Restart: func(ctx context.Context) error {
			// Not to wait: the unit is started once the listener is online.
			restart := run.Cmd{Args: []string{"systemctl", "--no-block", "restart", "runner.service"},
				Stdout: log, Stderr: os.Stderr}
			if err := (run.Local{}).Exec(ctx, restart); err != nil {
				return fmt.Errorf("cannot restart runner.service: %w", err)
			}
			return nil
		},
		Bound: o.bound, Now: time.Now, Log: log,
	}, nil
}

func (o *renewOptions) origin(cfg *config.Config) (dist.Origin, error) {
	a, err := runningArch()
	if err != nil {
		return nil, err
	}
	source := o.source
	if source == "" && cfg.Renewal() == config.RenewSource {
		if source = cfg.Upgrade.Source; source == "" {
			return nil, cli.Usage(fmt.Errorf(
				"%s: RUNNER_UPGRADE_ACTIONS_RUNNER=source needs a source; set RUNNER_UPGRADE_SOURCE", o.config))
		}
	}
	if source == "" {
		return dist.GitHub{API: o.api, Arch: a}, nil
	}
	keys, err := release.ReadKeys(o.keys)
	if err != nil {
		return nil, err
	}
	return dist.Channel{Source: source, Keys: keys, Arch: a}, nil
}

// report prints an outcome, and returns the status that it has.
func (o *renewOptions) report(w io.Writer, outcome dist.Outcome) error {
	var err error
	if o.asJSON {
		err = json.NewEncoder(w).Encode(outcome)
	} else {
		_, err = fmt.Fprintln(w, describeRenewal(outcome, o.check))
	}
	switch {
	case err != nil:
		return err
	case o.check && outcome.Version != "":
		return &cli.StatusError{Status: statusNewer, Err: errors.New("there is a newer version"), Quiet: true}
	case outcome.Failed != "" && outcome.Version != "":
		return fmt.Errorf("actions runner %s does not run: %s", outcome.Version, outcome.Failed)
	}
	return nil
}

func describeRenewal(outcome dist.Outcome, check bool) string {
	switch {
	case outcome.Version == "" && outcome.Failed != "":
		return fmt.Sprintf("actions runner %s stays; %s", outcome.Running, outcome.Failed)
	case outcome.Version == "":
		return fmt.Sprintf("actions runner %s is the newest", outcome.Running)
	case check:
		return fmt.Sprintf("actions runner %s can be installed, from %s", outcome.Version, outcome.From)
	case outcome.Renewed:
		return fmt.Sprintf("the runner is online with actions runner %s", outcome.Version)
	case outcome.WaitsFor != "":
		return fmt.Sprintf("actions runner %s is installed, and waits for %s", outcome.Version, outcome.WaitsFor)
	case outcome.Failed != "":
		return fmt.Sprintf("actions runner %s is back", outcome.Running)
	}
	return fmt.Sprintf("actions runner %s stays", outcome.Running)
}
