package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// jobPatience bounds one job, under software emulation.
const jobPatience = 2 * time.Minute

// runJob runs a job to its end, which leaves nothing.
func (m *life) runJob(job miniworker.Job) miniworker.JobResult {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, jobPatience)
	defer cancel()
	result, err := m.lab.GitHub.Wait(ctx, m.lab.GitHub.Enqueue(job))
	if err != nil {
		m.Fatalf("job %q: %v", job.Name, err)
	}
	for _, step := range result.Steps {
		m.Log(step)
	}
	m.noResidue()
	return result
}

// printed checks what steps printed, and that they succeeded.
func (m *life) printed(result miniworker.JobResult, want map[string]string) {
	m.Helper()
	for name, text := range want {
		step := result.Step(name)
		if got := strings.Join(step.Output, "\n"); got != text || step.Conclusion != miniworker.Success {
			m.Errorf("step %s printed %q, want %q\n%v", name, got, text, step)
		}
	}
}

// noResidue: no guest, mount, cgroup or directory of a job is left.
func (m *life) noResidue() {
	m.Helper()
	left, err := m.lab.Leftovers(m.ctx)
	if err != nil {
		m.Fatal(err)
	}
	if left != "" {
		m.Errorf("the job left behind:\n%s", left)
	}
}

// who prints what a step is, and what it can see of the appliance.
const who = `id -un; sudo id -u; cat /proc/1/comm; echo $HOME
ls -d /usr/lib/runner/base /etc/runner/config.env 2>/dev/null || echo nothing of the host`

// job: a job without a container runs in a guest of its own, where its steps are
// who they are on GitHub's machines: root by sudo, with apt-get and systemd.
func (m *life) job() {
	result := m.runJob(miniworker.Job{Name: "plain", Steps: []miniworker.Step{
		{Name: "who", Run: who},
		{Name: "write", Run: "echo hello >made-by-job; cat made-by-job; stat -c %U made-by-job"},
		{Name: "apt-get", Run: aptGet},
		{Name: "systemctl", Run: systemctl},
		{Name: "fail", Run: "exit 7"},
	}})
	m.printed(result, map[string]string{
		"who":       "runner\n0\nsystemd\n/home/runner\nnothing of the host",
		"write":     "hello\nrunner",
		"apt-get":   "hello of the package",
		"systemctl": "active\nhello of the unit",
	})
	if step := result.Step("fail"); step.Exit != 7 || step.Conclusion != miniworker.Failure {
		m.Errorf("step fail: %v", step)
	}
	if len(result.Annotations) > 1 || strings.Contains(fmt.Sprint(result.Annotations), "disk space") {
		m.Errorf("want one annotation, that of exit 7; got %q", result.Annotations)
	}
	if found := m.sh("find /var/lib/runner -name made-by-job"); found != "" {
		m.Errorf("the job's file is still there: %s", found)
	}
}

// aptGet makes a package and a mirror that has it, and installs it from there.
const aptGet = `mkdir -p mirror root/DEBIAN root/usr/bin
cd root
printf '#!/bin/sh\necho hello of the package\n' >usr/bin/hello-of-mirror
chmod 755 usr/bin/hello-of-mirror
printf 'Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: %s\n' \
    hello-of-mirror hello >DEBIAN/control
dpkg-deb --build --root-owner-group . ../mirror/hello.deb >/dev/null
cd ../mirror
{ dpkg-deb --field hello.deb; echo Filename: ./hello.deb; stat -c 'Size: %s' hello.deb
  sha256sum hello.deb | sed 's/^\([^ ]*\).*/SHA256: \1/'; } >Packages
python3 -m http.server --bind 127.0.0.1 8123 >log 2>&1 &
echo 'deb [trusted=yes] http://127.0.0.1:8123 ./' >list
options="-qq -o Dir::Etc::sourcelist=$PWD/list -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root"
until sudo apt-get $options update >log2 2>&1 && grep -q 'GET /.*Packages' log; do sleep 0.2; done
sudo apt-get $options install -y hello-of-mirror >log2 2>&1 || cat log2
hello-of-mirror
kill %1 2>/dev/null || true`

// systemctl starts a unit that the step writes.
const systemctl = `printf '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c "%s"\n' \
    'echo hello of the unit >/run/hello' | sudo tee /etc/systemd/system/hello.service >/dev/null
sudo systemctl daemon-reload
sudo systemctl start hello.service
systemctl is-active hello.service
cat /run/hello`

