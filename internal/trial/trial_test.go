package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/release"
)

// appliance answers scripts as a machine does that upgrades itself, with the defects that
// its first fields name.
type appliance struct {
	set *publish.Set // the new version
	key release.PrivateKey

	upgradeFails  bool // runner-upgrade.service
	newLeft       bool // the new version is left again
	forgets       bool // its machine id
	failedUnits   string
	brokenIsGood  bool
	noReason      bool
	installsAgain bool // the version that failed

	root    string // hash
	boots   int
	channel string // that runner-upgrade.service has
	failed  string // version
	t       *testing.T
}

func (a *appliance) run(_ context.Context, script string) (string, error) {
	switch {
	case strings.Contains(script, "--check"):
		return a.check(script), nil
	case strings.Contains(script, "systemctl start"):
		a.channel = brokenChannelName
		if strings.Contains(script, "/"+newChannelName+" ") {
			a.channel = newChannelName
		}
		return "", nil
	case script == stateScript:
		return a.state(), nil
	case script == identityScript:
		id := "aa"
		if a.forgets && a.boots > 1 {
			id = "bb"
		}
		return "machine-id " + id + "\nhost name x", nil
	case strings.Contains(script, "--list-boots"):
		return fmt.Sprint(a.boots), nil
	case strings.Contains(script, "--state=failed"):
		return a.failedUnits, nil
	case strings.Contains(script, "IMAGE_ID"):
		return "runner 1.1.0", nil
	}
	return "", nil
}

func (a *appliance) check(script string) string {
	version := a.set.Manifest.Version
	if strings.Contains(script, "/"+brokenChannelName+" ") {
		version += brokenSuffix
	}
	reason := "no luck"
	if a.noReason {
		reason = ""
	}
	if a.failed != "" && !a.installsAgain {
		version = ""
	}
	return fmt.Sprintf(`{"version":%q,"failed":[{"version":%q,"reason":%q}]}`, version, a.failed, reason)
}

// state returns the state after an upgrade that was asked for.
func (a *appliance) state() string {
	good, unit := "inactive", "inactive"
	switch a.channel {
	case newChannelName:
		switch {
		case a.upgradeFails:
			unit = "failed"
		case a.newLeft:
			a.boots, a.failed = a.boots+4, a.set.Manifest.Version
		case a.root == "old":
			a.boots, a.root = a.boots+1, a.set.Manifest.Verity.RootHash
		default:
			good = "active"
		}
	case brokenChannelName:
		a.boots += 4
		a.failed = a.set.Manifest.Version + brokenSuffix
		if a.brokenIsGood {
			a.root, good = a.brokenRoot(), "active"
		}
	}
	return fmt.Sprintf("boot %d\n%s\n%s\n%s", a.boots, a.root, good, unit)
}

func (a *appliance) brokenRoot() string {
	broken, err := makeBroken(a.t.TempDir(), a.set, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return broken.Manifest.Verity.RootHash
}

func TestTrial(t *testing.T) {
	key := newKey(t)
	set := signedSet(t, key)
	for _, test := range []struct {
		summary   string
		appliance appliance
		registers bool
		want      string // the error; empty for none
		phases    int
	}{
		{summary: "all is well", phases: 6},
		{summary: "units without a registration fail", phases: 6,
			appliance: appliance{failedUnits: "runner-install.service\nrunner.service"}},
		{summary: "another unit fails", phases: 4, appliance: appliance{failedUnits: "cron.service"},
			want: "cron.service failed:\n"},
		{summary: "a unit of an appliance that can register fails", phases: 4, registers: true,
			appliance: appliance{failedUnits: "runner.service"}, want: "runner.service failed:\n"},
		{summary: "the upgrade fails", phases: 2, appliance: appliance{upgradeFails: true},
			want: "runner-upgrade.service failed:\n"},
		{summary: "the new version is left", phases: 2, appliance: appliance{newLeft: true},
			want: "version 1.2.0 was left again: no luck"},
		{summary: "the machine id changes", phases: 4, appliance: appliance{forgets: true},
			want: "was not kept: machine-id aa; the appliance now has\nmachine-id bb\nhost name x"},
		{summary: "a broken version counts as good", phases: 5, appliance: appliance{brokenIsGood: true},
			want: "a version that cannot start guests counts as good"},
		{summary: "no reason is stated", phases: 5, appliance: appliance{noReason: true},
			want: "the appliance does not state why it left version 1.2.0.1"},
		{summary: "a version that failed is wanted again", phases: 5, appliance: appliance{installsAgain: true},
			want: "the appliance wants to install version 1.2.0.1, which failed"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			a := &test.appliance
			a.set, a.key, a.root, a.boots, a.t = set, key, "old", 1, t
			tr := &trial{
				Config: Config{
					Set:       set,
					Signer:    key,
					Channel:   "stable",
					Registers: test.registers,
					Progress:  progress.New(io.Discard, progress.Plain),
				},
				report: &Report{},
				sh:     a.run,
				ended:  make(chan struct{}),
				pause:  time.Millisecond,
			}
			tr.Machine.Dir = t.TempDir()
			if _, err := tr.channels(t.Context()); err != nil {
				t.Fatal(err)
			}

			err := tr.run(t.Context())
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if l := tr.report.Broken; l == nil || *l != (Left{Version: "1.2.0.1", Boots: 3, Reason: "no luck"}) {
					t.Errorf("got %+v", l)
				}
			} else if failed := (*FailedError)(nil); !errors.As(err, &failed) || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if len(tr.report.Phases) != test.phases {
				t.Errorf("got phases %v, want %d", tr.report.Phases, test.phases)
			}
		})
	}
}

// TestTrialEnds: neither a machine that is off nor the end of the time is waited for.
func TestTrialEnds(t *testing.T) {
	off := make(chan struct{})
	close(off)
	cause := errors.New("time is over")
	over, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for _, test := range []struct {
		summary string
		ctx     context.Context
		ended   chan struct{}
		want    string
	}{
		{summary: "off", ctx: t.Context(), ended: off,
			want: "the machine was switched off before the appliance has config.env"},
		{summary: "no time left", ctx: over, ended: make(chan struct{}),
			want: "cannot wait until the appliance has config.env: time is over; the last answer was: no route"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			tr := &trial{
				Config: Config{Progress: progress.New(io.Discard, progress.Plain)},
				report: &Report{},
				ended:  test.ended,
				sh:     func(context.Context, string) (string, error) { return "", errors.New("no route") },
				pause:  time.Hour,
			}
			if err := tr.run(test.ctx); err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}
