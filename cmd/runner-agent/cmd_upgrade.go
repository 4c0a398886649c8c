package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/agent/disk"
	"github.com/mkappliance/mkappliance/agent/upgrade"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/buildinfo"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/osrelease"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/verity"
)

// Exit statuses of upgrade.
const (
	statusNewer   = 3 // --check found a version
	statusRefused = 4 // nothing was written
)

type upgradeOptions struct {
	config, source, channel, version string
	check, now, noReboot, scheduled  bool
	timeout                          time.Duration
	asJSON                           bool
	keys, dir, controlDir            string

	usb     bool // look for a stick
	outside bool // of the window
}

func newUpgradeCommand() *cobra.Command {
	var o upgradeOptions
	c := &cobra.Command{
		Use:   "upgrade [--source URL|DIR] [--check] [--to VERSION] [--now | --no-reboot]",
		Short: "Install a new version of the image, and boot it",
		Long: `Look for the newest version that this appliance can install, write it into the
slot that does not run, let the job under way end, and boot it. Without a newer
version nothing happens.

A source is a directory of signed versions, as mkappliance publish writes it, at a
URL or local. Without --source, a disk or USB stick whose file system is labelled
RUNNER_UPDATE comes before RUNNER_UPGRADE_SOURCE; RUNNER_UPGRADE_USB=false forbids
that. The index, and the manifest of the version, must be signed with one of the keys
in the image. Blocks that this disk has are not downloaded. An upgrade that was
interrupted goes on where it was.

If the new version does not boot well, the boot loader goes back to this one after
three attempts; the version is not installed again, but by --to. --to also installs
an older version, unless the one that runs forbids it.

With --json the output is an object with the keys "running", "version", "severity",
"installed", "seconds", "blocks" (an object with "blocks", "in_place", "copied",
"downloaded", "requests", "bytes" and "full") and "failed" (versions that did not
boot). Those that do not apply are left out.

Only root may upgrade.

Exit status:
  0  the version is installed and will be booted, or none is newer
  1  not installed, or not booted; what runs is as before
  2  the command line or config.env is wrong
  3  --check: a newer version can be installed
  4  refused: by its signature, its conditions or its size; nothing was written`,
		Example: `  # what is there?
  runner-agent upgrade --check

  # from a directory, without waiting for the job under way
  runner-agent upgrade --source /srv/channel --now

  # back to an older version
  runner-agent upgrade --to 1.3.0`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	o.addFlags(c)
	return c
}

func (o *upgradeOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.source, "source", "", "`URL|DIR` with versions; RUNNER_UPGRADE_SOURCE if not set")
	f.StringVar(&o.channel, "channel", "", "`NAME` of the channel; RUNNER_UPGRADE_CHANNEL if not set")
	f.StringVar(&o.version, "to", "", "install this `VERSION`, even if it is older or of another channel")
	f.BoolVar(&o.check, "check", false, "look for a version only")
	f.BoolVar(&o.now, "now", false, "reboot without waiting for the job under way, which fails")
	f.BoolVar(&o.noReboot, "no-reboot", false, "install only: the next boot starts the version")
	f.DurationVar(&o.timeout, "timeout", 0, "cancel the job under way after this `DURATION`, as 30m; 0 for never")
	f.BoolVar(&o.scheduled, "scheduled", false, "look for nothing without a source, or outside of RUNNER_UPGRADE_WINDOW")
	f.BoolVar(&o.asJSON, "json", false, "print a JSON object")
	f.StringVar(&o.config, "config", layout.ConfigFile, "`FILE` with the settings")
	f.StringVar(&o.keys, "keys", layout.UpdateKeys, "`DIR` of the public keys")
	f.StringVar(&o.dir, "state-dir", upgrade.DefaultDir, "`DIR` of the state of upgrades")
	addControlDir(c, &o.controlDir)
	c.MarkFlagsMutuallyExclusive("now", "no-reboot", "check")
}

func (o *upgradeOptions) run(c *cobra.Command) error {
	if err := o.readConfig(); err != nil {
		return err
	}
	log := c.OutOrStdout()
	if o.asJSON {
		log = c.ErrOrStderr()
	}
	stick, err := o.openStick()
	if err != nil {
		fmt.Fprintf(log, "warning: %v\n", err)
	}
	if stick != nil {
		defer stick.Close()
	}
	switch nowhere := o.source == "" && stick == nil; {
	case o.scheduled && (nowhere || o.outside):
		return o.settle(log)
	case nowhere:
		return cli.Usage(fmt.Errorf("there is no source; set RUNNER_UPGRADE_SOURCE in %s, or add --source", o.config))
	}

	outcome, err := o.install(c.Context(), stick, log)
	if refused := (*upgrade.RefusedError)(nil); errors.As(err, &refused) {
		return &cli.StatusError{Status: statusRefused, Err: err}
	}
	if err != nil {
		return err
	}
	if err := o.print(c.OutOrStdout(), outcome); err != nil {
		return err
	}
	switch {
	case o.check && outcome.Version != "" && !outcome.Installed:
		return &cli.StatusError{Status: statusNewer, Err: errors.New("a version can be installed"), Quiet: true}
	case !outcome.Installed || o.check || o.noReboot:
		return nil
	}
	return o.reboot(c.Context(), log)
}

