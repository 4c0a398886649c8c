//go:build upgrade

package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/appliance"
)

// TestUpgrade has an appliance upgrade itself: runner-upgrade.service finds a
// version, installs it and reboots, and the appliance is the same one afterwards.
func TestUpgrade(t *testing.T) {
	dir := os.Getenv("MKAPPLIANCE_TEST_UPGRADE")
	if dir == "" {
		t.Skip("MKAPPLIANCE_TEST_UPGRADE names no directory of ci/bake-upgrade: run it through 'make test-upgrade'")
	}
	program, err := filepath.Abs("../../bin/mkappliance")
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	lab, err := appliance.New(ctx, t.TempDir(), filepath.Join(dir, "old.img"), program, appliance.Options{})
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
	m.upgrade()
	m.rollBack()
}

const versionScript = "sed -n s/^IMAGE_VERSION=//p /etc/os-release"

func (m *life) upgrade() {
	const check = "runner-agent upgrade --check; echo $?"
	m.sh("echo RUNNER_UPGRADE_SOURCE=" + appliance.ChannelURL + "/channel >>/etc/runner/config.env")
	if got := m.sh(check); got != "version 0.2.0 can be installed, severity low\n3" {
		m.Fatalf("before the upgrade: %s", got)
	}
	before := m.sh(identityScript)

	start := time.Now()
	m.sh("systemctl start --no-block runner-upgrade.service")
	m.until("test $(" + versionScript + ") = 0.2.0")
	m.until("systemctl is-active --quiet runner.service")
	m.Logf("back online after %v\n%s", time.Since(start).Round(time.Second),
		m.sh("journalctl -b -1 -u runner-upgrade -o cat --no-pager"))
	if err := m.lab.GitHub.WaitOnline(m.ctx, 1); err != nil {
		m.Fatal(err)
	}

	if after := m.sh(identityScript); after != before {
		m.Errorf("before the upgrade\n%s\nafter it\n%s", before, after)
	}
	m.registrations(1)
	// The boot loader no longer counts once the version has proven itself.
	m.until("systemctl is-active --quiet systemd-bless-boot.service")
	if got := m.sh(check); got != "version 0.2.0 has booted well\nversion 0.2.0 is the newest\n0" {
		m.Errorf("after the upgrade: %s", got)
	}
	labels := m.sh("lsblk -no PARTLABEL | grep runner_ | sort | tr '\\n' ' '")
	if strings.TrimSpace(labels) != "runner_0.1.0 runner_0.1.0_verity runner_0.2.0 runner_0.2.0_verity" {
		m.Errorf("the slots are %s", labels)
	}
	if failed := m.sh("systemctl --failed --no-legend --plain"); failed != "" {
		m.Errorf("failed units: %s", failed)
	}
}

// rollBack: a version whose health check fails is left again after three boots, with
// the reason, and not installed a second time.
func (m *life) rollBack() {
	m.sh("sed -i 's,^RUNNER_UPGRADE_SOURCE=.*,RUNNER_UPGRADE_SOURCE=" + appliance.ChannelURL + "/broken,' " +
		"$(readlink -f /etc/runner/config.env)")
	before := m.sh(identityScript)
	boot := m.sh("cat /proc/sys/kernel/random/boot_id")

	start := time.Now()
	m.sh("systemctl start --no-block runner-upgrade.service")
	m.until("test $(" + versionScript + ") = 0.3.0")
	m.until("test $(" + versionScript + ") = 0.2.0")
	m.until("systemctl is-active --quiet runner.service")
	m.Logf("back at the version before after %v\n%s", time.Since(start).Round(time.Second),
		m.sh("journalctl --list-boots --no-pager"))

	if after := m.sh(identityScript); after != before {
		m.Errorf("before the upgrade\n%s\nafter it\n%s", before, after)
	}
	m.registrations(1)
	m.until("systemctl start runner-upgrade.service; runner-agent status | grep -q 'version 0.3.0 failed'")
	const reason = "its health check failed: guest: "
	if got := m.sh("runner-agent status || true"); !strings.Contains(got, reason) {
		m.Errorf("no %q in\n%s", reason, got)
	}
	if got := m.sh(versionScript + "; cat /proc/sys/kernel/random/boot_id"); strings.HasSuffix(got, boot) ||
		!strings.HasPrefix(got, "0.2.0\n") {
		m.Errorf("version and boot are %q, those before the upgrade 0.2.0 and %q", got, boot)
	}
}
