package guests

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// probe is a script that tries to get beyond the guest. The same script runs
// outside the guest too, where it must succeed: a probe with a mistyped path,
// or for something that this host does not have, proves nothing.
type probe struct {
	summary string
	script  string
	inside  string // output in the guest
	outside string // output on the host, or different
	// host comes before the script on the host, in a mount namespace that ends
	// with it; guest comes before it in the guest.
	host, guest string
	// unplanted is why the host has nothing to find: the probe is skipped.
	unplanted error
}

// different stands for any output other than the guest's.
const different = "<different>"

// probes runs them all in one guest, in order: they may leave traces in it.
func (l *lab) probes() {
	l.plantFiles()
	l.plantDockerSocket()
	l.plantListeners()
	job := l.prepare()
	// Where the worker keeps the hook's answers; the broker has just wiped it.
	answers := l.path("work/_temp/_runner_hook_responses")
	if err := errors.Join(os.MkdirAll(answers, 0o755), os.WriteFile(answers+"/answer", nil, 0o644)); err != nil {
		l.Fatal(err)
	}

	_, gateway := l.sh(job, "ip route show default | awk '{print $3}'")
	if _, got := l.sh(job, connect(internetAddr, 80)); got != "reached" {
		l.Fatalf("the guest does not reach the internet, so that it reaches nothing else either: %q", got)
	}

	for _, p := range append(l.hostProbes(), l.networkProbes(gateway)...) {
		l.run(p.summary, func(l *lab) {
			_, got := l.sh(job, p.guest+p.script)
			l.probe(p, got)
		})
	}
	l.cleanup(job)
	l.noResidue()
}

// probe compares what a probe printed in a guest, and runs it on the host.
func (l *lab) probe(p probe, got string) {
	if p.unplanted != nil {
		l.Skipf("nothing shows whether a guest finds it, since it is not there: %v", p.unplanted)
	}
	if p.inside == p.outside {
		l.Fatal("this probe expects the same on both sides, so that it cannot fail")
	}
	if got != p.inside {
		l.Errorf("%s\nprinted %q in the guest, want %q", p.script, got, p.inside)
	}

	out, _ := l.command("unshare", "--mount", "--propagation", "private", "sh", "-c", p.host+p.script).CombinedOutput()
	got = strings.TrimSpace(string(out))
	if p.outside == different && got == p.inside || p.outside != different && got != p.outside {
		l.Errorf("%s\nprinted %q outside the guest, want %s: it proves nothing", p.script, got, p.outside)
	}
}

