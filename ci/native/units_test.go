package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/stubrunner"
)

// machine is a container booted with systemd, in which the real units run.
type machine struct {
	t   *testing.T
	cmd *exec.Cmd
	log bytes.Buffer
}

// bootUnits boots a copy-on-write view of the guest base tree, with the units,
// the agent and the stub runner over it. It shares the host's network.
func (a *appliance) bootUnits() *machine {
	a.t.Helper()
	base := os.Getenv("MKAPPLIANCE_TEST_BASE")
	if base == "" || os.Geteuid() != 0 {
		a.t.Skip("needs MKAPPLIANCE_TEST_BASE, a directory with a guest base tree, and root")
	}
	a.makeUpper(base)
	for _, d := range []string{"ovl", "tree"} {
		if err := os.Mkdir(a.path(d), 0o755); err != nil {
			a.t.Fatal(err)
		}
	}
	// Landlock, which runner.service wants, is a kernel's to allow, as in the
	// image; nspawn's own filter of Debian 12 does not know it yet.
	script := fmt.Sprintf("mount -t overlay overlay -o lowerdir=%s,upperdir=%s,workdir=%s %s && "+
		"exec systemd-nspawn -q --register=no --keep-unit --link-journal=no --system-call-filter='landlock_create_ruleset "+
		"landlock_add_rule landlock_restrict_self' -M %s -D %s -b",
		base, a.path("upper"), a.path("ovl"), a.path("tree"), filepath.Base(a.dir), a.path("tree"))

	m := &machine{t: a.t, cmd: exec.Command("unshare", "--mount", "sh", "-c", script)}
	m.cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(m.powerOff)
	return m
}

// makeUpper writes what an image has over a plain base tree.
func (a *appliance) makeUpper(base string) {
	a.t.Helper()
	passwd, err := os.ReadFile(filepath.Join(base, "etc/passwd"))
	if err != nil {
		a.t.Fatal(err)
	}
	group, err := os.ReadFile(filepath.Join(base, "etc/group"))
	if err != nil {
		a.t.Fatal(err)
	}
	cfg, err := os.ReadFile(a.path("config.env"))
	if err != nil {
		a.t.Fatal(err)
	}
	// The paths of a real appliance, and quicker tries.
	config := lines(string(cfg), "RUNNER_GITHUB_URL", "RUNNER_REGISTRATION_TOKEN", "RUNNER_NAME", "RUNNER_JOBS")
	a.write("upper/etc/passwd", withoutRunner(passwd)+"runner:x:900:900::/var/lib/runner/home:/usr/sbin/nologin\n")
	a.write("upper/etc/group", withoutRunner(group)+"runner:x:900:\n")
	a.write("upper/etc/machine-id", "uninitialized\n")
	a.write("upper/usr/lib/os-release", "ID=debian\nRUNNER_VERSION="+stubrunner.Version+"\n")
	a.write("upper/var/lib/runner/etc/config.env", config)
	a.write("upper/etc/systemd/system/runner-install.service.d/quick.conf", "[Service]\nRestartSec=1\n")
	if err := os.Chmod(a.path("upper/var/lib/runner/etc/config.env"), 0o600); err != nil {
		a.t.Fatal(err)
	}

	const overlay = "../../overlays/host/"
	for _, path := range []string{
		"usr/lib/systemd/system/runner.service", "usr/lib/systemd/system/runner-install.service",
		"usr/lib/systemd/system/runner-trust.service", "usr/lib/systemd/system/runner-renew.service",
		"usr/lib/tmpfiles.d/runner.conf",
	} {
		data, err := os.ReadFile(overlay + path)
		if err != nil {
			a.t.Fatal(err)
		}
		a.write("upper/"+path, string(data))
	}

	agent, err := os.ReadFile(built.agent)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write("upper/usr/local/bin/runner-agent", string(agent))
	unpack(a.t, built.tarball, a.path("upper/usr/lib/runner/actions-runner"))
	a.link("../var/lib/runner/etc", "upper/etc/runner")
	for _, unit := range []string{"runner.service", "runner-install.service", "runner-trust.service"} {
		a.link("/usr/lib/systemd/system/"+unit, "upper/etc/systemd/system/multi-user.target.wants/"+unit)
	}
}

// withoutRunner returns passwd(5) or group(5) of the base without the user that
// steps have in guests.
func withoutRunner(file []byte) string {
	all := ""
	for line := range strings.Lines(string(file)) {
		if !strings.HasPrefix(line, "runner:") {
			all += line
		}
	}
	return all
}

func lines(text string, keys ...string) string {
	all := ""
	for line := range strings.Lines(text) {
		for _, k := range keys {
			if strings.HasPrefix(line, k+"=") {
				all += line
			}
		}
	}
	return all
}

// write writes a file of the container, which anyone may execute.
func (a *appliance) write(name, content string) {
	a.t.Helper()
	if err := os.MkdirAll(filepath.Dir(a.path(name)), 0o755); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(a.path(name), []byte(content), 0o755); err != nil {
		a.t.Fatal(err)
	}
}

