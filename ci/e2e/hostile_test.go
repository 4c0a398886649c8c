package e2e

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/mkappliance/mkappliance/ci/appliance"
	"github.com/mkappliance/mkappliance/ci/miniworker"
)

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

	result := m.runJob(miniworker.Job{Name: "hungry", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{
			{Name: "memory", Run: "exec python3 -c 'bytearray(700 << 20)'", ContinueOnError: true},
			{Name: "network", Run: "gateway=$(ip route show default | cut -d ' ' -f 3); test -n \"$gateway\"\n" +
				lookFor("$gateway/22", metadataAddr+"/22", "10.0.2.15/22", "10.0.2.100/80")},
			{Name: "reset", Run: "(echo h >/proc/sysrq-trigger) 2>/dev/null && echo written; echo looked"},
			// Last: what it starts stays until the guest ends.
			{Name: "processes", Run: "for i in $(seq 500); do sleep 60 & done", ContinueOnError: true},
		}})
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

// attacks is what a hostile step does one after another to the worker that runs
// it, to what the appliance reads of its job, and to what has to be removed.
const attacks = `set +e
for file in "$GITHUB_ENV" "$GITHUB_OUTPUT" "$GITHUB_PATH" "$GITHUB_STATE" "$GITHUB_STEP_SUMMARY"; do
    ln -sf /var/lib/runner/actions-runner/.credentials "$file"
done
mkdir bin
printf '#!/bin/sh\ntouch /var/lib/runner/escaped /tmp/escaped\n' >bin/bash
chmod 755 bin/bash
rm -rf "$RUNNER_TEMP"
ln -s /etc "$RUNNER_TEMP"
rm -rf /var/lib/runner/actions-runner/_diag 2>/dev/null
ln -s /etc/runner /var/lib/runner/actions-runner/_diag
perl -e 'for (1..3000) { mkdir "d" x 200; chdir "d" x 200 or last }'
sudo perl -e 'chdir "/sys/fs/cgroup"; for (1..3000) { mkdir "c" or last; chdir "c" or last }'
sudo mkdir -p /run/runner/job && sudo mount -t tmpfs tmpfs /run/runner/job
mkfifo fifo
truncate -s 8T sparse
cat /etc/runner/config.env 2>/dev/null
ls -d /usr/lib/runner/base /var/lib/runner/jobs 2>/dev/null
sed -n 's/.*"clientId":"\([0-]*\)".*/client \1/p' /var/lib/runner/actions-runner/.credentials
sudo chmod 0 /var/lib/runner/work
echo tried`

// escape: a job tries all that the review found, and its successor is served. The
// bash that a job has the worker find is executed in a guest at most.
func (m *life) escape() {
	plant := []miniworker.Step{
		{Name: "plant", Run: "mkdir bin; printf '#!/bin/sh\\ntouch /tmp/escaped /var/lib/runner/escaped\\n' >bin/bash\n" +
			"chmod 755 bin/bash; echo $PWD/bin >>$GITHUB_PATH"},
		{Name: "victim", Run: "true", Shell: "bash", ContinueOnError: true},
	}
	m.runJob(miniworker.Job{Name: "x completed with result: Failed", Steps: plant})
	m.runJob(miniworker.Job{Name: "x\nRunner Version is deprecated\n",
		Container: &miniworker.Container{Image: "debian:13"}, Steps: plant})

	result := m.runJob(miniworker.Job{Name: "attacks", Steps: []miniworker.Step{
		{Name: "attack", Run: attacks, ContinueOnError: true}, {Name: "after", Run: "echo on", If: "always"},
	}})
	// The guest's credentials are made up, because the worker wants a file of them.
	const want = "client 00000000-0000-0000-0000-000000000000\ntried"
	if got := strings.Join(result.Step("attack").Output, "\n"); got != want {
		m.Errorf("the attacks were not all tried, or found something of the host:\n%s", got)
	}
	m.runJob(miniworker.Job{Name: "dies", Steps: []miniworker.Step{
		{Name: "kill", Run: "sudo sh -c 'kill -9 -1'; sleep 60"},
	}})

	m.sh("test -z \"$(find / -xdev -name escaped; find /var /tmp /run -name escaped)\" && test -d /etc/runner")
	m.printed(m.runJob(miniworker.Job{Name: "next", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{{Name: "step", Run: "echo served"}}}), map[string]string{"step": "served"})
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
