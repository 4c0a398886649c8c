package guestinit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	osexec "os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/guestapi"
)

// configVariable has this program configure the namespaces it runs in, and execute
// its arguments.
const configVariable = "GUESTINIT_TEST_CONFIG"

// TestMain: the test program is the agent's own program, too.
func TestMain(m *testing.M) {
	var err error
	switch data := os.Getenv(configVariable); {
	case len(os.Args) > 1 && os.Args[1] == ExecRestricted:
		err = RunRestricted(os.Args[2:])
	case data != "":
		err = configureAndExec([]byte(data), os.Args[1:])
	default:
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(125)
}

func configureAndExec(data []byte, argv []string) error {
	var c guestapi.Config
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	if err := configure(c); err != nil {
		return err
	}
	return unix.Exec(argv[0], argv, []string{"PATH=" + os.Getenv("PATH")})
}

// inNamespaces runs a script after configure, both as root of a user namespace with
// namespaces of its own for all that configure changes.
func inNamespaces(t *testing.T, c guestapi.Config, script string) string {
	t.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := osexec.CommandContext(t.Context(), os.Args[0], "/bin/sh", "-c", script)
	cmd.Args = []string{os.Args[0], "/bin/sh", "-c", script}
	cmd.Env = append(os.Environ(), configVariable+"="+string(data))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{Size: 1, HostID: os.Getuid()}},
		GidMappings: []syscall.SysProcIDMap{{Size: 1, HostID: os.Getgid()}},
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Logf("the script ends with %v", err)
	}
	return strings.TrimSpace(out.String())
}

func TestConfigure(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("namespaces need root on some kernels")
	}
	file := t.TempDir() + "/hosts"
	for _, test := range []struct {
		summary string
		config  guestapi.Config
		script  string
		want    string
	}{
		{
			summary: "names",
			config:  guestapi.Config{Hostname: "build", Domainname: "example.test"},
			script:  "hostname; cat /proc/sys/kernel/domainname", want: "build\nexample.test",
		},
		{
			summary: "a setting of the network",
			config:  guestapi.Config{Sysctls: map[string]string{"net.core.somaxconn": "1024"}},
			script:  "cat /proc/sys/net/core/somaxconn", want: "1024",
		},
		{
			summary: "a setting that does not exist",
			config:  guestapi.Config{Sysctls: map[string]string{"net.core.nothing": "1"}},
			want:    `cannot set sysctl net.core.nothing to "1": this kernel has no such setting`,
		},
		{
			summary: "a value that the kernel does not take",
			config:  guestapi.Config{Sysctls: map[string]string{"net.core.somaxconn": "many"}},
			want:    `cannot set sysctl net.core.somaxconn to "many": the kernel does not take it in a guest`,
		},
		{
			summary: "a root that cannot be written, with a mount in it that can",
			config: guestapi.Config{
				ReadOnlyRoot: true, Files: map[string]string{file: "first\n"},
				Tmpfs: []guestapi.Tmpfs{{Target: "/mnt", Flags: []string{"nosuid", "nodev"}}},
			},
			script: "cat " + file + "; echo x 2>/dev/null >" + file + " || echo refused; echo x >/mnt/x && cat /mnt/x",
			want:   "first\nrefused\nx",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if got := inNamespaces(t, test.config, test.script); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestRestricted starts processes that may do less than the agent.
func TestRestricted(t *testing.T) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary string
		process guestapi.Process
		script  string
		want    string
	}{
		{
			summary: "limits",
			process: guestapi.Process{Rlimits: []guestapi.Rlimit{
				{Resource: unix.RLIMIT_NOFILE, Soft: 100, Hard: 200}, {Resource: unix.RLIMIT_CORE},
			}},
			script: "ulimit -Sn; ulimit -Hn; ulimit -c", want: "100\n200\n0\n",
		},
		{
			summary: "no new privileges",
			process: guestapi.Process{NoNewPrivileges: true},
			script:  "grep NoNewPrivs /proc/self/status", want: "NoNewPrivs:\t1\n",
		},
		{
			summary: "neither",
			script:  "grep NoNewPrivs /proc/self/status; ulimit -Hn",
			want:    fmt.Sprintf("NoNewPrivs:\t0\n%d\n", files.Max),
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			p := test.process
			p.Argv, p.Env = []string{"sh", "-c", test.script}, []string{"PATH=" + os.Getenv("PATH")}
			out, status, err := exec(t, guestapi.Request{Exec: &p})
			if err != nil || status != 0 || out != test.want {
				t.Errorf("got %q, status %d, %v; want %q", out, status, err, test.want)
			}
		})
	}
}

// TestLimitBeyond has a process without privileges ask for more than it may have.
func TestLimitBeyond(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("it becomes another user")
	}
	cmd := osexec.CommandContext(t.Context(), os.Args[0])
	cmd.Args = []string{
		"runner-shim", ExecRestricted, fmt.Sprintf(`{"rlimits":[{"resource":%d,"soft":1,"hard":%d}],"uid":65534,"gid":65534}`,
			unix.RLIMIT_MEMLOCK, uint64(math.MaxUint64)), "/bin/true", "true",
	}
	out, err := cmd.CombinedOutput()
	const want = "cannot set limit memlock to unlimited: operation not permitted; a guest has "
	if err == nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}
