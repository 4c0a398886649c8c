//go:build upgrade

package e2e

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs"

	"github.com/mkappliance/mkappliance/ci/appliance"
	"github.com/mkappliance/mkappliance/internal/run"
)

// TestStickAndReset has an appliance without any setting upgrade itself from a stick
// that is plugged in, and then resets it: it is another appliance, of the new
// version.
func TestStickAndReset(t *testing.T) {
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
	image := filepath.Join(dir, "old.img")
	sticks := []string{makeStick(ctx, t, filepath.Join(dir, "channel")), copyESP(t, image)}
	lab, err := appliance.New(ctx, t.TempDir(), image, program, appliance.Options{Sticks: sticks})
	if err != nil {
		t.Fatal(err)
	}
	defer closeLab(t, lab)
	start := time.Now()
	if err := errors.Join(lab.GitHubUp(), lab.Boot(ctx)); err != nil {
		t.Fatal(err)
	}

	m := &life{T: t, ctx: ctx, lab: lab}
	m.until("test $(" + versionScript + ") = 0.2.0")
	m.until("systemctl is-active --quiet runner.service systemd-bless-boot.service")
	t.Logf("online with the version of the stick after %v\n%s", time.Since(start).Round(time.Second),
		m.sh("journalctl -b -1 -u runner-upgrade -o cat --no-pager"))
	m.stick()
	m.strangers()
	m.reset()
	m.strangers()
}

// makeStick returns the image of a file system with the files of a directory.
func makeStick(ctx context.Context, t *testing.T, dir string) string {
	t.Helper()
	size := int64(64 << 20)
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size() + info.Size()/16
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "stick.img")
	if err := (run.Local{}).Exec(ctx, run.Cmd{Args: []string{"mkfs.ext4", "-q", "-L", "RUNNER_UPDATE", "-d", dir, image,
		strconv.FormatInt(size>>10, 10)}}); err != nil {
		t.Fatal(err)
	}
	return image
}

