package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	cloudinit "github.com/mkappliance/mkappliance/cloud-init"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/qemu"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/trial"
)

// statusFailedTest is the exit status of a version that was tested and did not do well.
const statusFailedTest = 3

type testUpgradeOptions struct {
	machine   machineFlags
	key       keyFlags
	configEnv string
	channel   string
	noBroken  bool
	timeout   time.Duration
	asJSON    bool
}

func newTestUpgradeCommand() *cobra.Command {
	var o testUpgradeOptions
	c := &cobra.Command{
		Use:   "test-upgrade OLD NEW --key FILE",
		Short: "Upgrade an appliance in QEMU, and have it go back from a broken version",
		Long: `Boot the image OLD in QEMU and have the appliance upgrade itself to NEW, which is
the manifest of a signed update set, or the directory of a channel. The appliance
must boot NEW, count it as good, keep its machine id, ssh host key, host name,
config.env and a file below /var, and have no failed unit.

Then it upgrades to a broken version: NEW with a kernel command line that lets no
guest start. The appliance must go back to NEW by itself, state why, and not
install the broken version again. --key signs that version, and the index of the
channel, so OLD must accept the key.

The machine reaches nothing but the channel, so it does not register, and units
that need a registration may fail. With --config-env it has this host's network,
registers as config.env asks for, and must be online after each step.

Neither OLD nor NEW is changed. Without KVM the test takes 15 to 20 minutes. With
--json the output is an object with the keys "image", "from", "to", "ok", "error",
"phases" (objects with "phase" and "seconds"), "emulated", "installed" and "broken"
(an object with "version", "boots" and "reason"). Those that do not apply are left
out. The end of the console and of the journal goes to standard error if NEW failed.

Exit status:
  0  the appliance upgraded and went back
  1  nothing could be tested: QEMU, OLD or NEW
  2  the command line, config.env, the key or its password is wrong
  3  NEW failed the test`,
		Example: `  # before a version is published
  mkappliance sign --key release.key out/runner-amd64_1.4.0.manifest.json
  mkappliance test-upgrade runner-amd64_1.3.0.img out/runner-amd64_1.4.0.manifest.json --key release.key

  # what a channel has, without the key
  mkappliance test-upgrade runner-amd64_1.3.0.img /srv/www/runner --no-rollback

  # in CI, with a token
  mkappliance test-upgrade old.img new.manifest.json --key release.key --config-env config.env --json >report.json`,
		Args: cli.Args("OLD", "NEW"),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0], args[1]) },
	}
	f := c.Flags()
	o.key.add(f)
	f.BoolVar(&o.noBroken, "no-rollback", false, "leave out the broken version")
	f.StringVar(&o.configEnv, "config-env", "", "configure the appliance by `FILE`, and have it register")
	f.StringVar(&o.channel, "channel", "", "look for versions of the channel `NAME` (default: that of NEW, or stable)")
	f.DurationVar(&o.timeout, "timeout", time.Hour, "give up after this `DURATION`, as 30m")
	f.BoolVar(&o.asJSON, "json", false, "print a JSON object, and progress as JSON, one object a line")
	o.machine.add(f)
	return c
}

func (o *testUpgradeOptions) run(c *cobra.Command, oldImage, newVersion string) error {
	t, err := o.trial(oldImage, newVersion)
	if err != nil {
		return err
	}
	if t.Machine.Dir, err = os.MkdirTemp("", "mkappliance-test-upgrade-"); err != nil {
		return fmt.Errorf("cannot test upgrade: %w", err)
	}
	defer os.RemoveAll(t.Machine.Dir)
	if err := o.makeSeed(t); err != nil {
		return err
	}

	ctx, cancel := context.WithTimeoutCause(c.Context(), o.timeout, fmt.Errorf("--timeout %s is over", o.timeout))
	defer cancel()
	report, evidence, err := trial.Run(ctx, *t)
	if evidence != "" {
		fmt.Fprintln(c.ErrOrStderr(), evidence)
	}
	if printErr := o.print(c.OutOrStdout(), report); err == nil {
		err = printErr
	}
	if failed := (*trial.FailedError)(nil); errors.As(err, &failed) {
		return &cli.StatusError{Status: statusFailedTest, Err: err}
	}
	return err
}

