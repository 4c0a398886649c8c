//go:build upgrade

package e2e

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/appliance"
	"github.com/mkappliance/mkappliance/ci/miniworker"
)

var cycles = flag.Int("upgrade.cycles", 5, "how often TestCycles upgrades and goes back")

const (
	// cyclesPatience bounds the first boot and ten upgrades with a job each.
	cyclesPatience = 90 * time.Minute
	// stepPatience bounds one upgrade under software emulation.
	stepPatience = 15 * time.Minute
)

// TestCycles upgrades one appliance from 0.1.0 to 0.2.0 and back, five times over: it
// stays the same runner, runs jobs after each boot, and fills neither /var nor the
// ESP.
func TestCycles(t *testing.T) {
	dir := os.Getenv("MKAPPLIANCE_TEST_UPGRADE")
	if dir == "" {
		t.Skip("MKAPPLIANCE_TEST_UPGRADE names no directory of ci/bake-upgrade: run it through 'make test-upgrade'")
	}
	program, err := filepath.Abs("../../bin/mkappliance")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), cyclesPatience)
	defer cancel()
	lab, err := appliance.New(ctx, t.TempDir(), filepath.Join(dir, "old.img"), program, appliance.Options{
		Config: []string{"RUNNER_UPGRADE_SOURCE=" + appliance.ChannelURL + "/channel"}})
	if err != nil {
		t.Fatal(err)
	}
	lab.Channel = dir
	defer closeLab(t, lab)
	if err := errors.Join(lab.GitHubUp(), lab.Boot(ctx), lab.WaitSSH(ctx)); err != nil {
		t.Fatal(err)
	}

	m := &life{T: t, ctx: ctx, lab: lab}
	m.until("systemctl is-active --quiet runner.service")
	m.checkEtc("0.1.0")
	c := &cycler{life: m, identity: m.sh(longIdentity)}
	for n := 1; n <= *cycles; n++ {
		c.step(n, "0.2.0")
		c.step(n, "0.1.0")
		c.checkGrowth()
	}
	m.registrations(1)
	t.Log("times\n" + c.table.String())
}

// longIdentity prints what the appliance is to others.
const longIdentity = identityScript + `
ip -4 -o address show scope global | awk '{print $2, $4}'; ip route show default
sha256sum </var/lib/runner/host/ssh_host_ed25519_key`

// cycler takes an appliance from version to version.
type cycler struct {
	*life
	identity string
	first    usage // after the first cycle
	table    strings.Builder
}

// step has the appliance go to a version, and looks at it there.
func (c *cycler) step(n int, version string) {
	c.Helper()
	all := c.ctx
	ctx, cancel := context.WithTimeout(all, stepPatience)
	defer cancel()
	c.ctx = ctx
	defer func() { c.ctx = all }()

	before := c.sh(longIdentity)
	if before != c.identity {
		c.Errorf("before upgrade to %s of cycle %d\n%s\nat the start\n%s", version, n, before, c.identity)
	}

	start := time.Now()
	if version == "0.2.0" {
		c.sh("systemctl start --no-block runner-upgrade.service")
	} else {
		// No timer goes back.
		c.sh("systemd-run --quiet --collect --unit=back runner-agent upgrade --to " + version)
	}
	c.until("test $(" + versionScript + ") = " + version)
	c.until("systemctl is-active --quiet runner.service")
	if err := c.lab.GitHub.WaitOnline(c.ctx, 1); err != nil {
		c.Fatal(err)
	}
	online := time.Since(start)
	c.until("systemctl is-active --quiet systemd-bless-boot.service")
	good := time.Since(start)

	if after := c.sh(longIdentity); after != before {
		c.Errorf("before upgrade to %s of cycle %d\n%s\nafter it\n%s", version, n, before, after)
	}
	c.registrations(1)
	c.checkEtc(version)
	c.checkESP(version)
	if failed := c.sh("systemctl --failed --no-legend --plain"); failed != "" {
		c.Errorf("failed units: %s", failed)
	}
	job := c.checkJob()
	installed := c.sh("journalctl -b -1 -o cat --no-pager -u runner-upgrade -u back | grep '^installed version' | tail -1")
	fmt.Fprintf(&c.table, "cycle %d to %s: online %3.0f s, good %3.0f s, job %2.0f s; %s\n",
		n, version, online.Seconds(), good.Seconds(), job.Seconds(), installed)
	c.Log(c.table.String())
}