// copyESP returns a file system of type vfat, which the test has no tool to make.
func copyESP(t *testing.T, image string) string {
	t.Helper()
	disk, err := diskfs.Open(image, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	table, err := disk.GetPartitionTable()
	if err != nil {
		t.Fatal(err)
	}

	esp := filepath.Join(t.TempDir(), "esp.img")
	to, err := os.Create(esp)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := table.GetPartitions()[0].ReadContents(disk.Backend, to); err != nil {
		t.Fatal(err)
	}
	return esp
}

// stick: the running version is the newest one of the stick, which is mounted
// nowhere; other types of file systems are mounted or refused; a setting forbids it.
func (m *life) stick() {
	// The unit, which the stick has started once more, holds the disk.
	m.until("test $(systemctl show -P ActiveState runner-upgrade.service) = inactive")
	const check = "runner-agent upgrade --check 2>&1; echo $?"
	if got := m.sh(check); !strings.HasSuffix(got, "version 0.2.0 is the newest\n0") {
		m.Errorf("with the stick: %s", got)
	}
	if got := m.sh("grep /dev/vdc /proc/mounts || true"); got != "" {
		m.Errorf("the stick is mounted: %s", got)
	}

	link := func(device string) string {
		return "ln -sfn /dev/" + device + " /dev/disk/by-label/RUNNER_UPDATE; " + check
	}
	// The seed has the file system of a CD.
	for device, fsType := range map[string]string{"vdb": "iso9660", "vdd": "vfat"} {
		got := m.sh("sed -n s/^E:ID_FS_TYPE=//p /run/udev/data/b$(lsblk -dno MAJ:MIN /dev/" + device +
			" | tr -d ' '); " + link(device))
		want := fsType + "\nrunner-agent: error: cannot read index.json.minisig of /dev/" + device +
			": no such file or directory\n1"
		if got != want {
			m.Errorf("%s: got %s, want %s", device, got, want)
		}
	}
	// The disk has none.
	got := m.sh(link("vda"))
	if want := `warning: cannot mount file system RUNNER_UPDATE: /dev/vda has a file system of type "", it must ` +
		`be`; !strings.
		Contains(got, want) ||
		!strings.HasSuffix(got, "\n2") {
		m.Errorf("with a disk: %s", got)
	}
	m.sh("ln -sfn /dev/vdc /dev/disk/by-label/RUNNER_UPDATE; echo RUNNER_UPGRADE_USB=false >>/etc/runner/config.env")
	if got := m.sh(check); !strings.Contains(got, "there is no source; ") || !strings.HasSuffix(got, "\n2") {
		m.Errorf("with RUNNER_UPGRADE_USB=false: %s", got)
	}
}

// reset: the runner is removed at GitHub, the next boot is a first one, and nothing
// of the appliance before it is left.
func (m *life) reset() {
	const planted = "/root/.bash_history /home/ann/file /var/surprise /var/lib/runner/tools/node/x " +
		"/var/lib/runner/jobs/j " +
		"/var/lib/runner/work/w /var/log/other.log"
	m.sh("for f in " + planted + `; do mkdir -p "$(dirname $f)" && echo x >$f; done`)
	before := strings.Split(m.sh(identityScript), "\n")
	boot := m.sh("cat /proc/sys/kernel/random/boot_id")
	const unconfirmed = "runner-agent reset </dev/null 2>&1; echo $?"
	if got := m.sh(unconfirmed); !strings.HasSuffix(got, "add --yes\n3") || strings.Contains(got, "No seed") {
		m.Errorf("without --yes: %s", got)
	}
	if got := m.sh("rm /dev/disk/by-label/CIDATA; " + unconfirmed); !strings.Contains(got, "No seed is attached") {
		m.Errorf("without a seed: %s", got)
	}
	m.sh("runner-agent reset --dry-run | grep '^removed  /var/surprise$'; ls " + planted)

	start := time.Now()
	// The connection may end with the machine, so an error means nothing here.
	out, _ := m.lab.SSH(m.ctx, "runner-agent reset --yes")
	m.Log(out)
	if !strings.Contains(out, "Runner removed successfully") {
		m.Errorf("the runner was not removed at GitHub")
	}
	m.until("test $(cat /proc/sys/kernel/random/boot_id) != " + boot)
	m.until("systemctl is-active --quiet runner.service")
	if err := m.lab.GitHub.WaitOnline(m.ctx, 1); err != nil {
		m.Fatal(err)
	}
	m.Logf("reset and online after %v\n%s", time.Since(start).Round(time.Second),
		m.sh("journalctl -b -u runner-reset -o cat --no-pager"))

	m.registrations(2)
	if runners := m.lab.GitHub.Runners(); len(runners) != 1 {
		m.Errorf("GitHub has %d runners, want the old one removed", len(runners))
	}
	after := strings.Split(m.sh(identityScript), "\n")
	if len(after) != len(before) {
		m.Fatalf("the identity is %q, and was %q", after, before)
	}
	for i, line := range after {
		// The host name is the seed's, and so are the settings, but for a line that was
		// added. ssh-keyscan prints its own version, too.
		if same := line == before[i]; same != (i == 2 || strings.HasPrefix(line, "#")) {
			m.Errorf("%q was %q before the reset", line, before[i])
		}
	}
	if got := m.sh("ls -d " + planted + " /var/lib/runner/reset.json 2>/dev/null || true"); got != "" {
		m.Errorf("the reset has left %s", got)
	}
	m.sh("test -s /root/.profile; systemctl is-system-running --wait || true")
	if failed := m.sh("systemctl --failed --no-legend --plain"); failed != "" {
		m.Errorf("failed units: %s", failed)
	}
	if got := m.sh("journalctl --list-boots --no-pager -q | wc -l; " + versionScript); got != "1\n0.2.0" {
		m.Errorf("boots in the journal and version are %q", got)
	}

	// A reset holds for one boot.
	m.reboots(m.sh(identityScript))
}

// reboots: after a reboot the appliance has this identity.
func (m *life) reboots(identity string) {
	boot := m.sh("cat /proc/sys/kernel/random/boot_id")
	_, _ = m.lab.SSH(m.ctx, "systemctl reboot")
	m.until("test $(cat /proc/sys/kernel/random/boot_id) != " + boot)
	m.until("systemctl is-active --quiet runner.service")
	if got := m.sh(identityScript); got != identity {
		m.Errorf("before the reboot\n%s\nafter it\n%s", identity, got)
	}
	m.registrations(2)
}
