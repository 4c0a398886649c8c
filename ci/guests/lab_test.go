// Package guests runs jobs natively: the real broker, the real hook, real
// systemd-nspawn guests of the baked base tree.
package guests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/supervise"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/ci/appliance"
	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// runnerID is the runner's user and group in these tests, used by no one else.
const runnerID = 4711

// registryAddr is where a lab's registry listens, in the network namespace that
// stands for the host's: config.env has to allow that.
const registryAddr = "127.0.0.1:5000"

// jobVariable has this program run the job on its standard input, as the
// worker would, instead of tests: so that a job can run as another user.
const jobVariable = "GUESTS_TEST_RUN_JOB"

// programsVariable lists what else than the system's programs may be executed.
const programsVariable = "GUESTS_TEST_PROGRAMS"

func TestMain(m *testing.M) {
	if program := os.Getenv(listenerVariable); program != "" {
		status, err := listenOnce(program)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(status)
	}
	if options := os.Getenv(jobVariable); options != "" {
		if err := runJob(options); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func runJob(options string) error {
	var opt miniworker.Options
	var job miniworker.Job
	// As runner-agent service confines the runner.
	dirs := append([]string{"/usr", "/bin", "/lib", "/lib64"}, strings.Split(os.Getenv(programsVariable), ":")...)
	if err := supervise.Confine(dirs...); err != nil {
		return err
	}
	if err := errors.Join(json.Unmarshal([]byte(options), &opt), json.NewDecoder(os.Stdin).Decode(&job)); err != nil {
		return err
	}
	w, err := miniworker.New(opt)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(w.RunJob(context.Background(), job))
}

// lab is a broker of our own with its directories.
type lab struct {
	*testing.T
	dir    string
	agent  string
	netns  string // network namespace that stands for the host's
	broker *exec.Cmd
	// programs are what jobs may execute on the host besides the system's.
	programs []string
	client   *brokerapi.Client
	internet string  // network namespace of the internet, see makeInternet; empty if there is none
	place    place   // of the worker of job
	github   *github // what workers in guests report to; nil before serveGitHub
	// machine is the appliance of jobs inImage, where a lab has nothing of the above
	// but its place.
	machine *appliance.Lab
}

// newLab starts a broker with lines of config.env, in which LAB stands for the
// lab's directory, or skips the test where there can be none.
func newLab(t *testing.T, config ...string) *lab {
	t.Helper()
	base := os.Getenv("MKAPPLIANCE_TEST_BASE")
	if base == "" {
		t.Skip("MKAPPLIANCE_TEST_BASE names no guest base tree: run it through 'make test'")
	}
	if os.Geteuid() != 0 {
		t.Skip("guests need root")
	}
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		t.Skipf("guests need systemd-nspawn: %v", err)
	}

	// Not t.TempDir: the path of a unix socket has at most 107 bytes, and the
	// runner has to get in.
	dir, err := os.MkdirTemp("", "guests-")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{
		T: t, dir: dir, agent: filepath.Join(dir, "runner-agent"),
		client: &brokerapi.Client{Socket: filepath.Join(dir, "socket")},
		place:  onHost,
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l.makeNetwork()
	for key, value := range map[string]string{
		"RUNNER_INSECURE_REGISTRIES=": registryAddr,
		"RUNNER_SPARE_GUEST=":         "false", // it would look like a guest that was left behind
		"RUNNER_CONTAINERS=":          "hook",  // TestDocker has the other way
	} {
		if !strings.Contains(strings.Join(config, "\n"), key) {
			config = append(slices.Clone(config), key+value)
		}
	}

	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", dir,
		"github.com/mkappliance/mkappliance/cmd/runner-agent", "github.com/mkappliance/mkappliance/cmd/runner-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	lines := strings.ReplaceAll(strings.Join(config, "\n"), "LAB", dir) + "\n"
	lines += "RUNNER_ACTIONS_RUNNER_DIR=" + l.path("registered") + "\n"
	hook := fmt.Sprintf("#!/bin/bash\nexec %s hook %s\n", l.path("runner-shim"), l.client.Socket)
	if err := errors.Join(
		os.Chmod(dir, 0o755),
		os.Mkdir(l.path("work"), 0o755),
		os.Chown(l.path("work"), runnerID, runnerID),
		l.makeActionsRunner(),
		os.WriteFile(l.path("config.env"), []byte(lines), 0o600),
		os.WriteFile(l.path("hook.sh"), []byte(hook), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.stop() })
	l.start()
	return l
}

// with returns the same lab for a subtest: a method that fails the parent's T
// from a subtest's goroutine would end both without its message. The copy may
// not start another broker.
func (l *lab) with(t *testing.T) *lab {
	sub := *l
	sub.T = t
	return &sub
}

// run runs a subtest with the lab as its own.
func (l *lab) run(name string, test func(*lab)) {
	l.T.Run(name, func(t *testing.T) { test(l.with(t)) })
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// start starts the broker and waits until it answers.
func (l *lab) start() {
	l.Helper()
	log, err := os.OpenFile(l.path("broker.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		l.Fatal(err)
	}
	defer log.Close()
	l.broker = l.command(l.agent, append(l.brokerArgs()[1:], "--socket", l.client.Socket)...)
	l.broker.Stderr = log
	if err := l.broker.Start(); err != nil {
		l.Fatal(err)
	}
	l.eventually("the broker answers", func() bool { return l.client.Reset(l.Context()) == nil })
}

// brokerArgs returns the argument vector of a broker that is handed its socket.
func (l *lab) brokerArgs() []string {
	id := strconv.Itoa(runnerID)
	return []string{
		l.agent, "broker", "--config", l.path("config.env"),
		"--base", os.Getenv("MKAPPLIANCE_TEST_BASE"), "--jobs-dir", l.path("jobs"),
		"--images-dir", l.path("images"), "--work-root", l.path("work"),
		"--externals", l.path("runner/externals"), "--actions-runner", l.path("runner"),
		"--worker-logs", l.path("worker-logs"),
		"--tools", l.path("tools"), "--kept-tools", l.path("kept-tools"), "--kept-volumes", l.path("kept-volumes"),
		"--runner-uid", id, "--runner-gid", id,
	}
}

// stop ends the broker in order, and shows its log if the test failed.
func (l *lab) stop() {
	_ = l.broker.Process.Signal(syscall.SIGTERM)
	_ = l.broker.Wait()
	if l.Failed() {
		l.Logf("the broker's log:\n%s", l.log())
	}
}

// log is what the broker has logged.
func (l *lab) log() string {
	data, err := os.ReadFile(l.path("broker.log"))
	if err != nil {
		l.Error(err)
	}
	return string(data)
}

// eventually waits for something that is to happen within ten seconds.
func (l *lab) eventually(what string, done func() bool) {
	l.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.Fatalf("not within ten seconds: %s", what)
		}
	}
}

// prepare starts a job's guest with the work root at /__w.
func (l *lab) prepare() string {
	l.Helper()
	return l.prepareContainer(brokerapi.Container{Image: "debian:13"})
}

// prepareContainer starts a job's guest with the mounts that every job has.
func (l *lab) prepareContainer(c brokerapi.Container) string {
	l.Helper()
	c.Mounts = append([]brokerapi.Mount{
		{Target: "/__w", Source: l.path("work")},
		{Target: "/__e", Externals: true},
		{Target: "/__w/_temp", Source: l.path("work/_temp")},
		{Target: "/github/home", Source: l.path("work/_temp/_github_home")},
	}, c.Mounts...)
	reply, err := l.client.Prepare(l.Context(), brokerapi.PrepareRequest{Container: &c}, io.Discard)
	if err != nil {
		l.Fatal(err)
	}
	return reply.Job
}

// sh runs a script in the guest and returns its status and output.
func (l *lab) sh(job, script string) (status int, output string) {
	l.Helper()
	status, output, err := l.output(job, script)
	if err != nil {
		l.Fatalf("%v\n%s", err, output)
	}
	return status, output
}

// output is sh for goroutines other than the test's, which may not end it.
func (l *lab) output(job, script string) (status int, output string, err error) {
	var out bytes.Buffer
	status, err = l.client.Exec(l.Context(), brokerapi.ExecRequest{Job: job, Argv: []string{"sh", "-c", script}},
		wire.Streams{Stdout: &out, Stderr: &out})
	return status, strings.TrimSpace(out.String()), err
}

// exec runs a program in the guest and leaves its output.
func (l *lab) exec(job string, argv ...string) (status int, err error) {
	return l.client.Exec(l.Context(), brokerapi.ExecRequest{Job: job, Argv: argv},
		wire.Streams{Stdout: io.Discard, Stderr: io.Discard})
}

func (l *lab) cleanup(job string) {
	l.Helper()
	if err := l.client.Cleanup(l.Context(), job); err != nil {
		l.Fatal(err)
	}
}

// noResidue: no process, mount, cgroup or directory of a guest is left.
func (l *lab) noResidue() {
	l.Helper()
	if l.place == inImage {
		l.noResidueInImage()
		return
	}

	if left, _ := os.ReadDir(l.path("jobs")); len(left) != 0 {
		l.Errorf("left in the jobs directory: %v", left)
	}
	if groups := l.guestCgroups(); len(groups) != 0 {
		l.Errorf("cgroups left: %q", groups)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", l.broker.Process.Pid))
	if err != nil {
		l.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.path("jobs")) {
			l.Errorf("mount left: %s", line)
		}
	}
	out, err := exec.Command("ip", "-netns", l.netns, "-brief", "link").Output()
	if err != nil || strings.Contains(string(out), "rg") {
		l.Errorf("links left: %s %v", out, err)
	}
	if children := l.children(); len(children) != 0 {
		l.Errorf("the broker has children left: %v", children)
	}
}

// guestCgroups lists the cgroups of this broker's guests.
func (l *lab) guestCgroups() []string {
	var groups []string
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		found, _ := filepath.Glob(filepath.Join(mount, l.cgroupName(), "j-*"))
		groups = append(groups, found...)
	}
	return groups
}

// cgroupName returns the name of the broker's cgroup for guests.
func (l *lab) cgroupName() string {
	sum := sha256.Sum256([]byte(l.path("jobs")))
	return "guests-" + hex.EncodeToString(sum[:4])
}

// children lists the broker's child processes: one nspawn a guest.
func (l *lab) children() []int {
	l.Helper()
	return childrenOf(l.T, l.broker.Process.Pid)
}

// childrenOf lists the child processes of a process.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var pids []int
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(data)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

// asRunner is a program that runs as the runner's user, in the lab's network
// namespace.
func (l *lab) asRunner(argv ...string) *exec.Cmd {
	id := strconv.Itoa(runnerID)
	return l.command("setpriv", append([]string{"--reuid", id, "--regid", id, "--clear-groups"}, argv...)...)
}
