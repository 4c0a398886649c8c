// Package native runs the agent's registration and service as real processes
// on this machine, against fakegithub and the stub runner, without units and
// without guests.
package native

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/register"
	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/stubrunner"
	"github.com/mkappliance/mkappliance/internal/run"
)

const token = "AABF3JGZDX3P5PMEXLND6TS6FCWO6"

// built holds what all tests share.
var built struct{ agent, shim, tarball string }

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "native")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // for the runner's user
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	built.agent, built.shim = filepath.Join(dir, "runner-agent"), filepath.Join(dir, "runner-shim")
	err = run.Local{}.Exec(context.Background(), run.Cmd{Args: []string{"go", "build", "-o", dir,
		"github.com/mkappliance/mkappliance/cmd/runner-agent", "github.com/mkappliance/mkappliance/cmd/runner-shim"},
		Env: append(os.Environ(), "CGO_ENABLED=0")})
	if err == nil {
		built.tarball, _, err = stubrunner.Build(context.Background(), dir, stubrunner.Options{})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// appliance is one machine's worth of directories, and its GitHub.
type appliance struct {
	t      *testing.T
	dir    string
	github *fakegithub.Server
	scheme string // http or https
	addr   string // of GitHub, which is at port 80
	server *http.Server
	slow   sync.Map // path, as string: for how long GitHub does not answer it, as time.Duration
}

func newAppliance(t *testing.T) *appliance {
	t.Parallel()
	l, err := fakegithub.Listen()
	if errors.Is(err, fakegithub.ErrReserved) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return newApplianceOf(t, "http", l)
}

// newApplianceOf returns an appliance whose GitHub answers on l.
func newApplianceOf(t *testing.T, scheme string, l net.Listener) *appliance {
	t.Helper()
	dir, err := os.MkdirTemp("", "appliance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	github := fakegithub.New(fakegithub.Options{Tokens: []string{token}, PollTimeout: time.Second})
	a := &appliance{t: t, dir: dir, scheme: scheme, github: github}

	for _, d := range []string{"", "state", "state/work", "runner", "hooks", "control"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	unpack(t, built.tarball, filepath.Join(dir, "runner"))
	a.chown("runner", "state/work", "control")

	a.addr, _, _ = net.SplitHostPort(l.Addr().String())
	a.serve(l)
	t.Cleanup(a.githubDown)
	a.writeConfig("")
	return a
}

// serve answers on l until githubDown.
func (a *appliance) serve(l net.Listener) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.github.ServeHTTP(w, r)
		if delay, ok := a.slow.Load(r.URL.Path); ok {
			time.Sleep(delay.(time.Duration)) // the answer is buffered until here
		}
	})
	a.server = &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func(s *http.Server) { _ = s.Serve(l) }(a.server)
}

func (a *appliance) githubDown() { _ = a.server.Close() }

func (a *appliance) githubUp() {
	a.t.Helper()
	l, err := net.Listen("tcp", a.addr+":80")
	if err != nil {
		a.t.Fatal(err)
	}
	a.serve(l)
}

// runnerUser is who the agent drops to when the tests run as root.
const runnerUser = "nobody"