// checkEtc compares files of /etc that are particular to a version with those in
// effect.
func (m *life) checkEtc(version string) {
	m.Helper()
	want := map[string]string{
		"0.1.0": "changed 0.1.0\nadded",
		"0.2.0": "changed 0.2.0\nadded 0.2.0",
	}[version]
	got := m.sh("echo changed $(cat /etc/changed-by-upgrade); echo added $(cat /etc/added-by-upgrade 2>/dev/null)")
	if got != want {
		m.Errorf("version %s has in /etc %q, want %q", version, got, want)
	}
}

// checkESP compares the files on the ESP with those that there are after an upgrade to
// a version. The boot loader prefers the newest that has not failed: the newer one is
// given up to go back.
func (m *life) checkESP(version string) {
	m.Helper()
	newer := map[string]string{"0.1.0": "runner_0.2.0+0.efi", "0.2.0": "runner_0.2.0.efi"}[version]
	want := strings.Join([]string{"EFI/BOOT/BOOTX64.EFI", "EFI/Linux/runner_0.1.0.efi", "EFI/Linux/" + newer,
		"EFI/systemd/systemd-bootx64.efi", "loader/loader.conf", "loader/random-seed", "startup.nsh"}, "\n")
	if got := m.sh(listESP); got != want {
		m.Errorf("version %s has on the ESP\n%s\nwant\n%s", version, got, want)
	}
}

// listESP prints the files of the ESP.
const listESP = `mkdir -p /run/esp
mount /dev/vda1 /run/esp
find /run/esp -type f -printf '%P\n' | LC_ALL=C sort
umount /run/esp`

// checkJob has the appliance run a job, and returns how long that took.
func (c *cycler) checkJob() time.Duration {
	c.Helper()
	start := time.Now()
	result := c.runJob(
		miniworker.Job{Name: "after the upgrade", Steps: []miniworker.Step{{Name: "hello", Run: "echo hello"}}},
	)
	took := time.Since(start)
	c.printed(result, map[string]string{"hello": "hello"})
	return took
}

// usage is how much of /var is used, in KiB.
type usage struct{ logs, rest int64 }

// checkGrowth compares /var with what it was after the first cycle.
func (c *cycler) checkGrowth() {
	c.Helper()
	text := c.sh(
		"sync; du -sxk /var | cut -f 1; du -sxk /var/log | cut -f 1; du -xk --max-depth=3 /var | sort -n | tail -12",
	)
	lines := strings.SplitN(text, "\n", 3)
	all, err := strconv.ParseInt(lines[0], 10, 64)
	logs, err2 := strconv.ParseInt(lines[1], 10, 64)
	if err := cmp.Or(err, err2); err != nil {
		c.Fatal(err)
	}
	now := usage{logs: logs, rest: all - logs}
	fmt.Fprintf(&c.table, "/var has %d KiB of logs and %d KiB else\n", now.logs, now.rest)
	c.Log(lines[2])
	if c.first == (usage{}) {
		c.first = now
		return
	}

	// The actions runner logs 8 KiB a start, and cloud-init keeps a little of each
	// boot: 16 KiB a cycle were measured. A forgotten hash tree has 5 MiB.
	const tolerance = 256
	// journald writes files of 8 MiB, up to a bound of its own.
	const logTolerance = 2 * 8 << 10
	if now.rest > c.first.rest+tolerance || now.logs > c.first.logs+logTolerance {
		c.Errorf("/var holds %d KiB of logs and %d KiB else, %d and %d KiB after the first cycle",
			now.logs, now.rest, c.first.logs, c.first.rest)
	}
}
