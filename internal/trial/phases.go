package trial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/release"
)

// markerPath is a file that only its being kept could explain after an upgrade.
const markerPath = layout.State + "/test-upgrade"

// boot waits for the first boot, leaves a marker, and notes what the appliance is.
func (t *trial) boot(ctx context.Context) (string, error) {
	if err := t.until(ctx, "the appliance has config.env", "test -s "+layout.ConfigFile); err != nil {
		return "", err
	}
	if err := t.waitRegistered(ctx); err != nil {
		return "", err
	}
	marker := strconv.FormatInt(time.Now().UnixNano(), 36)
	out, err := t.sh(ctx, "echo "+marker+" >"+markerPath+" && sync && "+
		". /etc/os-release && echo $IMAGE_ID $IMAGE_VERSION")
	if err != nil {
		return "", err
	}
	t.report.Image, t.report.From, _ = strings.Cut(out, " ")
	if t.before, err = t.identity(ctx); err != nil {
		return "", err
	}
	return t.report.Image + " " + t.report.From, nil
}

func (t *trial) waitRegistered(ctx context.Context) error {
	if !t.Registers {
		return nil
	}
	return t.until(ctx, "the runner is online",
		"test -s "+layout.Registered+" && systemctl is-active --quiet runner.service")
}

// upgrade has runner-upgrade.service install the new version, and waits for its first
// boot.
func (t *trial) upgrade(ctx context.Context) (string, error) {
	found, err := t.look(ctx, newChannelName, true)
	if err != nil {
		return "", err
	}
	if t.Set == nil {
		path := filepath.Join(t.Dir, release.ManifestName(t.report.Image, found.Version))
		if t.Set, err = publish.OpenSet(path); err != nil {
			return "", err
		}
	}
	m := t.Set.Manifest
	t.report.To = m.Version
	if found.Version != m.Version {
		return "", fmt.Errorf("the appliance wants to install version %q, not %s", found.Version, m.Version)
	}

	before, err := t.install(ctx, newChannelName)
	if err != nil {
		return "", err
	}
	err = t.await(ctx, "version "+m.Version+" boots", func(s state) (bool, error) {
		switch {
		case s.boot == before.boot && s.upgradeFailed:
			return false, t.journalError(ctx, "runner-upgrade.service failed", "-b -u runner-upgrade")
		case s.boot != before.boot && s.root == before.root:
			return false, t.wentBack(ctx, m.Version)
		}
		return s.root == m.Verity.RootHash, nil
	})
	if err != nil {
		return "", err
	}
	t.report.Installed, err = t.sh(ctx, "journalctl -b -1 -o cat --no-pager -u runner-upgrade | "+
		"grep '^installed version' | tail -1")
	return m.Version, err
}

// prove waits until the boot loader no longer counts the boots of the new version.
func (t *trial) prove(ctx context.Context) (string, error) {
	m := t.Set.Manifest
	err := t.await(ctx, "version "+m.Version+" counts as good", func(s state) (bool, error) {
		if s.root != m.Verity.RootHash {
			return false, t.wentBack(ctx, m.Version)
		}
		return s.good, nil
	})
	if err != nil {
		return "", err
	}
	return "counts as good", t.waitRegistered(ctx)
}

// goBack installs a broken version, and waits until the appliance has given it up.
func (t *trial) goBack(ctx context.Context) (string, error) {
	dir := t.path(brokenChannelName)
	broken, err := makeBroken(dir, t.Set, t.Signer)
	if err != nil {
		return "", err
	}
	if _, err := newChannel(ctx, dir, broken, t.Signer); err != nil {
		return "", err
	}
	left := &Left{Version: broken.Manifest.Version}
	found, err := t.look(ctx, brokenChannelName, true)
	if err != nil {
		return "", err
	}
	if found.Version != left.Version {
		return "", fmt.Errorf("the appliance wants to install version %q, not %s", found.Version, left.Version)
	}
	boots, err := t.boots(ctx)
	if err != nil {
		return "", err
	}

	before, err := t.install(ctx, brokenChannelName)
	if err != nil {
		return "", err
	}
	err = t.await(ctx, "the appliance goes back to "+t.report.To, func(s state) (bool, error) {
		switch {
		case s.boot == before.boot && s.upgradeFailed:
			return false, t.journalError(ctx, "runner-upgrade.service failed", "-b -u runner-upgrade")
		case s.root == broken.Manifest.Verity.RootHash && s.good:
			return false, errors.New("a version that cannot start guests counts as good")
		}
		return s.boot != before.boot && s.root == before.root, nil
	})
	if err != nil {
		return "", err
	}
	t.report.Broken = left
	return t.checkLeft(ctx, left, boots)
}

