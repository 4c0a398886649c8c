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
	lab.Channel = filepath.Join(dir, "channel")
	defer closeLab(t, lab)
	if err := errors.Join(lab.GitHubUp(), lab.Boot(ctx), lab.WaitSSH(ctx)); err != nil {
		t.Fatal(err)
	}

	m := &life{T: t, ctx: ctx, lab: lab}
	m.until("systemctl is-active --quiet runner.service")
	m.upgrade()
}

const versionScript = "sed -n s/^IMAGE_VERSION=//p /etc/os-release"

func (m *life) upgrade() {
	const check = "runner-agent upgrade --check; echo $?"
	m.sh("echo RUNNER_UPGRADE_SOURCE=" + appliance.ChannelURL + " >>/etc/runner/config.env")
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
	if got := m.sh(check); got != "version 0.2.0 is the newest\n0" {
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
