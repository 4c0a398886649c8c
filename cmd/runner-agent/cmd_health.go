package main

import (
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/health"
	"github.com/mkappliance/mkappliance/agent/upgrade"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/osrelease"
)

type healthOptions struct {
	config   string
	socket   string
	state    string
	upgrades string
	links    string
	asJSON   bool
}

func newHealthCommand() *cobra.Command {
	var o healthOptions
	c := &cobra.Command{
		Use:   "health [--json]",
		Short: "Check that this version of the image works",
		Long: `Check what this version of the image needs to serve, by what is on the appliance
alone: whether GitHub can be reached is not looked at.

  config.env  can be read
  state       below /var can be read and written
  network     a network card is driven, and has an address if a cable is plugged in
  guest       the broker starts a guest, and the guest runs a program

runner-health.service runs this at every boot. A version that was installed by
runner-agent upgrade counts as good once it has passed. Until then the service
reboots when a check fails, and after three such boots the boot loader goes back
to the version before, whose status shows why.

With --json each check is an object on a line of its own, with the keys "check",
"ok", "error" and "seconds".

Exit status:
  0  all is well
  1  a check failed
  2  the command line is wrong`,
		Example: `  runner-agent health`,
		Args:    cli.Args(),
		RunE:    func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.BoolVar(&o.asJSON, "json", false, "print a JSON object a check")
	f.StringVar(&o.config, "config", layout.ConfigFile, "`file` with the settings, in systemd's EnvironmentFile syntax")
	f.StringVar(&o.socket, "socket", brokerapi.DefaultSocket, "unix socket `PATH` of the broker")
	f.StringVar(&o.state, "state-dir", "/var/lib/runner", "`DIR` of the appliance's state")
	f.StringVar(&o.upgrades, "upgrades", upgrade.DefaultDir, "`DIR` of the state of upgrades")
	f.StringVar(&o.links, "links", "/sys/class/net", "`DIR` in which the kernel lists network links")
	return c
}

// networkWait is how long a network card may take to get an address.
const networkWait = 2 * time.Minute

func (o *healthOptions) run(c *cobra.Command) error {
	version := osrelease.Read("/")["IMAGE_VERSION"]
	checks := []health.Check{
		health.Config(o.config),
		health.State(o.state, o.upgrades),
		health.Network(o.links, countAddresses, networkWait),
		health.Guest(o.socket),
	}

	// A check that hangs or crashes leaves this as the reason.
	before := func(name string) {
		if err := upgrade.WriteNote(o.upgrades, version, "its health check did not end: "+name); err != nil {
			fmt.Fprintln(c.ErrOrStderr(), "warning:", err)
		}
	}
	failed := health.Run(c.Context(), checks, before, func(r health.Result) { o.print(c, r) })
	if failed != nil {
		// State that cannot be written is one of the checks.
		_ = upgrade.WriteNote(o.upgrades, version, "its health check failed: "+failed.Error())
		return fmt.Errorf("cannot call this version good: %w", failed)
	}
	return upgrade.RemoveNote(o.upgrades)
}

func (o *healthOptions) print(c *cobra.Command, r health.Result) {
	if o.asJSON {
		_ = json.NewEncoder(c.OutOrStdout()).Encode(struct {
			health.Result
			Seconds float64 `json:"seconds"`
		}{r, r.Took.Seconds()})
		return
	}
	verdict := "ok"
	if !r.OK {
		verdict = r.Error
	}
	fmt.Fprintf(c.OutOrStdout(), "%-10s  %s (%s)\n", r.Check, verdict, r.Took.Round(time.Millisecond))
}

// countAddresses counts the addresses of a link by which other machines reach it.
func countAddresses(link string) (int, error) {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return 0, err
	}
	addresses, err := i.Addrs()
	if err != nil {
		return 0, err
	}

	n := 0
	for _, a := range addresses {
		if prefix, ok := a.(*net.IPNet); ok && prefix.IP.IsGlobalUnicast() {
			n++
		}
	}
	return n, nil
}
