// Package appliance boots a baked image in QEMU with a fake GitHub for its only
// neighbour, and lets a test look into it by ssh as an operator would.
package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/qemu"
	"github.com/mkappliance/mkappliance/internal/run"
)

// The machine reaches GitHub at this address of QEMU's user network, and
// nothing else.
const (
	gitHubHost = "10.0.2.100"
	gitHubAddr = gitHubHost + ":80" // the actions runner uses no other port
	Repository = "octo/hello"
	Hostname   = "builder-7"
	// Token stands for a registration token; tests look for it where it must
	// not be.
	Token = "AKLMNOPQRSTUVWXYZ234567ABCDEF"
	// JobPids is RUNNER_JOB_PIDS.
	JobPids = 400
	// ChannelURL is where the machine finds Lab.Channel.
	ChannelURL = "http://" + gitHubHost + "/channel"
)

// Options are what else a machine has.
type Options struct {
	// Config holds lines of config.env, KEY=VALUE. A line replaces the one that
	// a machine has without it.
	Config []string
	// Forwards lets the machine reach more than GitHub.
	Forwards []qemu.GuestForward
	// Disk is the Unix socket of an NBD server with the disk, which then takes the
	// place of the image and is kept by its owner.
	Disk string
	// Seed is the directory of another machine, with the seed that this one has too
	// and the key that lets an operator in. Empty for a new seed.
	Seed string
	// Sticks are images of further disks, attached read-only.
	Sticks []string
}

// Lab is one machine with its surroundings.
type Lab struct {
	GitHub  *fakegithub.Server
	Console *ConsoleLog
	// Channel is a directory of channels that GitHubUp serves at ChannelURL too;
	// empty for none.
	Channel string

	options Options
	dir     string
	image   string
	program string // mkappliance
	listen  string // address of GitHub on this host
	sshPort int
	server  *http.Server
	vm      *qemu.Machine
}

// New prepares a lab in the empty directory dir. GitHub is down and the machine
// off.
func New(ctx context.Context, dir, image, program string, options Options) (*Lab, error) {
	l := &Lab{
		GitHub: fakegithub.New(fakegithub.Options{Tokens: []string{Token}}), Console: &ConsoleLog{},
		options: options, dir: dir, image: image, program: program,
	}
	gitHub, err := freePort()
	if err != nil {
		return nil, err
	}
	l.listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(gitHub))
	if l.sshPort, err = freePort(); err != nil {
		return nil, err
	}
	if options.Seed != "" {
		return l, nil
	}
	return l, l.makeSeed(ctx)
}

// freePort returns a port of 127.0.0.1 at which nothing listens.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

func (l *Lab) path(name string) string { return filepath.Join(l.dir, name) }

// seedPath returns the path of what makeSeed has written.
func (l *Lab) seedPath(name string) string {
	if l.options.Seed != "" {
		return filepath.Join(l.options.Seed, name)
	}
	return l.path(name)
}

// makeSeed writes config.env, an operator's user-data and the seed from both.
func (l *Lab) makeSeed(ctx context.Context) error {
	runTool := func(args ...string) error { return run.Local{}.Exec(ctx, run.Cmd{Args: args}) }
	if err := runTool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", l.path("key")); err != nil {
		return err
	}
	key, err := os.ReadFile(l.path("key.pub"))
	if err != nil {
		return err
	}

	config := strings.Join(l.config(), "\n") + "\n"
	userData := "#cloud-config\ndisable_root: false\nusers:\n  - name: root\n    ssh_authorized_keys:\n      - " +
		string(key)
	if err := errors.Join(os.WriteFile(l.path("config.env"), []byte(config), 0o600),
		os.WriteFile(l.path("user-data"), []byte(userData), 0o600)); err != nil {
		return err
	}
	return runTool(l.program, "seed", "--config-env", l.path("config.env"), "--user-data", l.path("user-data"),
		"--hostname", Hostname, "--output", l.path("seed.iso"))
}

// config returns the lines of config.env.
func (l *Lab) config() []string {
	// A spare guest would look like one that a job left behind, and tests look at
	// what a job has written.
	lines := []string{
		"# written by cloud-init",
		"RUNNER_SPARE_GUEST=false",
		"RUNNER_KEEP_WORK=true",
		"RUNNER_JOB_MEMORY=512M",
		fmt.Sprintf("RUNNER_JOB_PIDS=%d", JobPids),
		fmt.Sprintf("RUNNER_GITHUB_URL=http://%s/%s", gitHubHost, Repository),
		"RUNNER_REGISTRATION_TOKEN=" + Token,
	}
	for _, line := range l.options.Config {
		key, _, _ := strings.Cut(line, "=")
		lines = slices.DeleteFunc(lines, func(other string) bool { return strings.HasPrefix(other, key+"=") })
		lines = append(lines, line)
	}
	return lines
}