func (a *appliance) link(target, name string) {
	a.t.Helper()
	if err := os.MkdirAll(filepath.Dir(a.path(name)), 0o755); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Symlink(target, a.path(name)); err != nil {
		a.t.Fatal(err)
	}
}

// init is the container's PID 1 as seen from here; 0 if it is not there yet.
func (m *machine) init() int {
	pid := m.cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(children), " ")
	n, _ := strconv.Atoi(first)
	return n
}

// run runs a command in the container.
func (m *machine) run(args ...string) string {
	pid := m.init()
	if pid == 0 {
		return ""
	}
	argv := append([]string{"-t", strconv.Itoa(pid), "-a"}, args...)
	out, _ := exec.Command("nsenter", argv...).CombinedOutput() // the caller judges the output
	return strings.TrimSpace(string(out))
}

// wait waits until a command in the container prints want.
func (m *machine) wait(want string, args ...string) {
	m.t.Helper()
	var got string
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if got = m.run(args...); got == want {
			return
		}
	}
	journal := m.run("journalctl", "--no-pager", "-o", "cat", "-u", "runner*")
	m.t.Fatalf("%q prints %q, want %q\n%s\n%s", args, got, want, journal, m.log.String())
}

func (m *machine) property(unit, name string) string {
	return m.run("systemctl", "show", "--value", "-p", name, unit)
}

func (m *machine) powerOff() {
	done := make(chan struct{})
	go func() { defer close(done); _ = m.cmd.Wait() }()
	if pid := m.init(); pid != 0 {
		const rtmin = 34
		_ = syscall.Kill(pid, syscall.Signal(rtmin+4)) // SIGRTMIN+4: power off, systemd(1)
	}
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
		<-done
	}
}

// TestUnits runs runner-install.service and runner.service under a real
// systemd: how they wait for each other is theirs alone.
func TestUnits(t *testing.T) {
	a := newAppliance(t)
	a.githubDown()
	a.addRunners("2.338.0", "2.339.0")
	m := a.bootUnits()

	// The first try fails, so runner.service is skipped.
	m.wait("yes", "sh", "-c", "test $(systemctl show --value -p NRestarts runner-install.service) -ge 1 && echo yes")
	if got := m.property("runner.service", "ActiveState"); got != "inactive" {
		t.Errorf("runner.service is %s before the runner is registered", got)
	}
	if got := m.run("ls", "/var/lib/runner/installed"); !strings.Contains(got, "No such file") {
		t.Errorf("there is a marker: %s", got)
	}
	a.githubUp()
	m.wait("active", "systemctl", "is-active", "runner-install.service")
	m.wait("active", "systemctl", "is-active", "runner.service")
	a.wantRegistrations(1)
	pid := m.property("runner.service", "MainPID")
	if env := m.run("cat", "/proc/"+pid+"/environ"); strings.Contains(env, token) ||
		!strings.Contains(env, "RUNNER_NAME=rack-4") {
		t.Errorf("environment of runner.service: %q", env)
	}
	status := m.run("grep", "-E", "^(Uid|CapBnd|NoNewPrivs):", "/proc/"+pid+"/status")
	const want = "Uid: 900 900 900 900 CapBnd: 0000000000000000 NoNewPrivs: 1"
	if strings.Join(strings.Fields(status), " ") != want {
		t.Errorf("runner.service runs as %s", status)
	}

	// A restart with the marker registers nothing; one without it does, and
	// runner.service takes up the new registration.
	m.run("systemctl", "restart", "runner-install.service")
	m.wait("active", "systemctl", "is-active", "runner.service")
	a.wantRegistrations(1)
	before := m.property("runner.service", "MainPID")
	m.run("rm", "/var/lib/runner/installed")
	m.run("systemctl", "restart", "runner-install.service")
	m.wait("active", "systemctl", "is-active", "runner.service")
	a.wantRegistrations(2)
	if m.property("runner.service", "MainPID") == before {
		t.Error("runner.service still runs with the old registration")
	}

	m.drain()

	// Too old: no restart helps, so there is none.
	a.github.ExitListener(7)
	m.wait("failed", "systemctl", "is-active", "runner.service")
	if got := m.property("runner.service", "ExecMainStatus"); got != "4" {
		t.Errorf("runner.service ended with %s", got)
	}
	// While a restart is pending, a service is activating and not failed.
	if got := m.property("runner.service", "SubState"); got != "failed" {
		t.Errorf("runner.service is %s", got)
	}
	if got := m.run("runner-agent", "status"); !strings.HasPrefix(got, "state           deprecated since ") {
		t.Errorf("the status is\n%s", got)
	}
	if journal := m.run("journalctl", "--no-pager"); strings.Contains(journal, token) ||
		!strings.Contains(journal, "registered as rack-4") {
		t.Error("the journal holds the token, or is not there")
	}

	m.renew(a)
}

