//go:build upgrade

package powercut_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/appliance"
	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/nbd"
	"github.com/mkappliance/mkappliance/ci/powercut"
)

// recording is the life of one appliance: its first boot, and one upgrade.
type recording struct {
	// Online, Started and Done are places in the log: the appliance is online, the
	// upgrade starts, the new version has proven itself.
	Online, Started, Done int
	// Runners are those that GitHub has after the registration.
	Runners []fakegithub.Runner

	dir string
	log *powercut.Log
}

func (r *recording) path(name string) string { return filepath.Join(r.dir, name) }

// diskSize is the size of the appliance's disk, in bytes.
const diskSize = 8 << 30

// openRecording returns the recording of a directory, which it makes unless it is
// there.
func openRecording(t *testing.T, dir, updates string) *recording {
	t.Helper()
	r := &recording{dir: dir}
	if _, err := os.Stat(r.path("recording.json")); errors.Is(err, os.ErrNotExist) {
		r.record(t, updates)
	}

	data, err := os.ReadFile(r.path("recording.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, r); err != nil {
		t.Fatal(err)
	}
	if r.log, err = powercut.OpenLog(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.log.Close() })
	return r
}

func (r *recording) record(t *testing.T, updates string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2**patience)
	defer cancel()
	lab := newLab(t, r.path("lab"), "", appliance.Options{Disk: r.path("nbd")})
	lab.Channel = updates
	log, err := powercut.CreateLog(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	disk := copyDisk(t, filepath.Join(updates, "old.img"), r.path("disk.img"))
	recorder, err := powercut.NewRecorder(disk, log, lab.Registrations)
	if err != nil {
		t.Fatal(err)
	}
	server, err := nbd.Serve(r.path("nbd"), recorder)
	if err != nil {
		t.Fatal(err)
	}

	r.live(ctx, t, lab, recorder)
	if err := errors.Join(lab.Close(), server.Close(), log.Save(), log.Close()); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path("recording.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.path("disk.img")); err != nil {
		t.Fatal(err)
	}
}

// live has the appliance boot, register and upgrade itself.
func (r *recording) live(ctx context.Context, t *testing.T, lab *appliance.Lab, recorder *powercut.Recorder) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Log(lab.Evidence(context.WithoutCancel(ctx)))
			_ = lab.Close()
		}
	}()
	start := time.Now()
	if err := errors.Join(lab.GitHubUp(), lab.Boot(ctx), lab.WaitSSH(ctx),
		lab.Until(ctx, "systemctl is-active --quiet runner.service"), lab.GitHub.WaitOnline(ctx, 1)); err != nil {
		t.Fatal(err)
	}
	r.Online = recorder.Entries()
	t.Logf("online after %v and %d requests", time.Since(start).Round(time.Second), r.Online)

	// The first boot's own work ends before the upgrade begins.
	if err := lab.Until(ctx, "systemctl is-system-running"); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.SSH(ctx, "echo RUNNER_UPGRADE_SOURCE="+appliance.ChannelURL+
		"/channel >>/etc/runner/config.env; sync"); err != nil {
		t.Fatal(err)
	}
	r.Started = recorder.Entries()
	if err := upgrade(ctx, lab); err != nil {
		t.Fatal(err)
	}
	r.Done = recorder.Entries()
	r.Runners = lab.GitHub.Runners()
	t.Logf("upgraded after %v and %d requests", time.Since(start).Round(time.Second), r.Done)
}

// upgrade has the appliance install 0.2.0 and waits until that has proven itself.
func upgrade(ctx context.Context, lab *appliance.Lab) error {
	_, err := lab.SSH(ctx, "systemctl start --no-block runner-upgrade.service")
	return errors.Join(err,
		lab.Until(ctx, "grep -q ^IMAGE_VERSION=0.2.0 /etc/os-release"),
		lab.Until(ctx, "systemctl is-active --quiet runner.service"),
		lab.Until(ctx, "systemctl is-active --quiet systemd-bless-boot.service"),
		lab.GitHub.WaitOnline(ctx, 1))
}

func newLab(t *testing.T, dir, image string, options appliance.Options) *appliance.Lab {
	t.Helper()
	program, err := filepath.Abs("../../bin/mkappliance")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lab, err := appliance.New(t.Context(), dir, image, program, options)
	if err != nil {
		t.Fatal(err)
	}
	return lab
}

// copyDisk copies an image to a disk, of which the rest is empty.
func copyDisk(t *testing.T, from, to string) *os.File {
	t.Helper()
	source, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := powercut.CopySparse(source, to, diskSize); err != nil {
		t.Fatal(err)
	}
	disk, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Close() })
	return disk
}