// trial checks the command line, and returns the trial that it describes, without the
// directory and the seed of the machine.
func (o *testUpgradeOptions) trial(oldImage, newVersion string) (*trial.Config, error) {
	t := &trial.Config{Machine: qemu.Config{Image: oldImage, Offline: o.configEnv == ""}, Channel: o.channel,
		NoBroken: o.noBroken, Registers: o.configEnv != ""}
	if err := o.machine.fill(&t.Machine); err != nil {
		return nil, cli.Usage(err)
	}
	if o.timeout <= 0 {
		return nil, cli.Usage(fmt.Errorf("--timeout %s is not a time to wait", o.timeout))
	}
	if _, err := os.Stat(oldImage); err != nil {
		return nil, cli.Usage(fmt.Errorf("cannot test upgrade: %w", err))
	}
	if err := o.openNew(t, newVersion); err != nil {
		return nil, err
	}
	if err := release.CheckChannel(t.Channel); err != nil {
		return nil, cli.Usage(fmt.Errorf("cannot use --channel: %w", err))
	}

	var err error
	if t.Dir != "" && !o.noBroken && o.key.path == "" {
		return nil, cli.Usage(errors.New("no private key is named; give --key, or --no-rollback for a channel"))
	}
	if t.Set != nil || !o.noBroken {
		if t.Signer, err = o.key.read(); err != nil {
			return nil, err
		}
	}
	if t.Machine.Arch, err = archOf(oldImage); err != nil {
		return nil, err
	}
	if t.Key, err = trial.NewKey(); err != nil {
		return nil, err
	}
	mode := progress.DetectMode(os.Stderr)
	if o.asJSON {
		mode = progress.JSON
	}
	t.Progress = progress.New(os.Stderr, mode)
	return t, nil
}

// openNew opens a manifest, or notes the directory of a channel.
func (o *testUpgradeOptions) openNew(t *trial.Config, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return cli.Usage(fmt.Errorf("cannot test upgrade: %w", err))
	}
	if info.IsDir() {
		t.Dir, t.Channel = path, cmp.Or(o.channel, defaultChannel)
		return nil
	}
	if t.Set, err = publish.OpenSet(path); err != nil {
		return err
	}
	t.Channel = cmp.Or(o.channel, t.Set.Manifest.Channel)
	return nil
}

// defaultChannel is that of an appliance whose config.env names none.
const defaultChannel = "stable"

// offlineConfig is the config.env of an appliance that cannot register.
const offlineConfig = "RUNNER_GITHUB_URL=https://github.com/test/upgrade\nRUNNER_REGISTRATION_TOKEN=NONE\n"

// makeSeed writes the seed of the machine: config.env, and a key that lets root in.
func (o *testUpgradeOptions) makeSeed(t *trial.Config) error {
	seed := cloudinit.Seed{ConfigEnv: []byte(offlineConfig), Hostname: "test-upgrade"}
	if o.configEnv != "" {
		var err error
		if seed.ConfigEnv, err = readConfigEnv(o.configEnv); err != nil {
			return err
		}
	}
	seed.UserData = fmt.Appendf(nil, `#cloud-config
disable_root: false
users:
  - name: root
    ssh_authorized_keys: [%s]
`, t.Key.AuthorizedKey())
	t.Machine.Seed = filepath.Join(t.Machine.Dir, "seed.iso")
	return seed.Write(t.Machine.Seed)
}

func (o *testUpgradeOptions) print(w io.Writer, r *trial.Report) error {
	if o.asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	if !r.OK {
		return nil
	}
	fmt.Fprintf(w, "%s upgraded from %s to %s: %s\n", r.Image, r.From, r.To, r.Installed)
	if r.Broken != nil {
		fmt.Fprintf(
			w,
			"%s went back from %s after %d boots: %s\n",
			r.Image,
			r.Broken.Version,
			r.Broken.Boots,
			r.Broken.Reason,
		)
	}
	return nil
}