func (a *appliance) chown(names ...string) {
	a.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	u, err := user.Lookup(runnerUser)
	if err != nil {
		a.t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	for _, n := range names {
		if err := os.Chown(a.path(n), uid, gid); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *appliance) path(name string) string { return filepath.Join(a.dir, name) }

func (a *appliance) writeConfig(more string) {
	a.t.Helper()
	text := fmt.Sprintf("RUNNER_GITHUB_URL=%s://%s/acme\nRUNNER_REGISTRATION_TOKEN=%s\nRUNNER_NAME=rack-4\n"+
		"RUNNER_ACTIONS_RUNNER_DIR=%s\nRUNNER_HOOKS_DIR=%s\n%s",
		a.scheme, a.addr, token, a.path("runner"), a.path("hooks"), more)
	if err := os.WriteFile(a.path("config.env"), []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *appliance) installCommand() *exec.Cmd {
	return exec.Command(built.agent, "install", "--config", a.path("config.env"), "--state-dir", a.path("state"),
		"--os-release", a.path("os-release"), "--user", runnerUser)
}

// install runs `runner-agent install` and checks that the token is not shown.
func (a *appliance) install() (stdout, stderr string, status int) {
	a.t.Helper()
	c := a.installCommand()
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = &out, &errOut
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		a.t.Fatal(err)
	}
	if strings.Contains(out.String()+errOut.String(), token) {
		a.t.Errorf("the token is in the output:\n%s%s", out.String(), errOut.String())
	}
	return out.String(), errOut.String(), c.ProcessState.ExitCode()
}

func (a *appliance) mustInstall() string {
	a.t.Helper()
	out, errOut, status := a.install()
	if status != 0 {
		a.t.Fatalf("install gave status %d:\n%s%s", status, out, errOut)
	}
	return out
}

// mustFail wants status 1 and exactly one line on standard error.
func (a *appliance) mustFail(want string) {
	a.t.Helper()
	_, errOut, status := a.install()
	if status != 1 || errOut != "runner-agent: error: "+want+"\n" {
		a.t.Errorf("status %d\ngot  %swant runner-agent: error: %s", status, errOut, want)
	}
}

func (a *appliance) wantRegistrations(want int) {
	a.t.Helper()
	if got := a.github.Registrations(); got != want {
		a.t.Errorf("%d registrations, want %d", got, want)
	}
}

func (a *appliance) exists(name string) bool {
	_, err := os.Lstat(a.path(name))
	return err == nil
}

func (a *appliance) remove(name string) {
	a.t.Helper()
	if err := os.Remove(a.path(name)); err != nil {
		a.t.Fatal(err)
	}
}

// identity is the content of the runner's own files.
func (a *appliance) identity() string {
	a.t.Helper()
	all := ""
	for _, n := range []string{".runner", ".credentials", ".credentials_rsaparams"} {
		data, err := os.ReadFile(a.path("runner/" + n))
		if err != nil {
			a.t.Fatal(err)
		}
		all += string(data)
	}
	return all
}

func TestRegisterOnce(t *testing.T) {
	a := newAppliance(t)
	if err := os.WriteFile(a.path("os-release"), []byte("ID=debian\nIMAGE_VERSION=\"1.2.3\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := a.mustInstall()
	if !strings.Contains(out, "runner: √ Runner successfully added\n") ||
		!strings.Contains(out, "registered as rack-4\n") {
		t.Errorf("output was\n%s", out)
	}

	data, err := os.ReadFile(a.path("state/installed"))
	if err != nil {
		t.Fatal(err)
	}
	var m register.Marker
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	if m.Schema != 1 || m.Name != "rack-4" || m.URL != "http://"+a.addr+"/acme" || m.ImageVersion != "1.2.3" ||
		time.Since(m.RegisteredAt) > time.Minute {
		t.Errorf("marker is %s", data)
	}

	a.mustInstall()
	a.wantRegistrations(1)
	r := a.github.Runners()
	if len(r) != 1 || r[0].Name != "rack-4" || r[0].Entity != "acme" {
		t.Errorf("runners are %+v", r)
	}
	if st, err := os.Stat(a.path("runner/.credentials_rsaparams")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", st, err)
	}

	// An operator may remove the token once it was used.
	if err := os.WriteFile(a.path("config.env"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a.mustInstall()
	a.wantRegistrations(1)
}

func TestLabelsAndGroup(t *testing.T) {
	a := newAppliance(t)
	a.writeConfig("RUNNER_LABELS=gpu,rack-4\nRUNNER_GROUP=Nights\n")
	a.mustFail(`cannot register: there is no runner group Nights at http://` + a.addr +
		`/acme; correct RUNNER_GROUP, or create the group`)
	a.writeConfig("RUNNER_LABELS=gpu,rack-4\nRUNNER_GROUP=default\n")
	a.mustInstall()
	if got := fmt.Sprint(a.github.Runners()[0].Labels); got != "[self-hosted Linux X64 gpu rack-4]" {
		t.Errorf("labels are %s", got)
	}
}

func TestGitHubDownThenUp(t *testing.T) {
	a := newAppliance(t)
	a.githubDown()
	a.mustFail("cannot register: " + a.addr + " cannot be reached; check the network, the firewall and https_proxy")
	if a.exists("state/installed") || a.exists("runner/.runner") {
		t.Error("a failed registration left something behind")
	}
	a.githubUp()
	a.mustInstall()
	a.wantRegistrations(1)
}

func TestFailuresSayWhatToDo(t *testing.T) {
	a := newAppliance(t)
	url := "http://" + a.addr + "/acme"
	const register = "/actions/runners/register"
	for _, test := range []struct {
		path   string
		status int
		want   string
	}{
		{
			path: "/actions/runner-registration", status: 404,
			want: "cannot register: GitHub does not know " + url + " or does not accept the registration token for it; " +
				"check RUNNER_GITHUB_URL, and put a new token into RUNNER_REGISTRATION_TOKEN (one is valid for 1 hour)",
		},
		{
			path: register, status: 401,
			want: "cannot register: GitHub refuses the registration token: it is wrong or older than 1 hour; " +
				"put a new one into RUNNER_REGISTRATION_TOKEN",
		},
		{
			path: register, status: 409,
			want: "cannot register: GitHub has a runner named rack-4 that could not be replaced; " +
				"remove it in Settings, Actions, Runners, or choose another RUNNER_NAME",
		},
		{
			path: register, status: 403,
			want: "cannot register: GitHub forbids self-hosted runners at " + url +
				"; allow them in its Settings, Actions, Runners",
		},
		{
			path: register, status: 503,
			want: "cannot register: GitHub cannot serve at the moment (" + a.addr + " answers with a server error); " +
				"wait, the unit tries again by itself",
		},
	} {
		a.github.Fail(fakegithub.Failure{Path: test.path, Status: test.status})
		a.mustFail(test.want)
		a.github.Fail(fakegithub.Failure{Path: test.path})
	}
	if a.exists("state/installed") || a.exists("runner/.runner") || a.exists("runner/.credentials_rsaparams") {
		t.Error("a failed registration left something behind")
	}
	a.wantRegistrations(0)
	a.mustInstall()
	a.wantRegistrations(1)
}

func TestBadConfigChangesNothing(t *testing.T) {
	a := newAppliance(t)
	const config = "RUNNER_GITHUB_URL=https://api.github.com/acme\n"
	if err := os.WriteFile(a.path("config.env"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	a.mustFail(a.path("config.env") + ":1: RUNNER_GITHUB_URL is an address of GitHub's API, but the runner wants the " +
		"page it will serve; write https://github.com/OWNER or https://github.com/OWNER/REPOSITORY")
	a.remove("config.env")
	a.mustFail(a.path("config.env") + ": there is no such file; write it, for example by cloud-init's write_files, " +
		"with RUNNER_GITHUB_URL and RUNNER_REGISTRATION_TOKEN")
	if len(a.github.Calls()) != 0 || a.exists("state/installed") {
		t.Error("something was done all the same")
	}
	a.writeConfig("")
	a.remove("runner/bin/Runner.Listener")
	a.mustFail("cannot find the actions runner: stat " + a.path("runner/bin/Runner.Listener") +
		": no such file or directory; name its directory in RUNNER_ACTIONS_RUNNER_DIR, or bake the image with a runner " +
		"component")
}

func TestMarkerDeletedRegistersAgain(t *testing.T) {
	a := newAppliance(t)
	a.mustInstall()
	old := a.identity()
	for want := 2; want <= 3; want++ {
		a.remove("state/installed")
		a.mustInstall()
		a.wantRegistrations(want)
		a.mustInstall()
		a.wantRegistrations(want)
	}
	if a.identity() == old {
		t.Error("the old identity still stands")
	}
	if r := a.github.Runners(); len(r) != 1 || r[0].ID != 1 {
		t.Errorf("not replaced in place: %+v", r)
	}
	if a.exists("state/identity.previous") {
		t.Error("the old identity was not dropped")
	}
}

func TestFailedReregistrationKeepsOldIdentity(t *testing.T) {
	a := newAppliance(t)
	a.mustInstall()
	old := a.identity()
	a.remove("state/installed")
	a.githubDown()
	for range 2 {
		a.mustFail("cannot register: " + a.addr + " cannot be reached; check the network, the firewall and https_proxy")
		if a.identity() != old {
			t.Fatal("the old identity is gone")
		}
	}
	if os.Geteuid() == 0 {
		st, err := os.Stat(a.path("runner/.credentials_rsaparams"))
		if err != nil || st.Sys().(*syscall.Stat_t).Uid == 0 || st.Mode().Perm() != 0o600 {
			t.Errorf("the key came back as %+v, %v", st, err)
		}
	}
	a.githubUp()
	a.mustInstall()
	a.wantRegistrations(2)
}

// TestPowerCutBeforeMarker plays a power cut after the runner has written its
// identity and before the marker: the registration is finished, not repeated.
func TestPowerCutBeforeMarker(t *testing.T) {
	a := newAppliance(t)
	a.mustInstall()
	a.remove("state/installed")
	a.remove("state/identity.sha256") // neither is written before the identity
	out := a.mustInstall()
	if !strings.Contains(out, "the runner is already registered as rack-4; only its marker is missing\n") {
		t.Errorf("output was\n%s", out)
	}
	a.wantRegistrations(1)

	// The same while registering again: the record is of the old identity.
	record, err := os.ReadFile(a.path("state/identity.sha256"))
	if err != nil {
		t.Fatal(err)
	}
	a.remove("state/installed")
	a.mustInstall()
	a.wantRegistrations(2)
	a.remove("state/installed")
	if err := os.WriteFile(a.path("state/identity.sha256"), record, 0o600); err != nil {
		t.Fatal(err)
	}
	a.mustInstall()
	a.wantRegistrations(2)

	// A file that lost its content is not a registration.
	a.remove("state/installed")
	a.remove("state/identity.sha256")
	if err := os.Truncate(a.path("runner/.credentials"), 0); err != nil {
		t.Fatal(err)
	}
	a.mustInstall()
	a.wantRegistrations(3)
}

// TestPowerCutAfterMarker: the record is written after the marker, and the
// next start makes up for it.
func TestPowerCutAfterMarker(t *testing.T) {
	a := newAppliance(t)
	a.mustInstall()
	a.remove("state/identity.sha256")
	a.mustInstall()
	a.remove("state/installed")
	a.mustInstall()
	a.wantRegistrations(2)
}

func TestTokenInNoArgumentList(t *testing.T) {
	a := newAppliance(t)
	stop, seen := make(chan struct{}), 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			seen += a.scanArguments()
		}
	})
	a.github.Fail(fakegithub.Failure{Path: "/actions/runners/register", Status: 503, Times: 1}) // makes it last
	a.mustInstall()
	close(stop)
	wg.Wait()
	if seen == 0 {
		t.Error("the runner's configure was never seen, so nothing was shown")
	}
	for _, c := range a.github.Calls() {
		if strings.Contains(c.Body+c.Path, token) {
			t.Errorf("the token is in %s %s", c.Method, c.Path)
		}
	}
}

// scanArguments reads all command lines, and counts those of our configure.
func (a *appliance) scanArguments() int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	seen := 0
	for _, l := range lines {
		data, err := os.ReadFile(l)
		if err != nil {
			continue
		}
		if bytes.Contains(data, []byte(token)) {
			a.t.Errorf("the token is in an argument list: %q", data)
		}
		if bytes.Contains(data, []byte(a.path("runner/bin/Runner.Listener")+"\x00configure\x00")) {
			seen++
		}
	}
	return seen
}

func TestTwoInstallsAtOnce(t *testing.T) {
	a := newAppliance(t)
	a.github.Fail(fakegithub.Failure{Path: "/actions/runners/register", Status: 503, Times: 1})
	first := a.installCommand()
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	a.waitCalls(1)
	if _, errOut, status := a.install(); status != 1 || !strings.Contains(errOut, "another registration is under way") {
		t.Errorf("status %d: %s", status, errOut)
	}
	if err := first.Wait(); err != nil {
		t.Error(err)
	}
	a.wantRegistrations(1)
}

// waitCalls waits until GitHub was called n times in all.
func (a *appliance) waitCalls(n int) {
	a.t.Helper()
	a.eventually(fmt.Sprintf("GitHub is called %d times", n), func() bool { return len(a.github.Calls()) >= n })
}

// eventually waits for something that is to happen within 30 seconds.
func (a *appliance) eventually(what string, done func() bool) {
	a.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			a.t.Fatalf("not within 30 seconds: %s", what)
		}
	}
}

func TestStopDuringRegistration(t *testing.T) {
	a := newAppliance(t)
	a.mustInstall()
	old := a.identity()
	a.remove("state/installed")
	a.github.Fail(fakegithub.Failure{Path: "/actions/runners/register", Status: 503})
	c := a.installCommand()
	var errOut bytes.Buffer
	c.Stderr = &errOut
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	a.waitCalls(len(a.github.Calls()) + 4)

	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if want := "runner-agent: error: registration was stopped before it was done; " +
		"it starts over with the next start of the unit\n"; errOut.String() != want {
		t.Errorf("got %q", errOut.String())
	}
	if a.identity() != old {
		t.Error("the old identity is gone")
	}
}

func unpack(t *testing.T, tarball, dir string) {
	t.Helper()
	f, err := os.Open(tarball)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}

	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = unpackEntry(tr, h, dir)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func unpackEntry(r io.Reader, h *tar.Header, dir string) error {
	path := filepath.Join(dir, h.Name)
	if h.Typeflag == tar.TypeDir {
		return os.MkdirAll(path, 0o755)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, os.FileMode(h.Mode))
}