// hostProbes are for files, devices, processes and settings of the host.
func (l *lab) hostProbes() []probe {
	const readOnly = "mount --bind $target $target && mount -o remount,bind,ro $target || echo 'no read-only mount here'\n"
	const writable = "(mount -o remount,rw $target || mount -o remount,bind,rw $target) 2>/dev/null\n" +
		"touch $target/x 2>/dev/null && echo written; rm -f $target/x 2>/dev/null\n"
	lab, secret := filepath.Base(l.dir), l.path("credentials")
	kernelLog := "canary of " + lab
	noKernelLog := os.WriteFile("/dev/kmsg", []byte(kernelLog), 0)
	probes := []probe{
		{
			summary: "a file of the host", script: "cat " + secret + " 2>/dev/null",
			outside: "canary-of-the-host",
		},
		{
			summary: "a file of the host through a process",
			script:  "for root in /proc/[0-9]*/root; do cat $root" + secret + "; done 2>/dev/null | head -n 1",
			outside: "canary-of-the-host",
		},
		{
			summary: "answers of the hook", script: "ls -A $target",
			guest:   "target=/__w/_temp/_runner_hook_responses\n",
			host:    "target=" + l.path("work/_temp/_runner_hook_responses") + "\n",
			outside: "answer",
		},
		{
			summary: "block devices", script: "find /dev -type b 2>/dev/null | grep -q . && echo found",
			outside: "found",
		},
		{
			summary: "a block device of its own",
			script: "mknod /tmp/guests-probe b 254 0 2>&1 | grep -o 'not permitted'; test -b /tmp/guests-probe && " +
				"echo made; rm -f /tmp/guests-probe",
			inside: "not permitted", outside: "made",
		},
		{
			summary: "the runner's externals", script: writable,
			guest: "target=/__e\n", host: "target=" + l.path("runner/externals") + "\n" + readOnly,
			outside: "written",
		},
		{
			summary: "a read-only bind of config.env", script: writable + "cat $target/file",
			guest: "target=" + l.path("shown") + "\n", host: "target=" + l.path("shown") + "\n" + readOnly,
			inside: "shown", outside: "written\nshown",
		},
		{
			summary: "the kernel log",
			script: "{ dmesg; dmesg --syslog; unshare --map-root-user dmesg; } 2>/dev/null | grep -q '" + kernelLog +
				"' && echo read",
			outside: "read", unplanted: noKernelLog,
		},
		{
			summary: "processes of the host",
			script: "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null | grep -q '[" + lab[:1] +
				"]" + lab[1:] + "' && echo seen",
			outside: "seen",
		},
		{
			summary: "the socket of a Docker daemon",
			script:  "for socket in /run/docker.sock /var/run/docker.sock; do test -S $socket && echo $socket; done",
			outside: "/run/docker.sock\n/var/run/docker.sock",
		},
		{
			// It writes the value that is there.
			summary: "kernel settings",
			script: "read -r v </proc/sys/kernel/core_pattern; (echo \"$v\" >/proc/sys/kernel/core_pattern) 2>/dev/null && " +
				"echo written",
			outside: "written",
		},
		{
			summary: "capabilities and seccomp", script: "grep -E '^(Seccomp|CapBnd):' /proc/self/status | tr -d '\\n\\t'",
			inside: "CapBnd:00000000fdecbfffSeccomp:2", outside: different,
		},
	}
	if _, err := os.Stat(sysRq); err != nil {
		l.Logf("this host has nothing to keep guests from here, ci/e2e has: %v", err)
		return probes
	}
	// h prints a help text into the kernel log; the host survives it.
	return append(probes, probe{
		summary: "SysRq", script: "(echo h >" + sysRq + ") 2>/dev/null && echo written", outside: "written",
	})
}

// sysRq is a way to reset a machine, on kernels that have it, proc(5).
const sysRq = "/proc/sysrq-trigger"

// networkProbes are for addresses that the host reaches and a guest must not.
func (l *lab) networkProbes(gateway string) []probe {
	return []probe{
		{summary: "a port of the host", script: connect(gateway, 9999), outside: "reached"},
		{summary: "the metadata service", script: connect(metadataAddr, 80), outside: "reached"},
	}
}

// metadataAddr is where a cloud serves credentials to its machines.
const metadataAddr = "169.254.169.254"

// connect is a script that prints "reached" if something listens there.
func connect(address string, port int) string {
	return fmt.Sprintf("timeout 3 bash -c 'exec 3<>/dev/tcp/%s/%d' 2>/dev/null && echo reached", address, port)
}

// plantFiles makes the files of the host that guests look for.
func (l *lab) plantFiles() {
	l.Helper()
	if err := errors.Join(os.WriteFile(l.path("shown/file"), []byte("shown"), 0o644),
		os.WriteFile(l.path("credentials"), []byte("canary-of-the-host\n"), 0o644)); err != nil {
		l.Fatal(err)
	}
}

// plantDockerSocket listens where a Docker daemon would, unless one does.
func (l *lab) plantDockerSocket() {
	l.Helper()
	const path = "/run/docker.sock"
	if _, err := os.Lstat(path); err == nil {
		return
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = listener.Close() }) // and removes it
}

// plantListeners puts a metadata service and a web server into the internet,
// and a server on the host itself.
func (l *lab) plantListeners() {
	l.Helper()
	internet := l.makeInternet()
	l.ip("-netns", internet, "address", "add", metadataAddr+"/32", "dev", "eth0")
	for _, listener := range []net.Listener{
		l.listenIn(internet, internetAddr+":80"), l.listenIn(internet, metadataAddr+":80"), l.listen("0.0.0.0:9999"),
	} {
		l.Cleanup(func() { _ = listener.Close() })
	}
}