// containerJob: the steps of a job with a container run in a guest beside the
// worker's, the exit statuses of its steps come back, and both are removed.
func (m *life) containerJob() {
	result := m.runJob(miniworker.Job{Name: "build", Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{
			{Name: "write", Run: "id -u; echo hello >made-by-job"},
			{Name: "read", Run: "cat made-by-job; cat /proc/1/comm"},
			{Name: "look", Run: "ps -eo args=; ls -d /usr/lib/runner/base || echo no base here", If: "always"},
			{Name: "fail", Run: "exit 7"},
		}})
	m.printed(result, map[string]string{"write": "0", "read": "hello\nsystemd"})
	look := strings.Join(result.Step("look").Output, "\n")
	if strings.Contains(look, "Runner.") || strings.Contains(look, "sshd") || !strings.Contains(look, "guest-init") {
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
}

// services: steps reach a service at localhost by its port, in both address
// families, and by its name in the workflow; it reaches a port of a step.
func (m *life) services() {
	const serve = "-c 'cd /etc && exec python3 -m http.server 8000'"
	result := m.runJob(miniworker.Job{Name: "services",
		Services: []miniworker.Container{
			{Key: "web", Image: "debian:13", Entrypoint: "/bin/sh", Command: serve, Ports: []string{"8080:8000"}},
		},
		Steps: []miniworker.Step{
			{Name: "reach", Run: `for at in 127.0.0.1:8080 '[::1]:8080' localhost:8080 web:8000; do
    for try in $(seq 100); do
        name=$(python3 -c "import urllib.request as r; print(r.urlopen('http://$at/hostname').read())" 2>/dev/null) &&
            break
        sleep 0.2
    done
    test -n "$name" && echo "$at"
    name=
done`},
			{Name: "docker", Uses: &miniworker.Container{Image: "debian:13", Entrypoint: "/bin/sh",
				Command: "-c 'getent hosts web >/dev/null && echo web is known; cat /proc/1/comm'"}},
		}})
	m.printed(result, map[string]string{
		"reach":  "127.0.0.1:8080\n[::1]:8080\nlocalhost:8080\nweb:8000",
		"docker": "web is known\nsystemd",
	})
}

// withJobs restarts the services with another RUNNER_JOBS while test runs.
func (m *life) withJobs(mode string, test func()) {
	m.Helper()
	m.sh("cp -p /etc/runner/config.env /root/config.env; echo RUNNER_JOBS=" + mode + " >>/etc/runner/config.env; " +
		"systemctl restart runner-guestd.service runner.service")
	test()
	m.sh("cp -p /root/config.env /etc/runner/config.env; systemctl restart runner-guestd.service runner.service")
}

// onlyContainers: with RUNNER_JOBS=container jobs without one are refused, and the
// others run as always.
func (m *life) onlyContainers() {
	m.withJobs("container", func() {
		result := m.runJob(miniworker.Job{Name: "refused", Steps: []miniworker.Step{{Name: "step", Run: "echo ran"}}})
		refusal := strings.Join(result.Step("Set up job").Errors, "\n")
		if len(result.Step("step").Output) > 0 || !strings.HasPrefix(refusal, "Jobs without a job container are forbidden") {
			m.Errorf("want the job refused: %v", result)
		}

		result = m.runJob(miniworker.Job{Name: "taken", Container: &miniworker.Container{Image: "debian:13"},
			Steps: []miniworker.Step{{Name: "step", Run: "echo made >made-by-job; echo ran"}}})
		m.printed(result, map[string]string{"step": "ran"})
		if strings.Contains(fmt.Sprint(result.Annotations), "disk space") {
			m.Errorf("the worker warns of a full disk: %q", result.Annotations)
		}
		m.sh("test -z \"$(find /var/lib/runner -name made-by-job)\"")
	})
}

// onHost: with RUNNER_JOBS=host the worker and steps outside containers run on the
// host, as its user runner, and steps of a container in a guest.
func (m *life) onHost() {
	m.withJobs("host", func() {
		result := m.runJob(miniworker.Job{Name: "on the host", Steps: []miniworker.Step{
			{Name: "who", Run: "id -un; ls -d /usr/lib/runner/base; echo hello >made-by-job"},
		}})
		m.printed(result, map[string]string{"who": "runner\n/usr/lib/runner/base"})
		if len(result.Annotations) > 0 {
			m.Errorf("want no annotation, that of a full disk least of all; got %q", result.Annotations)
		}
		const made = "/var/lib/runner/work/repo/repo/made-by-job"
		if got := m.sh("cat " + made + "; stat -c %U " + made); got != "hello\nrunner" {
			m.Errorf("the job's file and its owner are %q", got)
		}

		result = m.runJob(miniworker.Job{Name: "container", Container: &miniworker.Container{Image: "debian:13"},
			Steps: []miniworker.Step{
				{Name: "who", Run: "id -u; ls -d /usr/lib/runner/base 2>/dev/null || echo no base here"},
			}})
		m.printed(result, map[string]string{"who": "0\nno base here"})
	})
}
