// Package e2e boots the baked image and watches it from outside.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/appliance"
	"github.com/mkappliance/mkappliance/ci/miniworker"
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
	lab, err := appliance.New(ctx, t.TempDir(), image, program)
	if err != nil {
		t.Fatal(err)
	}
	defer closeLab(t, lab)
	if err := lab.Boot(ctx); err != nil {
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
		{summary: "Limits", test: (*life).limits},
		{summary: "Escape", test: (*life).escape},
		{summary: "Surface", test: (*life).surface},
		{summary: "RunByHand", test: (*life).runByHand},
		{summary: "OwnGuest", test: (*life).ownGuest},
		{summary: "RegisterAgain", test: (*life).registerAgain},
		{summary: "Reboot", test: (*life).reboot},
		{summary: "Secrets", test: (*life).secrets},
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
		t.Logf("the end of the console:\n%s", lab.Console.Tail(80))
		journal, err := lab.SSH(context.WithoutCancel(t.Context()), "journalctl -b --no-pager -u 'runner*' | tail -60")
		if err == nil {
			t.Logf("the runner's journal:\n%s", journal)
		}
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
	m.until("true")
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

// job: a container job runs in a guest, the exit statuses of its steps come back,
// and the guest is removed.
func (m *life) job() {
	id := m.lab.GitHub.Enqueue(miniworker.Job{Name: "build", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{
			{Name: "write", Run: "echo hello >made-by-job"},
			{Name: "look", Run: "ps -eo args=; echo ==; cat /proc/1/comm; ls -d /usr/lib/runner/base || echo no base here",
				If: "always"},
			{Name: "fail", Run: "exit 7"},
		}})
	result, err := m.lab.GitHub.Wait(m.ctx, id)
	if err != nil {
		m.Fatal(err)
	}
	for _, step := range result.Steps {
		m.Log(step)
	}

	if step := result.Step("write"); step.Conclusion != miniworker.Success {
		m.Errorf("step write: %v", step)
	}
	const made = "/var/lib/runner/work/repo/repo/made-by-job"
	if got := m.sh("cat " + made + "; stat -c %U " + made); got != "hello\nrunner" {
		m.Errorf("the job's file and its owner are %q", got)
	}

	look := strings.Join(result.Step("look").Output, "\n")
	if strings.Contains(look, "Runner.Listener") || strings.Contains(look, "sshd") ||
		!strings.Contains(look, "guest-init") {
		m.Errorf("the step saw processes that are not its guest's, or not those:\n%s", look)
	}
	if !strings.Contains(look, "no base here") {
		m.Errorf("the step saw the host's root:\n%s", look)
	}

	if step := result.Step("fail"); step.Exit != 7 || step.Conclusion != miniworker.Failure {
		m.Errorf("step fail: %v", step)
	}
	if step := result.Step("Stop containers"); step.Conclusion != miniworker.Success {
		m.Errorf("clean-up: %v", step)
	}
	m.noResidue()
}

// limits: a job gets exactly as much memory and as many processes as config.env
// allows, and reaches neither the host nor its neighbours; the host goes on.
func (m *life) limits() {
	// The host has what the job looks for: an address of the metadata service
	// with something that listens there, and a way to reset the machine.
	m.sh("ip address add " + metadataAddr + "/32 dev lo; echo h >/proc/sysrq-trigger")
	reached := "reached " + metadataAddr + "/22\nreached 10.0.2.15/22\nreached 10.0.2.100/80\nlooked"
	if got := m.sh(lookFor(metadataAddr+"/22", "10.0.2.15/22", "10.0.2.100/80")); got != reached {
		m.Fatalf("the host does not reach what the job must not: %q", got)
	}

	id := m.lab.GitHub.Enqueue(miniworker.Job{Name: "hungry", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{
			{Name: "memory", Run: "exec python3 -c 'bytearray(700 << 20)'", ContinueOnError: true},
			{Name: "network", Run: "gateway=$(ip route show default | cut -d ' ' -f 3); test -n \"$gateway\"\n" +
				lookFor("$gateway/22", metadataAddr+"/22", "10.0.2.15/22", "10.0.2.100/80")},
			{Name: "reset", Run: "(echo h >/proc/sysrq-trigger) 2>/dev/null && echo written; echo looked"},
			// Last: what it starts stays until the guest ends.
			{Name: "processes", Run: "for i in $(seq 500); do sleep 60 & done", ContinueOnError: true},
		}})
	result, err := m.lab.GitHub.Wait(m.ctx, id)
	if err != nil {
		m.Fatal(err)
	}

	if step := result.Step("memory"); step.Exit != 137 {
		m.Errorf("want it killed for its memory: %v", step)
	}
	// GitHub has a private address here, which jobs reach, and no other.
	for name, want := range map[string]string{"network": "reached 10.0.2.100/80\nlooked", "reset": "looked"} {
		if step := result.Step(name); strings.Join(step.Output, "\n") != want {
			m.Errorf("want %q: step %v", want, step)
		}
	}
	if step := result.Step("processes"); step.Exit == 0 || !strings.Contains(strings.Join(step.Output, "\n"), "fork") {
		m.Errorf("want it refused more processes: %v", step)
	}
	m.noResidue()
	// The kernel's own account: the limit was reached, and not passed.
	account := m.sh(`cd "$(dirname "$(find /sys/fs/cgroup -name pids.max -path '*guests-*')")"; cat pids.max pids.peak`)
	if want := fmt.Sprintf("%d\n%[1]d", appliance.JobPids); account != want {
		m.Errorf("the limit of processes and their most are %q, want %q", account, want)
	}
}

// metadataAddr is where a cloud serves credentials to its machines.
const metadataAddr = "169.254.169.254"

// lookFor is a script that connects to each ADDRESS/PORT, reports those that
// answer, and ends with a line of its own.
func lookFor(ports ...string) string {
	return "for to in " + strings.Join(ports, " ") +
		`; do timeout 5 bash -c "exec 3<>/dev/tcp/$to" 2>/dev/null && echo "reached $to"; done; echo looked`
}

// escape: the bash that a job has the runner find is not executed on the host,
// and a job that thus kept the clean-up from running leaves nothing either.
func (m *life) escape() {
	const workspace = "/var/lib/runner/work/repo/repo"
	id := m.lab.GitHub.Enqueue(miniworker.Job{Name: "escape", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{
			{Name: "plant", Run: "printf '#!/bin/sh\\ntouch " + workspace + "/escaped\\n' >bash; chmod 755 bash; echo " +
				workspace + " >>$GITHUB_PATH"},
			{Name: "victim", Run: "true"},
		}})
	result, err := m.lab.GitHub.Wait(m.ctx, id)
	if err != nil {
		m.Fatal(err)
	}
	if step := result.Step("victim"); step.Conclusion == miniworker.Success ||
		!strings.Contains(strings.Join(step.Errors, "\n"), "permission denied") {
		m.Errorf("want the hook not to start: %v", step)
	}
	m.sh("test -x " + workspace + "/bash && test ! -e " + workspace + "/escaped")
	m.until("! pgrep systemd-nspawn")
	m.noResidue()
}

// families makes a socket of AF_ALG, AF_XDP and AF_INET each, and reports those
// that exist.
const families = `perl -e 'for ([38, 5], [44, 3], [2, 1]) { print "$_->[0] " if socket(my $s, $_->[0], $_->[1], 0) }'`

// surface: a guest cannot make sockets that its network does not confine, nothing
// gets past its filters by io_uring, and the appliance listens for ssh alone.
func (m *life) surface() {
	if got := m.sh(families); got != "38 44 2" {
		m.Errorf("the host makes sockets of families %q, want all three", got)
	}
	if got := m.sh("ci-nspawn-run -- " + families); got != "2" {
		m.Errorf("a guest makes sockets of families %q, want AF_INET alone", got)
	}
	// io_uring_setup(2) with bad arguments: EPERM where it is disabled, else EFAULT.
	if got := m.sh(`perl -e 'syscall(425, 1, 0); print $!+0'`); got != "1" {
		m.Errorf("io_uring_setup ends with errno %s, want EPERM", got)
	}

	const listening = `ss -Htuln | awk '$5 !~ /^(127\.|\[::1\])/ { print $1, $5 }'`
	if got := m.sh(listening); !regexp.MustCompile(`^(udp \S+%\S+:(68|546)\n)*tcp 0\.0\.0\.0:22\ntcp \[::\]:22$`).
		MatchString(got) {
		m.Errorf("the appliance listens at\n%s\nwant ssh, and udp for DHCP alone", got)
	}
	m.noResidue()
}

// noResidue: no guest, mount, cgroup or directory of a job is left.
func (m *life) noResidue() {
	m.Helper()
	left := m.sh(`pgrep -a systemd-nspawn
broker=$(systemctl show -P MainPID runner-guestd.service)
grep /var/lib/runner/jobs /proc/1/mountinfo "/proc/$broker/mountinfo"
find /sys/fs/cgroup -type d -path '*guests-*/*'
ls -A /var/lib/runner/jobs
true`)
	if left != "" {
		m.Errorf("the job left behind:\n%s", left)
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

// ownGuest: with RUNNER_JOBS=guest the worker runs in a guest as well, also that of
// a job without a container, whose steps are who they are on GitHub's machines.
func (m *life) ownGuest() {
	m.sh("cp -p /etc/runner/config.env /root/config.env; echo RUNNER_JOBS=guest >>/etc/runner/config.env; " +
		"systemctl restart runner-guestd.service runner.service")

	result := m.runJob(miniworker.Job{Name: "plain", Steps: []miniworker.Step{
		{Name: "who", Run: "id -un; sudo id -u; cat /proc/1/comm; ls -d /usr/lib/runner/base || echo no base here; " +
			"echo $HOME; systemctl is-active dbus.socket"},
		{Name: "fail", Run: "exit 7"},
	}})
	who := strings.Join(result.Step("who").Output, "\n")
	for _, want := range []string{"runner\n0\nsystemd\n", "no base here\n/home/runner\nactive"} {
		if !strings.Contains(who, want) {
			m.Errorf("no %q in\n%s", want, who)
		}
	}
	if step := result.Step("fail"); step.Exit != 7 {
		m.Errorf("step fail: %v", step)
	}
	if len(result.Annotations) > 1 || strings.Contains(fmt.Sprint(result.Annotations), "disk space") {
		m.Errorf("want one annotation, that of exit 7; got %q", result.Annotations)
	}

	result = m.runJob(miniworker.Job{Name: "container", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{
			{Name: "write", Run: "id -u; echo hello >made"},
			{Name: "read", Run: "cat made; cat /proc/1/comm"},
		}})
	if step := result.Step("read"); strings.Join(step.Output, "\n") != "hello\nsystemd" {
		m.Errorf("step read: %v", step)
	}

	m.sh("test ! -e /var/lib/runner/work/repo/repo/made; cp -p /root/config.env /etc/runner/config.env; " +
		"systemctl restart runner-guestd.service runner.service")
}

// runJob runs a job to its end, which leaves nothing.
func (m *life) runJob(job miniworker.Job) miniworker.JobResult {
	m.Helper()
	result, err := m.lab.GitHub.Wait(m.ctx, m.lab.GitHub.Enqueue(job))
	if err != nil {
		m.Fatal(err)
	}
	for _, step := range result.Steps {
		m.Log(step)
	}
	m.noResidue()
	return result
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
