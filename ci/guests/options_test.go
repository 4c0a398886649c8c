package guests

import (
	"strings"

	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// furtherOptions runs what the options of agent/dockeropts' TestReviewed ask for; the
// numbers are those of its rows.
func (l *lab) furtherOptions(s *shelf) {
	options := []struct{ id, option, probe, want string }{
		{"O019", "--mount type=tmpfs,destination=/fast", "stat -f -c %T /fast", "tmpfs"},
		{"O020", "--mount type=volume,source=vol,target=/vol", "touch /vol/x && echo yes", "yes"},
		{"O026", "--ulimit nofile=5000:6000", "ulimit -Sn; ulimit -Hn", "5000\n6000"},
		{"O027", "--ulimit memlock=65536", "ulimit -Hl", "64"},
		{"O028", "--ulimit core=0", "ulimit -c", "0"},
		{"O029", "--security-opt seccomp=unconfined", "", ""},
		{"O031", "--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"},
		{"O036", "--cap-add ALL", "mount -t tmpfs x /mnt && echo mounted", "mounted"},
		{"O040", "--cap-add SYS_TIME", "date -s now >/dev/null 2>&1 || echo refused", "refused"},
		{"O044", "--dns 192.0.2.53", "grep nameserver /etc/resolv.conf", "nameserver 192.0.2.53"},
		{"O045", "--dns-search example.test --dns-opt ndots:2", "grep -v nameserver /etc/resolv.conf",
			"search example.test\noptions ndots:2"},
		{"O046", "--sysctl net.core.somaxconn=1024", "cat /proc/sys/net/core/somaxconn", "1024"},
		{"O048", "--platform linux", "", ""},
		{"O050", "--ipc=host", "", ""},
		{"O065", "--cpu-shares 512", "test ! -e /sys/fs/cgroup/cpu.weight || cat /sys/fs/cgroup/cpu.weight", "20"},
		{"O066", "--cpuset-cpus 0", "test ! -e /sys/fs/cgroup/cpuset.cpus || nproc", "1"},
		{"O067", "--cpu-quota 50000 --cpu-period 100000",
			"test ! -e /sys/fs/cgroup/cpu.max || cat /sys/fs/cgroup/cpu.max", "50000 100000"},
		{"O068", "--oom-score-adj 500", "cat /proc/self/oom_score_adj", "500"},
		{"O070", "--hostname build", "hostname", "build"},
		{
			"O071",
			"--domainname example.test",
			"cat /proc/sys/kernel/domainname; hostname -f",
			"example.test\nbuild.example.test",
		},
		{"O078", "--restart always", "", ""},
		{"O081", "-it", "", ""},
		{"O088", "--group-add 1234 --group-add adm", "id -G", "0 4 1234"},
		{"O100", "--tmpfs /tmpfs:rw,exec,uid=1000,gid=1000", "stat -c %u:%g /tmpfs", "1000:1000"},
		{"S41", "", "mkdir /new && echo written", "written"},
	}
	var line, script, want []string
	for _, o := range options {
		if o.option != "" {
			line = append(line, o.option)
		}
		if o.probe == "" {
			continue
		}
		script = append(script, "echo "+o.id, o.probe)
		want = append(want, o.id, o.want)
	}

	r := l.job(miniworker.Job{Name: "further", Container: &miniworker.Container{
		Image: s.debian, Options: strings.Join(line, " \\\n"),
	}, Steps: []miniworker.Step{{Name: "look", Run: strings.Join(script, "\n")}}})
	// Where the kernel has no controller for a limit, its probe prints nothing.
	got := printed(r.Step("look"))
	for _, id := range []string{"O065\n20", "O066\n1", "O067\n50000 100000"} {
		if empty, _, _ := strings.Cut(id, "\n"); !strings.Contains(got, id) && strings.Contains(got, empty+"\nO") {
			got = strings.Replace(got, empty, id, 1)
		}
	}
	if got != strings.Join(want, "\n") {
		l.Errorf("the container has\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	l.noticesOf(r.Step("Initialize containers"), "--restart always has no effect", "--cap-add ALL adds",
		"--cap-add SYS_TIME has no effect", "--ipc host has no effect", "seccomp=unconfined has no effect")

	l.outputJob(s)
	l.readOnlyJob(s)
	l.gatewayJob(s)
}

// noticesOf: preparing a container says what its options mean here.
func (l *lab) noticesOf(step miniworker.StepResult, notices ...string) {
	l.Helper()
	said := printed(step)
	for _, notice := range notices {
		if !strings.Contains(said, "container: options: option ") || !strings.Contains(said, notice) {
			l.Errorf("no %q in\n%s", notice, said)
		}
	}
}

// outputJob has rows S31 and X4: a user opens its output by name, and a program that a
// step leaves running logs for nobody.
func (l *lab) outputJob(s *shelf) {
	r := l.job(miniworker.Job{Name: "output", Container: &miniworker.Container{Image: s.debian, Options: "--user 1001"},
		Steps: []miniworker.Step{
			{Name: "stdout", Run: "echo one >/dev/stdout"},
			{Name: "stderr", Run: "echo two | tee /dev/stderr >/dev/null"},
			{Name: "start", Run: "(for i in 1 2 3 4 5 6 7 8 9; do sleep 0.1; echo line; done; echo written >/tmp/done) &"},
			{Name: "ask", Run: "for i in $(seq 100); do test ! -e /tmp/done || break; sleep 0.1; done; cat /tmp/done"},
		}})
	l.said(r, map[string]string{"stdout": "one", "stderr": "two", "ask": "written"})
}

// readOnlyJob has row O059, and the limit of open files without an option.
func (l *lab) readOnlyJob(s *shelf) {
	r := l.job(miniworker.Job{Name: "read-only", Container: &miniworker.Container{
		Image: s.debian, Options: "--read-only --tmpfs /scratch",
	}, Steps: []miniworker.Step{{Name: "write", Run: "touch /x 2>/dev/null || echo refused\n" +
		"touch /scratch/x file $HOME/x && echo written\nulimit -Hn"}}})
	said := strings.Split(printed(r.Step("write")), "\n")
	if len(said) != 3 || said[0] != "refused" || said[1] != "written" {
		l.Errorf("the step says %q", said)
	}
	l.Logf("a process may have %s open files", said[len(said)-1])

	r = l.job(miniworker.Job{Name: "too-much", Container: &miniworker.Container{
		Image: s.debian, Options: "--ulimit rtprio=99",
	}, Steps: []miniworker.Step{{Name: "start", Run: "true"}}})
	const want = "cannot set limit rtprio to 99: operation not permitted; a guest has 0 at most"
	if step := r.Step("start"); step.Exit == 0 || !strings.Contains(printed(step), want) {
		l.Errorf("step %v, want %s", step, want)
	}
}

// gatewayJob has row O025: a container reaches what a step of the job serves.
func (l *lab) gatewayJob(s *shelf) {
	r := l.job(miniworker.Job{Name: "gateway", Container: &miniworker.Container{
		Image: s.debian, Options: "--add-host=host.docker.internal:host-gateway",
	}, Steps: []miniworker.Step{{Name: "look", Run: "for name in host.docker.internal runner; do\n" +
		"getent ahostsv4 $name | head -n 1\ndone | cut -d' ' -f1 | uniq -c"}}})
	if l.place == onHost {
		const want = "container: options: option --add-host: host-gateway is not supported where steps run on the host"
		if step := r.Step("Initialize containers"); step.Exit == 0 || !strings.Contains(printed(step), want) {
			l.Errorf("step %v, want %s", step, want)
		}
		return
	}
	if got := strings.Fields(printed(r.Step("look"))); len(got) != 2 || got[0] != "2" {
		l.Errorf("the gateway and the guest of the worker are %q", got)
	}
}

func printed(step miniworker.StepResult) string { return strings.Join(step.Output, "\n") }