// Boot switches the machine on; ctx ends it.
func (l *Lab) Boot(ctx context.Context) (err error) {
	l.vm, err = qemu.Start(ctx, qemu.Config{Arch: arch.AMD64(), Image: l.image, Seed: l.seedPath("seed.iso"), Dir: l.dir,
		Disk: l.options.Disk, Sticks: l.options.Sticks,
		DiskSize: 8 << 30, Memory: 2 << 30, CPUs: 2, Console: l.Console, Offline: true,
		HostForwards:  []qemu.HostForward{{HostPort: l.sshPort, GuestPort: 22}},
		GuestForwards: append([]qemu.GuestForward{Forward(gitHubAddr, l.listen)}, l.options.Forwards...)})
	return err
}

// Forward lets the machine reach an address of this host at one of QEMU's user
// network.
func Forward(addr, hostAddr string) qemu.GuestForward {
	return qemu.GuestForward{Addr: addr, Command: "socat - TCP:" + hostAddr}
}

// Close switches everything off.
func (l *Lab) Close() error {
	var err error
	if l.vm != nil {
		l.vm.Quit()
	}
	if l.server != nil {
		err = l.server.Close()
	}
	return err
}

// GitHubUp makes GitHub answer.
func (l *Lab) GitHubUp() error {
	listener, err := net.Listen("tcp", l.listen)
	if err != nil {
		return err
	}
	l.server = &http.Server{Handler: l.handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = l.server.Serve(listener) }()
	return nil
}

// handler serves GitHub and the channel: the machine reaches one address only.
func (l *Lab) handler() http.Handler {
	files := http.StripPrefix("/channel/", http.FileServer(http.Dir(l.Channel)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.Channel != "" && strings.HasPrefix(r.URL.Path, "/channel/") {
			files.ServeHTTP(w, r)
			return
		}
		l.GitHub.ServeHTTP(w, r)
	})
}

// SSH runs a shell script as root in the machine and returns its output.
func (l *Lab) SSH(ctx context.Context, script string) (string, error) {
	var stderr bytes.Buffer
	out, err := run.Output(ctx, run.Local{}, run.Cmd{Args: []string{"ssh", "-i", l.seedPath("key"),
		"-p", strconv.Itoa(l.sshPort), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + os.DevNull,
		"-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10", "-o", "BatchMode=yes", "root@127.0.0.1", "sh -s"},
		Stdin: strings.NewReader(script), Stderr: &stderr})
	if err != nil {
		return string(out), fmt.Errorf("cannot run in the machine: %w\nscript: %s\noutput: %s", err, script, out)
	}
	return string(out), nil
}

// WaitSSH waits until the machine lets an operator in.
func (l *Lab) WaitSSH(ctx context.Context) error {
	return l.Until(ctx, "true")
}

// Until waits until a script succeeds in the machine.
func (l *Lab) Until(ctx context.Context, script string) error {
	for {
		try, cancel := context.WithTimeout(ctx, 30*time.Second)
		_, err := l.SSH(try, script)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-l.vm.Ended():
			return fmt.Errorf("the machine ended: %w; the end of the console:\n%s", l.vm.Wait(), l.Console.Tail(60))
		case <-ctx.Done():
			return fmt.Errorf("%w; the end of the console:\n%s", err, l.Console.Tail(60))
		case <-time.After(time.Second):
		}
	}
}

// leftovers prints what is left of a job.
const leftovers = `pgrep -a systemd-nspawn
broker=$(systemctl show -P MainPID runner-guestd.service)
grep -e /var/lib/runner/jobs -e /var/lib/runner/work/w- /proc/1/mountinfo "/proc/$broker/mountinfo"
find /sys/fs/cgroup -type d -path '*guests-*/*'
ls -A /var/lib/runner/jobs
find /var/lib/runner/work -name 'w-*'
true`

// leftoversWait is how long the removal of what a job has made may take: GitHub is
// told of a job's end before it begins.
const leftoversWait = time.Minute

// Leftovers lists the guests, mounts, cgroups and directories of jobs: none soon
// after the last one has ended.
func (l *Lab) Leftovers(ctx context.Context) (string, error) {
	for deadline := time.Now().Add(leftoversWait); ; time.Sleep(time.Second) {
		out, err := l.SSH(ctx, leftovers)
		left := strings.TrimSpace(out)
		if err != nil || left == "" || time.Now().After(deadline) {
			return left, err
		}
	}
}

// Evidence returns what the machine has to say about a test that failed: the end of
// its console, and that of the runner's journal where the machine answers.
func (l *Lab) Evidence(ctx context.Context) string {
	text := "the end of the console:\n" + l.Console.Tail(80)
	journal, err := l.SSH(ctx, "journalctl -b --no-pager -u 'runner*' | tail -60")
	if err != nil {
		return text
	}
	return text + "\nthe runner's journal:\n" + journal
}

// Registrations counts the runners registered so far.
func (l *Lab) Registrations() int { return l.GitHub.Registrations() }

// ConsoleLog keeps what the machine prints.
type ConsoleLog struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (c *ConsoleLog) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	return len(p), nil
}

// String returns all that was printed.
func (c *ConsoleLog) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// Tail returns the last n lines.
func (c *ConsoleLog) Tail(n int) string {
	lines := strings.Split(strings.TrimSpace(c.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
