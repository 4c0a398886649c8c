package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/agent/register"
	"github.com/mkappliance/mkappliance/agent/state"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

// statusNotConfirmed is the exit status of a reset that nobody has confirmed.
const statusNotConfirmed = 3

type resetOptions struct {
	config, tokenFile, root, controlDir            string
	yes, dryRun, now, noReboot, keepConfig, atBoot bool
	timeout                                        time.Duration
}

func newResetCommand() *cobra.Command {
	var o resetOptions
	c := &cobra.Command{
		Use:   "reset [--yes] [--now] [--keep-config] [--token-file FILE]",
		Short: "Make the appliance as it was flashed",
		Long: `Let the job under way end, remove the runner at GitHub, and reboot. That boot
removes registration, config.env, ssh host key, users, home directories, jobs,
container images, logs and the state of upgrades, and is then a first boot:
cloud-init reads the seed again, which must be attached and hold a new registration
token. Both slots stay as they are. --dry-run prints what is removed.

GitHub removes the runner if it gets a removal token, of Settings, Actions, Runners,
the runner's menu, Remove. Without --token-file the registration token of config.env
serves, for as long as it is valid: 1 hour. If the runner cannot be removed with it,
the reset goes on, and the runner stays listed, offline. A new registration under the
same name replaces it; GitHub removes it by itself after 14 days.

With --keep-config config.env stays, so that no seed is needed; put a new token into
it first. A seed that brings a config.env replaces it.

On a terminal the command asks before it does anything; elsewhere it needs --yes. A
reset that a power cut interrupted goes on with the next boot. Only root may reset.

Exit status:
  0  the appliance reboots and is reset, or --no-reboot: the next boot resets it
  1  not reset; the message names the cause
  2  the command line is wrong
  3  not confirmed`,
		Example: `  # what would be removed?
  runner-agent reset --dry-run

  # for the next owner
  runner-agent reset --token-file token`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	o.addFlags(c)
	return c
}

func (o *resetOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.BoolVar(&o.dryRun, "dry-run", false, "print what is kept, emptied and removed, and do nothing")
	f.BoolVar(&o.now, "now", false, "do not wait for the job under way, which fails")
	f.DurationVar(&o.timeout, "timeout", 0, "cancel the job under way after this `DURATION`, as 30m; 0 for never")
	f.BoolVar(&o.noReboot, "no-reboot", false, "do not reboot: the next boot resets")
	f.BoolVar(&o.keepConfig, "keep-config", false, "keep config.env")
	f.StringVar(
		&o.tokenFile,
		"token-file",
		"",
		"remove the runner at GitHub with the token in `FILE`, - for standard input",
	)
	f.StringVar(&o.config, "config", layout.ConfigFile, "`FILE` with the settings")
	f.StringVar(&o.root, "root", "/", "`DIR` of the system")
	f.BoolVar(&o.atBoot, "at-boot", false, "make the reset that was asked for, as runner-reset.service does")
	addControlDir(c, &o.controlDir)
	c.MarkFlagsMutuallyExclusive("at-boot", "yes", "dry-run")
	_ = f.MarkHidden("at-boot") // the flag is defined above
}

func (o *resetOptions) run(c *cobra.Command) error {
	out := c.OutOrStdout()
	switch {
	case o.atBoot:
		return o.finish(out)
	case o.dryRun:
		return o.plan(out)
	case os.Geteuid() != 0:
		return errors.New("cannot reset: only root may")
	}
	if o.timeout < 0 || o.timeout > control.MaxTimeout {
		return cli.Usage(fmt.Errorf("--timeout %s is not from 0s to %s", o.timeout, control.MaxTimeout))
	}

	deregistration, err := o.deregistration(out)
	if err != nil {
		return err
	}
	if err := o.confirm(out, deregistration == nil); err != nil {
		return err
	}

	if err := o.release(c.Context(), out, deregistration); err != nil {
		return err
	}
	request := state.Request{Time: time.Now().UTC().Truncate(time.Second), KeepConfig: o.keepConfig}
	if err := state.Ask(o.root, request); err != nil {
		return err
	}
	if o.noReboot {
		_, err := fmt.Fprintln(out, "the next boot resets the appliance")
		return err
	}
	fmt.Fprintln(out, "rebooting")
	return systemctl(c.Context(), out, "reboot")
}

// finish makes the reset that was asked for.
func (o *resetOptions) finish(out io.Writer) error {
	done, err := state.Reset(o.root, out)
	if done && err == nil {
		_, err = fmt.Fprintln(out, "the appliance is as it was flashed")
	}
	return err
}

func (o *resetOptions) plan(out io.Writer) error {
	steps, err := state.Plan(o.root, o.keepConfig)
	for _, s := range steps {
		fmt.Fprintf(out, "%-8s %s\n", s.Fate, s.Path)
	}
	return err
}

// deregistration returns what removes the runner at GitHub; nil without a
// registration or a token.
func (o *resetOptions) deregistration(out io.Writer) (*register.Deregistration, error) {
	token, err := o.readToken()
	if err != nil {
		return nil, cli.Usage(err)
	}
	cfg, _, err := config.Load(o.config)
	if err != nil {
		if token.IsSet() {
			return nil, fmt.Errorf("cannot deregister: %w", err)
		}
		return nil, nil //nolint:nilerr // a reset must not need what may be the reason for it
	}
	if !token.IsSet() {
		token = cfg.Token
	}
	d := &register.Deregistration{Config: cfg, Token: token, RunDir: "/run/runner", Executor: run.Local{}, Log: out}
	if !token.IsSet() || !d.IsRegistered() {
		return nil, nil
	}
	return d, nil
}

// readToken returns the token of --token-file, or none.
func (o *resetOptions) readToken() (config.Token, error) {
	var data []byte
	var err error
	switch o.tokenFile {
	case "":
		return config.Token{}, nil
	case "-":
		data, err = io.ReadAll(io.LimitReader(os.Stdin, 4<<10))
	default:
		data, err = os.ReadFile(o.tokenFile)
	}
	if err != nil {
		return config.Token{}, fmt.Errorf("cannot read token: %w", err)
	}
	if words := strings.Fields(string(data)); len(words) == 1 {
		return config.NewToken(words[0]), nil
	}
	return config.Token{}, fmt.Errorf("cannot read token: %s does not hold one word", o.tokenFile)
}

// confirm asks on a terminal whether to go on.
func (o *resetOptions) confirm(out io.Writer, listed bool) error {
	fmt.Fprintln(out, "Registration, settings, users, jobs, container images and logs of this appliance are removed.")
	if listed {
		fmt.Fprintln(out, "There is no token to remove the runner at GitHub: it stays listed there, offline, until it is "+
			"removed in Settings, Actions, Runners.")
	}
	if !o.keepConfig && o.seedIsGone() {
		fmt.Fprintln(
			out,
			"No seed is attached, a file system labelled CIDATA: afterwards the appliance has no settings, and "+
				"lets nobody in.",
		)
	}
	if o.yes {
		return nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return &cli.StatusError{Status: statusNotConfirmed, Err: errors.New("cannot ask without a terminal; add --yes")}
	}

	fmt.Fprint(out, "Type yes to reset it: ")
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n') // without a line it is not confirmed
	if strings.TrimSpace(line) != "yes" {
		return &cli.StatusError{Status: statusNotConfirmed, Err: errors.New("not confirmed, nothing is removed")}
	}
	return nil
}

// seedIsGone reports whether cloud-init read its settings from a seed that is not
// attached any more. A cloud's own service has no seed.
func (o *resetOptions) seedIsGone() bool {
	source, err := os.ReadFile(filepath.Join(o.root, "/var/lib/cloud/instance/datasource"))
	if err != nil || !strings.Contains(string(source), "DataSourceNoCloud ") {
		return false
	}
	for _, label := range []string{"CIDATA", "cidata"} {
		if _, err := os.Stat(filepath.Join(o.root, "/dev/disk/by-label", label)); err == nil {
			return false
		}
	}
	return true
}

// release lets the job under way end, removes the runner at GitHub and stops it. If
// that fails the runner goes on as before.
func (o *resetOptions) release(ctx context.Context, out io.Writer, d *register.Deregistration) error {
	stop := func() error { return systemctl(ctx, out, "stop", "runner.service") }
	undo := func() error { return systemctl(ctx, out, "start", "--no-block", "runner.service") }
	if !o.now {
		if err := drain(ctx, o.controlDir, o.timeout, out); err != nil {
			return fmt.Errorf("%w; nothing is removed", err)
		}
		// A drain outlasts a restart, so that the service is not stopped before it may.
		undo = func() error {
			client := control.Client{Dir: o.controlDir}
			_, err := client.Resume(ctx)
			return ignoreNotRunning(err)
		}
	} else if err := stop(); err != nil {
		return err
	}

	if err := o.deregister(ctx, out, d); err != nil {
		return errors.Join(err, undo())
	}
	return stop()
}

// deregister removes the runner at GitHub. Only if a token was given for that, it
// has to succeed.
func (o *resetOptions) deregister(ctx context.Context, out io.Writer, d *register.Deregistration) error {
	if d == nil {
		return nil
	}
	err := d.Run(ctx)
	if err != nil && o.tokenFile == "" {
		fmt.Fprintf(out, "warning: %v; the runner stays listed at GitHub, offline, until it is removed in "+
			"Settings, Actions, Runners\n", err)
		return nil
	}
	return err
}

func systemctl(ctx context.Context, out io.Writer, args ...string) error {
	c := run.Cmd{Args: append([]string{"systemctl"}, args...), Stdout: out, Stderr: os.Stderr}
	if err := (run.Local{}).Exec(ctx, c); err != nil {
		return fmt.Errorf("cannot %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