// readConfig fills in what the command line leaves open.
func (o *upgradeOptions) readConfig() error {
	if o.timeout < 0 || o.timeout > control.MaxTimeout {
		return cli.Usage(fmt.Errorf("--timeout %s is not from 0s to %s", o.timeout, control.MaxTimeout))
	}
	cfg, _, err := config.Load(o.config)
	if err != nil && (o.source == "" || o.channel == "") {
		return cli.Usage(err)
	}
	if err != nil { // not needed
		return nil
	}

	o.usb = cfg.Upgrade.USB && o.source == ""
	o.outside = !cfg.Upgrade.Window.Contains(time.Now())
	if o.source == "" {
		o.source = cfg.Upgrade.Source
	}
	if o.channel == "" {
		o.channel = cfg.Upgrade.Channel
	}
	return nil
}

// openStick returns the stick that is plugged in, or nil if there is none or none is
// wanted.
func (o *upgradeOptions) openStick() (*disk.Stick, error) {
	if !o.usb {
		return nil, nil
	}
	return disk.OpenStick()
}

// install looks for a version on the stick first: somebody has just plugged it in.
func (o *upgradeOptions) install(ctx context.Context, stick *disk.Stick, log io.Writer) (upgrade.Outcome, error) {
	u, m, err := o.upgrader(log)
	if err != nil {
		return upgrade.Outcome{}, err
	}
	var places []upgrade.Place
	if stick != nil {
		places = append(places, upgrade.Place{Name: stick.Device, Root: stick.Dir()})
	}
	if o.source != "" {
		places = append(places, upgrade.Place{Name: o.source})
	}

	outcome, err := u.RunFirst(ctx, m, places, o.version, o.check)
	if errors.Is(err, upgrade.ErrSource) {
		err = cli.Usage(err)
	}
	return outcome, err
}

// settle notes how the last upgrade ended, also where there is nothing to look for.
func (o *upgradeOptions) settle(log io.Writer) error {
	s, err := upgrade.LoadState(o.dir)
	if err != nil || s.Pending == nil {
		return err
	}
	u, m, err := o.upgrader(log)
	if err != nil {
		return err
	}
	return u.Settle(m)
}

// machine is the disk that the appliance runs from.
type machine struct {
	path string
	root verity.Digest
	arch arch.Arch
}

// OpenDisk implements upgrade.Machine.
func (m *machine) OpenDisk() (*disk.Disk, error) { return disk.Open(m.path, m.root, m.arch) }

// MountESP implements upgrade.Machine.
func (m *machine) MountESP(d *disk.Disk) (*disk.ESP, func() error, error) {
	return disk.MountESP(m.path, d.ESPNumber(), "/run/runner/esp")
}

func (o *upgradeOptions) upgrader(log io.Writer) (*upgrade.Upgrader, *machine, error) {
	keys, err := release.ReadKeys(o.keys)
	if err != nil {
		return nil, nil, err
	}
	root, err := disk.RunningRoot("/proc/cmdline")
	if err != nil {
		return nil, nil, err
	}
	path, err := disk.Find(root)
	if err != nil {
		return nil, nil, err
	}
	a, err := runningArch()
	if err != nil {
		return nil, nil, err
	}

	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the id of this boot: %w", err)
	}

	image := osrelease.Read("/")
	host := upgrade.Host{Image: image["IMAGE_ID"], Version: image["IMAGE_VERSION"], Architecture: a.Debian,
		Agent: strings.TrimPrefix(buildinfo.Read().Version, "v"), Root: root,
		Boot: strings.TrimSpace(string(boot))}
	u := &upgrade.Upgrader{Channel: o.channel, Keys: keys, Host: host, Dir: o.dir,
		Now: time.Now, Log: log}
	return u, &machine{path: path, root: root, arch: a}, nil
}

// runningArch returns the architecture of this program.
func runningArch() (arch.Arch, error) {
	for _, a := range arch.All() {
		if a.Go == runtime.GOARCH {
			return a, nil
		}
	}
	return arch.Arch{}, fmt.Errorf("cannot upgrade: there is no image for %s", runtime.GOARCH)
}

func (o *upgradeOptions) print(w io.Writer, outcome upgrade.Outcome) error {
	if o.asJSON {
		return json.NewEncoder(w).Encode(outcome)
	}
	for _, f := range outcome.Failed {
		fmt.Fprintf(w, "version %s is left out: %s\n", f.Version, f.Reason)
	}
	var err error
	switch {
	case outcome.Version == "":
		_, err = fmt.Fprintf(w, "version %s is the newest\n", outcome.Running)
	case outcome.Installed:
		_, err = fmt.Fprintf(w, "the next boot starts version %s\n", outcome.Version)
	default:
		_, err = fmt.Fprintf(w, "version %s can be installed, severity %s\n", outcome.Version, outcome.Severity)
	}
	return err
}

// reboot boots the new version once the job under way has ended.
func (o *upgradeOptions) reboot(ctx context.Context, log io.Writer) error {
	if !o.now {
		if err := drain(ctx, o.controlDir, o.timeout, log); err != nil {
			return fmt.Errorf("%w; the next boot starts the new version", err)
		}
	}
	fmt.Fprintln(log, "rebooting")
	return systemctl(ctx, log, "reboot")
}