// addRunners makes a channel with newer actions runners in the container.
func (a *appliance) addRunners(versions ...string) {
	a.t.Helper()
	if err := os.MkdirAll(a.path("upper/channel"), 0o755); err != nil {
		a.t.Fatal(err)
	}
	key, err := stubrunner.BuildChannel(a.t.Context(), a.path("upper/channel"), versions...)
	if err != nil {
		a.t.Fatal(err)
	}
	text, err := key.MarshalText()
	if err != nil {
		a.t.Fatal(err)
	}
	a.write("upper/channel/test.pub", string(text))
}

// renew replaces an actions runner that GitHub no longer serves. The version after that
// is refused, so that this one comes back, also at the next start.
func (m *machine) renew(a *appliance) {
	m.t.Helper()
	const renew = "runner-agent renew --keys /channel --source /channel "
	if got := m.run("sh", "-c", renew+"--to 2.338.0; echo $?"); !strings.HasSuffix(got,
		"\nthe runner is online with actions runner 2.338.0\n0") {
		m.t.Fatalf("renew prints\n%s\n%s", got, m.run("journalctl", "--no-pager", "-o", "cat", "-u", "runner*"))
	}

	a.github.RefuseVersion("2.339.0", http.StatusForbidden)
	if got := m.run("sh", "-c", renew+"; echo $?"); !strings.HasSuffix(got,
		"actions runner 2.339.0 does not run: GitHub does not serve it\n1") {
		m.t.Errorf("renew prints\n%s", got)
	}
	m.run("systemctl", "restart", "runner.service")
	m.wait("online with 2.338.0", "sh", "-c", "runner-agent status --json | "+
		`sed -n 's/.*"state":"\([a-z]*\)".*"runner_version":"\([0-9.]*\)".*/\1 with \2/p'`)
	if got := m.run("runner-agent", "status"); !strings.Contains(got, "2.339.0 failed, noted ") {
		m.t.Errorf("the status is\n%s", got)
	}
	mounts := m.run("sh", "-c", "grep actions-runner /proc/$(systemctl show --value -p MainPID runner.service)/mountinfo")
	if strings.Count(mounts, "/var/lib/runner/dist/2.338.0/") != 2 {
		m.t.Errorf("bin and externals are not those of the version:\n%s", mounts)
	}
}

// drain drains runner.service, whose directory outlives restarts of it.
func (m *machine) drain() {
	m.t.Helper()
	m.wait("755 root 755 runner", "sh", "-c", "echo $(stat -c '%a %U' /run/runner /run/runner/service)")
	const asNobody = "setpriv --reuid=nobody --clear-groups runner-agent "
	m.wait("online", "sh", "-c", asNobody+"status | sed -n 's/^state *\\(\\w*\\) .*/\\1/p'")
	if got := m.run("sh", "-c", asNobody+"drain"); !strings.Contains(got, "may not drain; only root may") {
		m.t.Errorf("drained by nobody: %s", got)
	}

	if got := m.run("runner-agent", "drain"); got != "drained" {
		m.t.Errorf("drain: %s", got)
	}
	m.run("systemctl", "restart", "runner.service")
	if got := m.property("runner.service", "ActiveState"); got != "active" {
		m.t.Errorf("runner.service is %s after a restart while drained", got)
	}
	if got := m.run("runner-agent", "resume"); got != "starting" {
		m.t.Errorf("resume: %s", got)
	}
	m.wait("online", "sh", "-c", "runner-agent status | sed -n 's/^state *\\(\\w*\\) .*/\\1/p'")
}

// TestUnitsTrust: a GitHub with an authority of its own is refused until
// RUNNER_CA_CERTS names the authority, and then serves registration, listener and
// worker.
func TestUnitsTrust(t *testing.T) {
	t.Parallel()
	l, authority, err := fakegithub.ListenTLS()
	if errors.Is(err, fakegithub.ErrReserved) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	a := newApplianceOf(t, "https", l)
	a.writeConfig("RUNNER_JOBS=host\n")
	a.write("upper/var/lib/runner/etc/ca-certs.pem", string(authority))
	m := a.bootUnits()

	m.wait("yes", "sh", "-c", "journalctl --no-pager -u runner-install.service | "+
		"grep -qF 'the certificate of "+a.addr+" is not trusted' && echo yes")
	m.run("sh", "-c", "echo RUNNER_CA_CERTS=/etc/runner/ca-certs.pem >>/etc/runner/config.env")
	m.run("systemctl", "restart", "runner-trust.service")
	m.wait("active", "systemctl", "is-active", "runner.service")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id := a.github.Enqueue(miniworker.Job{Name: "over TLS", Steps: []miniworker.Step{{Name: "step", Run: "echo hello"}}})
	result, err := a.github.Wait(ctx, id)
	if err != nil || !slices.Equal(result.Step("step").Output, []string{"hello"}) {
		t.Errorf("got %s, %v\n%s", result, err, m.run("journalctl", "--no-pager", "-u", "runner.service"))
	}
}
