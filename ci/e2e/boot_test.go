// Package e2e boots the baked image and watches it from outside.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/appliance"
)

// patience bounds the whole life of the machine: two boots under software
// emulation, on a machine that may have other things to do.
const patience = 15 * time.Minute

// TestBoot follows one appliance through its life: first boot without GitHub,
// registration, a container job, registration anew, a reboot.
func TestBoot(t *testing.T) {
	image := os.Getenv("MKAPPLIANCE_TEST_IMAGE")
	if image == "" {
		t.Skip("MKAPPLIANCE_TEST_IMAGE names no baked image: run it through 'make test'")
	}
	program, err := filepath.Abs("../../bin/mkappliance")
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	lab, err := appliance.New(ctx, t.TempDir(), image, program, appliance.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeLab(t, lab)
	if err := errors.Join(lab.Boot(ctx), lab.WaitSSH(ctx)); err != nil {
		t.Fatal(err)
	}

	// Each chapter starts from the state that the one before has left.
	for _, chapter := range []struct {
		summary string
		test    func(*life)
	}{
		{summary: "GitHubDown", test: (*life).gitHubDown},
		{summary: "Register", test: (*life).register},
		{summary: "Root", test: (*life).root},
		{summary: "Job", test: (*life).job},
		{summary: "ContainerJob", test: (*life).containerJob},
		{summary: "Services", test: (*life).services},
		{summary: "Limits", test: (*life).limits},
		{summary: "Escape", test: (*life).escape},
		{summary: "Surface", test: (*life).surface},
		{summary: "RunByHand", test: (*life).runByHand},
		{summary: "OnlyContainers", test: (*life).onlyContainers},
		{summary: "OnHost", test: (*life).onHost},
		{summary: "RegisterAgain", test: (*life).registerAgain},
		{summary: "Reboot", test: (*life).reboot},
		{summary: "Secrets", test: (*life).secrets},
		{summary: "State", test: (*life).state},
	} {
		start := time.Now()
		if !t.Run(chapter.summary, func(t *testing.T) { chapter.test(&life{T: t, ctx: ctx, lab: lab}) }) {
			t.Fatalf("not tested further than %s", chapter.summary)
		}
		t.Logf("%s took %v", chapter.summary, time.Since(start).Round(time.Second/10))
	}
}

// closeLab switches the machine off, after a look at why a test failed.
func closeLab(t *testing.T, lab *appliance.Lab) {
	t.Helper()
	if t.Failed() {
		t.Log(lab.Evidence(context.WithoutCancel(t.Context())))
	}
	if err := lab.Close(); err != nil {
		t.Error(err)
	}
}

// life is one chapter of the story, with what the chapters share.
type life struct {
	*testing.T
	ctx context.Context
	lab *appliance.Lab
}

// sh runs a script in the machine and fails the test if it fails.
func (m *life) sh(script string) string {
	m.Helper()
	out, err := m.lab.SSH(m.ctx, script)
	if err != nil {
		m.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// until waits until a script succeeds in the machine.
func (m *life) until(script string) {
	m.Helper()
	if err := m.lab.Until(m.ctx, script); err != nil {
		m.Fatal(err)
	}
}

func (m *life) registrations(want int) {
	m.Helper()
	if got := m.lab.Registrations(); got != want {
		m.Errorf("GitHub saw %d registrations, want %d", got, want)
	}
}

// gitHubDown: the unit keeps trying while GitHub does not answer, says so in
// one line each time, and writes no marker.
func (m *life) gitHubDown() {
	m.until("systemctl show -P NRestarts runner-install.service | grep -qv '^0$'")
	if got := m.sh("systemctl is-active runner-install.service || true"); got != "activating" {
		m.Errorf("runner-install.service is %s, want activating", got)
	}
	m.sh("test ! -e /var/lib/runner/installed")
	if got := m.sh("systemctl is-active runner.service || true"); got == "active" {
		m.Error("runner.service is active without a registration")
	}
	config := m.sh("stat -c '%a %U' /etc/runner/config.env; cat /etc/runner/config.env")
	if !strings.HasPrefix(config, "600 root\n") || !strings.Contains(config, "/"+appliance.Repository) {
		m.Errorf("cloud-init wrote\n%s", config)
	}
	m.registrations(0)
}

// register: once GitHub is up there is exactly one registration, the marker and
// a listening runner, and the token was on no command line meanwhile.
func (m *life) register() {
	// The watcher reads the token from a file, or it would find itself. It counts
	// its rounds, so that a watcher that never ran is not taken for silence.
	m.sh(`umask 077; sed -n 's/^RUNNER_REGISTRATION_TOKEN=//p' /etc/runner/config.env >/run/token
systemd-run --quiet --collect --unit=watch-argv sh -c '
    while :; do grep -lsaFf /run/token /proc/[0-9]*/cmdline >>/run/seen; echo >>/run/rounds; done'`)
	if err := m.lab.GitHubUp(); err != nil {
		m.Fatal(err)
	}
	m.until("test -s /var/lib/runner/installed")
	m.until("systemctl is-active --quiet runner.service")
	if err := m.lab.GitHub.WaitOnline(m.ctx, 1); err != nil {
		m.Fatal(err)
	}

	seen := m.sh("systemctl stop watch-argv; wc -l </run/rounds; cat /run/seen")
	rounds, argv, _ := strings.Cut(seen, "\n")
	if argv != "" || rounds == "0" {
		m.Errorf("after %s looks at every command line the token was seen in %q", rounds, argv)
	}

	m.registrations(1)
	if runners := m.lab.GitHub.Runners(); len(runners) != 1 || runners[0].Name != appliance.Hostname {
		m.Errorf("GitHub has runners %+v, want one named after the host", runners)
	}
	if marker := m.sh("cat /var/lib/runner/installed"); !strings.Contains(marker, `"name":"`+appliance.Hostname+`"`) {
		m.Errorf("the marker says %s", marker)
	}
}

// root: the root file system is read-only and checked, and slot B exists.
func (m *life) root() {
	mounts := m.sh("grep -E '^[^ ]+ (/|/etc|/var) ' /proc/mounts; veritysetup status root; " +
		"lsblk -n -o PARTLABEL,SIZE /dev/vda")
	m.Log("mounts, verity and partitions:\n" + mounts)
	for _, want := range []string{"/dev/mapper/root / erofs ro,", "overlay /etc overlay", " /var ext4 rw,nosuid,nodev",
		"status:      verified", "mode:        readonly", "_empty"} {
		if !strings.Contains(mounts, want) {
			m.Errorf("no %q there", want)
		}
	}
	if out, err := m.lab.SSH(m.ctx, "touch /usr/x"); err == nil {
		m.Errorf("the root file system could be written: %s", out)
	}
	// The image says which agent it carries, and has the pages that units name.
	m.sh(`. /etc/os-release && test -n "$RUNNER_AGENT_VERSION" &&
		runner-agent --version | grep -F " version $RUNNER_AGENT_VERSION (commit $RUNNER_AGENT_COMMIT,"`)
	m.sh("systemctl show -P Documentation runner-guestd.service | grep -F 'man:runner-agent-broker(1)' && " +
		"test -s /usr/local/share/man/man1/runner-agent-broker.1")
	if failed := m.sh("systemctl --failed --no-legend --plain"); failed != "" {
		m.Errorf("failed units:\n%s", failed)
	}
}

// runByHand: one command in a fresh guest, its status passed on.
func (m *life) runByHand() {
	out := m.sh(`ci-nspawn-run --cwd /tmp --env GREETING='hello  world' -- \
    sh -c 'pwd; echo "$GREETING"; exit 3' || echo "status $?"`)
	if out != "/tmp\nhello  world\nstatus 3" {
		m.Errorf("ci-nspawn-run printed %q", out)
	}
	m.noResidue()
}

// registerAgain: without the marker the unit registers once more, although the
// old registration is still there.
func (m *life) registerAgain() {
	m.sh("rm /var/lib/runner/installed; systemctl restart runner-install.service")
	m.until("test -s /var/lib/runner/installed && systemctl is-active --quiet runner.service")
	m.registrations(2)
	if runners := m.lab.GitHub.Runners(); len(runners) != 1 {
		m.Errorf("GitHub has %d runners, want the old one replaced", len(runners))
	}
	if err := m.lab.GitHub.WaitOnline(m.ctx, 1); err != nil {
		m.Fatal(err)
	}
	m.sh("systemctl restart runner-install.service")
	m.registrations(2)
}

// identityScript prints what must survive a reboot.
const identityScript = "sha256sum </etc/runner/config.env; cat /etc/machine-id; hostname; " +
	"ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null; sha256sum </var/lib/runner/installed"

// reboot: the appliance comes back as itself and does not register again.
func (m *life) reboot() {
	before := m.sh(identityScript)
	boot := m.sh("cat /proc/sys/kernel/random/boot_id")

	// The connection ends with the machine, so an error means nothing here.
	_, _ = m.lab.SSH(m.ctx, "systemctl reboot")
	m.until("test $(cat /proc/sys/kernel/random/boot_id) != " + boot)
	m.until("systemctl is-active --quiet runner.service")
	if after := m.sh(identityScript); after != before {
		m.Errorf("before the reboot\n%s\nafter it\n%s", before, after)
	}

	if id := strings.Split(before, "\n")[1]; len(id) != 32 {
		m.Errorf("machine-id is %q", id)
	}
	if err := m.lab.GitHub.WaitOnline(m.ctx, 1); err != nil {
		m.Fatal(err)
	}
	m.registrations(2)
	mounts := m.sh("grep -E '^[^ ]+ / ' /proc/mounts; veritysetup status root | grep status:; " +
		"systemctl --failed --no-legend --plain")
	if !strings.Contains(mounts, " erofs ro,") || !strings.Contains(mounts, "verified") ||
		len(strings.Split(mounts, "\n")) != 2 {
		m.Errorf("after the reboot:\n%s", mounts)
	}
}

// secrets: the token is neither in the journal nor on the console nor in the
// image.
func (m *life) secrets() {
	found := m.sh("journalctl --no-pager -o export -q | grep -caF " + appliance.Token[:20] + " || true")
	if found != "0" {
		m.Errorf("%s lines of the journal hold the token", found)
	}
	if strings.Contains(m.lab.Console.String(), appliance.Token) {
		m.Error("the token was printed on the console")
	}

	image, err := os.Open(os.Getenv("MKAPPLIANCE_TEST_IMAGE"))
	if err != nil {
		m.Fatal(err)
	}
	defer image.Close()
	if at, err := search(image, []byte(appliance.Token)); err != nil || at >= 0 {
		m.Errorf("the token is in the image at byte %d, %v", at, err)
	}
}

// search returns the offset of the first occurrence of a text, or -1.
func search(r io.Reader, text []byte) (int64, error) {
	buf := make([]byte, 1<<20)
	kept, start := 0, int64(0)
	for {
		n, err := io.ReadFull(r, buf[kept:])
		if i := bytes.Index(buf[:kept+n], text); i >= 0 {
			return start + int64(i), nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return -1, nil
		}
		if err != nil {
			return -1, err
		}

		// An occurrence may lie across two reads.
		start += int64(len(buf) - len(text))
		kept = copy(buf, buf[len(buf)-len(text):])
	}
}

func TestSearch(t *testing.T) {
	data := append(make([]byte, 1<<20-3), "needle and more"...)
	if at, err := search(bytes.NewReader(data), []byte("needle")); at != 1<<20-3 || err != nil {
		t.Errorf("got %d, %v", at, err)
	}
	if at, err := search(bytes.NewReader(data), []byte("thread")); at != -1 || err != nil {
		t.Errorf("got %d, %v", at, err)
	}
}