// checkLeft asks the appliance why it left the broken version, which it must not want
// to install again. boots is how many there were before.
func (t *trial) checkLeft(ctx context.Context, left *Left, boots int) (string, error) {
	now, err := t.boots(ctx)
	if err != nil {
		return "", err
	}
	left.Boots = now - boots - 1
	if left.Boots < 1 {
		return "", errors.New("the broken version was not booted")
	}
	found, err := t.look(ctx, brokenChannelName, false)
	if err != nil {
		return "", err
	}
	for _, f := range found.Failed {
		if f.Version == left.Version {
			left.Reason = f.Reason
		}
	}
	if left.Reason == "" {
		return "", fmt.Errorf("the appliance does not state why it left version %s", left.Version)
	}
	if found.Version != "" {
		return "", fmt.Errorf("the appliance wants to install version %s, which failed", found.Version)
	}
	return fmt.Sprintf("after %d boots: %s", left.Boots, left.Reason), t.waitRegistered(ctx)
}

// boots counts the boots that the journal has.
func (t *trial) boots(ctx context.Context) (int, error) {
	out, err := t.sh(ctx, "journalctl --list-boots -q --no-pager | wc -l")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(out)
}

// outcome is the part of the output of runner-agent upgrade --json that is looked at.
type outcome struct {
	Version string `json:"version"`
	Failed  []struct{ Version, Reason string }
}

// Exit statuses of runner-agent upgrade.
const (
	statusNewer   = 3 // --check found a version
	statusRefused = 4
)

// upgradeCommand returns the command line that upgrades from a channel.
func (t *trial) upgradeCommand(name string) string {
	return fmt.Sprintf("%s/runner-agent upgrade --source http://%s/%s --channel %s",
		layout.Programs, channelHost, name, t.Channel)
}

// look has the appliance look for a version in a channel, and reports what it found:
// one that is newer, or none.
func (t *trial) look(ctx context.Context, name string, newer bool) (outcome, error) {
	var o outcome
	out, err := t.check(ctx, name)
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal([]byte(out), &o); err != nil {
		return o, fmt.Errorf("cannot read the output of runner-agent upgrade: %w: %.200q", err, out)
	}
	if newer && o.Version == "" {
		return o, fmt.Errorf("the appliance finds no version of channel %q that is newer than its own, %s",
			t.Channel, t.report.From)
	}
	return o, nil
}

// checkTries is how often a check may fail: the disk may be locked for a moment.
const checkTries = 15

// check returns the output of a check that succeeded.
func (t *trial) check(ctx context.Context, name string) (string, error) {
	for try := 1; ; try++ {
		out, err := t.sh(ctx, t.upgradeCommand(name)+" --check --json")
		exit := (*ssh.ExitError)(nil)
		switch {
		case err == nil:
			return out, nil
		case errors.As(err, &exit) && exit.ExitStatus() == statusNewer:
			return out, nil
		case exit != nil && exit.ExitStatus() == statusRefused, try == checkTries, ctx.Err() != nil:
			return out, err
		}
		time.Sleep(t.pause)
	}
}

// install starts runner-upgrade.service with a channel, and returns the state before
// it. The unit's settings are those of the image.
func (t *trial) install(ctx context.Context, name string) (state, error) {
	before, err := t.state(ctx)
	if err != nil {
		return before, err
	}
	const dropIn = "/run/systemd/system/runner-upgrade.service.d"
	_, err = t.sh(ctx, "mkdir -p "+dropIn+" && printf '[Service]\\nExecStart=\\nExecStart=%s\\n' '"+
		t.upgradeCommand(name)+"' >"+dropIn+"/test-upgrade.conf && systemctl daemon-reload && "+
		"systemctl start --no-block runner-upgrade.service")
	return before, err
}

// wentBack returns the error of an appliance that left the new version.
func (t *trial) wentBack(ctx context.Context, version string) error {
	reason := "the appliance does not state a reason"
	if found, err := t.look(ctx, newChannelName, false); err == nil {
		for _, f := range found.Failed {
			if f.Version == version {
				reason = f.Reason
			}
		}
	}
	return fmt.Errorf("version %s was left again: %s", version, reason)
}

// journalError returns an error with the end of a part of the journal.
func (t *trial) journalError(ctx context.Context, text, part string) error {
	journal, _ := t.sh(ctx, "journalctl -o cat --no-pager -q -n 5 "+part)
	return fmt.Errorf("%s:\n%s", text, journal)
}
