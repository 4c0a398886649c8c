package guests

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// response is what the runner reads of prepare_job's answer.
type response struct {
	IsAlpine *bool
	State    json.RawMessage
	Context  struct {
		Container *struct {
			ID, Network string
			Ports       map[string]string
		}
		Services []struct {
			ID, Network string
			Ports       map[string]string
		}
	}
}

func (l *lab) response(r miniworker.JobResult) response {
	l.Helper()
	step := r.Step("Initialize containers")
	if step.Conclusion != miniworker.Success {
		l.Fatalf("step %v", step)
	}
	var answer response
	if err := json.Unmarshal([]byte(step.Response), &answer); err != nil {
		l.Fatalf("%v: %s", err, step.Response)
	}
	return answer
}

// said checks what steps of a job printed, and that they succeeded.
func (l *lab) said(r miniworker.JobResult, want map[string]string) {
	l.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		text, step := want[name], r.Step(name)
		output := slices.DeleteFunc(slices.Clone(step.Output),
			func(line string) bool { return progressLine.MatchString(line) })
		if got := strings.Join(output, "\n"); got != text || step.Conclusion != miniworker.Success {
			l.Errorf("step %s printed %q, want %q\n%v", name, got, text, step)
		}
	}
}

// progressLine is a line about the pulling of an image.
var progressLine = regexp.MustCompile(`^[0-9.]+:5000/.*: (pulling|ready after) `)

var hexID = regexp.MustCompile(`^[0-9a-f]+$`)

// hookTests are the portable tests of the reference hooks, by their numbers in
// the order of actions/runner-container-hooks' own (D: docker, K: k8s), as whole
// jobs of the runner against real guests. They expect the same of a job on the
// host, of one in a guest and of one on a booted appliance; differs names what is
// not the same.
var hookTests = []struct {
	summary string
	test    func(*lab, *shelf)
	differs string
	brief   bool // also in the booted image where not all of them run there
}{
	{
		summary: "Job_D1-D5_D7_K3_K4_K6_K12", test: (*lab).jobWithServices,
		differs: "in a guest the job knows its services by the workflow's names, too", brief: true,
	},
	{
		summary: "ServicesOnly_D6", test: (*lab).servicesOnly,
		differs: "in a guest the job knows its services by the workflow's names, and at ::1",
	},
	{summary: "Steps_D8-D11_K13-K17", test: (*lab).scriptSteps, brief: true},
	{
		summary: "Payloads_K10", test: (*lab).payloads,
		differs: "in a guest the hook is called by a step, and the response lies in the job's own work directory",
	},
	{summary: "ContainerStep_D14_D15_K18", test: (*lab).containerSteps},
	{summary: "Volumes_K2", test: (*lab).volumes, brief: true},
	{
		summary: "Alpine_D3_K7", test: (*lab).alpineJob,
		differs: "the image's stub of the actions runner has no node.js for musl: no step runs it there",
	},
	{summary: "NonRoot_K11", test: (*lab).nonRootJob},
	{summary: "Options", test: (*lab).optionsJob},
	{
		summary: "FurtherOptions", test: (*lab).furtherOptions,
		differs: "a job on the host has no host-gateway",
	},
	{summary: "Health", test: (*lab).healthJob},
	{summary: "Registry", test: (*lab).registryJob},
	{summary: "Offline", test: (*lab).offlineJob}, // the last: it closes the registry
}

func TestHooks(t *testing.T) {
	l := newLab(t, "RUNNER_NSPAWN_BIND=LAB/share:/share", "RUNNER_VOLUMES=kept")
	if err := errors.Join(os.Mkdir(l.path("share"), 0o755), os.Chown(l.path("share"), runnerID, runnerID)); err != nil {
		t.Fatal(err)
	}
	l.addNode()
	s := l.newShelf()
	l.serveGitHub()
	for _, test := range hookTests {
		l.run(test.summary, func(l *lab) {
			l.inBoth(func(l *lab) {
				test.test(l, s)
				l.noResidue()
			})
		})
	}
}

func (l *lab) jobWithServices(s *shelf) {
	job := miniworker.Job{Name: "services",
		Container: &miniworker.Container{Image: s.debian, Env: map[string]string{"CI": "false", "CLASH": "job"},
			Ports: []string{"8080:80"}, Volumes: []string{"env:/v"}},
		Services: []miniworker.Container{
			{Image: s.scratch, Command: "serve 80", Ports: []string{"8081:80", "8088:8080", "81"}},
			{Image: s.scratch, Command: "serve 81", Options: "--network-alias second"},
			{Image: s.debian, Entrypoint: "sh", Command: `-c 'echo $CI $GITHUB_ACTIONS $IMAGE_ENV >/v/env; exec sleep 1000'`,
				Volumes: []string{"env:/v"}},
			{Image: s.healthy},
		},
		Steps: []miniworker.Step{
			{Name: "alias", Shell: "bash", Run: "exec 3<>/dev/tcp/app/80; cat <&3"},
			{Name: "second alias", Shell: "bash",
				Run: "exec 3<>/dev/tcp/second/81; cat <&3; exec 3<>/dev/tcp/app-2/81; cat <&3"},
			{Name: "env", Run: "echo $CI $GITHUB_ACTIONS $IMAGE_ENV $CLASH $STEP $HOME", Env: map[string]string{"STEP": "s"}},
			{Name: "service env", Run: "cat /v/env"},
			{Name: "override", Run: "echo $CLASH $IMAGE_ENV", Env: map[string]string{"CLASH": "step", "IMAGE_ENV": "step"}},
		}}
	said := map[string]string{
		"alias": "hello from app", "second alias": "hello from app\nhello from app",
		"env": "false true from-image job s /github/home", "override": "step step",
		"service env": "true true from-image",
	}
	if l.workerInGuest() {
		job.Services[1].Key = "the-second"
		job.Steps = append(job.Steps, miniworker.Step{Name: "keys", Shell: "bash",
			Run: "exec 3<>/dev/tcp/service1/80; cat <&3; exec 3<>/dev/tcp/the-second/81; cat <&3"})
		said["keys"] = "hello from app\nhello from app"
	}
	r := l.job(job)
	l.said(r, said)

	answer := l.response(r)
	c := answer.Context.Container
	if answer.IsAlpine == nil || *answer.IsAlpine || c == nil || !hexID.MatchString(c.ID) || c.Network == "" ||
		c.Ports["80"] != "8080" {
		l.Errorf("the container is %+v, alpine %v", c, answer.IsAlpine)
	}
	services := answer.Context.Services
	if len(services) != 4 {
		l.Fatalf("got %d services, want 4", len(services))
	}
	if p := services[0].Ports; p["80"] != "8081" || p["8080"] != "8088" || p["81"] == "" || len(p) != 3 {
		l.Errorf("ports are %v", p)
	}

	// No two have the same name, and all are in one network.
	seen := map[string]bool{c.ID: true}
	for i, service := range services {
		if seen[service.ID] || !hexID.MatchString(service.ID) || service.Network != c.Network || service.Ports == nil {
			l.Errorf("service %d is %+v", i, service)
		}
		seen[service.ID] = true
	}
}

// servicesOnly: the steps run beside the worker, where ports are published.
func (l *lab) servicesOnly(s *shelf) {
	service := miniworker.Container{Key: "web", Image: s.scratch, Command: "serve 80", Ports: []string{"8080:80"}}
	addresses := []string{"127.0.0.1/8080"}
	if l.workerInGuest() {
		addresses = append(addresses, "::1/8080", "localhost/8080", "web/80")
	}
	job := miniworker.Job{Name: "services-only", Services: []miniworker.Container{service}}
	said := map[string]string{}
	for _, address := range addresses {
		job.Steps = append(job.Steps,
			miniworker.Step{Name: address, Shell: "bash", Run: "exec 3<>/dev/tcp/" + address + "; cat <&3"})
		said[address] = "hello from app"
	}

	r := l.job(job)
	answer := l.response(r)
	if answer.Context.Container != nil || answer.IsAlpine != nil || len(answer.Context.Services) != 1 {
		l.Errorf("got %+v", answer)
	}
	l.said(r, said)
}

func (l *lab) scriptSteps(s *shelf) {
	big := strings.Repeat("x", 100_000)
	r := l.job(miniworker.Job{Name: "steps", Container: &miniworker.Container{Image: s.debian}, Steps: []miniworker.Step{
		{Name: "path", Run: "echo /some/path >>$GITHUB_PATH"},
		{Name: "path again", Run: "echo /some/other/path >>$GITHUB_PATH"},
		{Name: "PATH", Run: "echo $PATH"},
		{Name: "dollar", Run: `printf '%s|' "$A" "$B" "$C" "$D"`, Env: map[string]string{"A": "$VAR", "B": "${VAR}",
			"C": "$(VAR)", "D": "\\ `id` \" ' = \n2"}},
		{Name: "flags", Run: "echo $CI $GITHUB_ACTIONS"},
		{Name: "big", Run: "printf %s \"$BIG\" | wc -c", Env: map[string]string{"BIG": big}},
		{Name: "too big", ContinueOnError: true, Run: "true", Env: map[string]string{"BIG": strings.Repeat("x", 1<<20)}},
		{Name: "no directory", ContinueOnError: true, Run: "true", WorkingDirectory: "/foo/bar"},
		{Name: "bytes", Run: `printf 'a\377b\npartial'`},
		{Name: "status", ContinueOnError: true, Run: "exit 42"},
		{Name: "signal", ContinueOnError: true, Run: "kill -9 $$"},
	}})
	l.said(r, map[string]string{
		"PATH":   "/some/other/path:/some/path:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"dollar": "$VAR|${VAR}|$(VAR)|\\ `id` \" ' = \n2|", "flags": "true true", "big": "100000",
		"bytes": "a\uFFFDb\npartial",
	})
	for _, test := range []struct {
		step string
		exit int
		text string // a line of its output
	}{
		{step: "too big", exit: 125, text: "::error::cannot run step \"__run\": cannot start process: " +
			"variable BIG with 1048580 bytes is too long: Linux takes 131071; put the value into a file"},
		{step: "no directory", exit: 125, text: "::error::cannot run step \"__run\": cannot start process: " +
			"working directory /foo/bar does not exist in the guest"},
		{step: "status", exit: 42},
		{step: "signal", exit: 137},
	} {
		step := r.Step(test.step)
		if step.Exit != test.exit || test.text != "" && !slices.Contains(step.Output, test.text) {
			l.Errorf("step %v\nwant %d, %s", step, test.exit, test.text)
		}
	}
}

// hookCall is a request as its text is, without the state of the answer before.
type hookCall struct {
	summary string
	command string
	args    string
}

// payloads calls the hook with what older runners and the reference's examples
// send, in one job.
func (l *lab) payloads(s *shelf) {
	var calls []hookCall
	for i, ports := range []string{`null`, `[]`, `["80"]`} {
		calls = append(calls, hookCall{fmt.Sprintf("ports %d", i), "prepare_job",
			`{"container":{"image":"` + s.debian + `","portMappings":` + ports + `}}`})
	}
	calls = append(calls, []hookCall{
		{summary: "no ports", command: "prepare_job", args: `{"container":{"image":"` + s.debian + `"},"services":[]}`},
		{summary: "string", command: "run_script_step",
			args: `{"entryPoint":"sh","entryPointArgs":["-c","'echo $PATH'"],"prependPath":"/some/path"}`},
		{summary: "octocat", command: "run_script_step",
			args: `{"entryPoint":"echo","entryPointArgs":["\"Mona","the","Octocat\""]}`},
		{summary: "nested", command: "run_script_step",
			args: `{"entryPoint":"sh","entryPointArgs":["-c","'echo","\"it'\\''s","\\\"quoted\\\"","\\$HOME\"'"]}`},
		{summary: "clean", command: "cleanup_job", args: `{}`},
		{summary: "clean again", command: "cleanup_job", args: `{}`},
	}...)

	r := l.callHook(calls)
	for _, c := range calls {
		if step := r.Step(c.summary); step.Conclusion != miniworker.Success {
			l.Errorf("step %v", step)
		}
	}
	l.said(r, map[string]string{
		"string":   "/some/path:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"octocat":  "Mona the Octocat",
		"nested":   "it's \"quoted\" $HOME",
		"no ports": "",
	})
}

// callHook calls the hook without what the runner adds: a step for each call.
func (l *lab) callHook(calls []hookCall) (r miniworker.JobResult) {
	if l.workerInGuest() {
		job := miniworker.Job{Name: "payloads"}
		for _, c := range calls {
			request := payload(c.command, json.RawMessage(c.args), `"STATE"`)
			job.Steps = append(job.Steps, miniworker.Step{Name: c.summary, Shell: "bash",
				Run: hookScript + "hook " + quote(request)})
		}
		return l.job(job)
	}

	var state struct{ State json.RawMessage }
	for _, c := range calls {
		file := l.path("work/" + c.summary + ".json")
		request, err := json.Marshal(map[string]any{
			"command": c.command, "responseFile": file, "args": json.RawMessage(c.args), "state": state.State,
		})
		if err != nil {
			l.Fatal(err)
		}
		hook := l.asRunner("bash", "-e", l.path("hook.sh"))
		hook.Stdin = strings.NewReader(string(request) + "\n")
		out, err := hook.CombinedOutput()

		step := miniworker.StepResult{Name: c.summary, Conclusion: miniworker.Success}
		if err != nil {
			step.Conclusion, step.Exit = miniworker.Failure, hook.ProcessState.ExitCode()
		}
		if text := strings.TrimSuffix(string(out), "\n"); text != "" {
			step.Output = strings.Split(text, "\n")
		}
		r.Steps = append(r.Steps, step)

		if data, err := os.ReadFile(file); err == nil && c.command == "prepare_job" {
			if err := json.Unmarshal(data, &state); err != nil {
				l.Fatal(err)
			}
		}
	}
	return r
}

func (l *lab) containerSteps(s *shelf) {
	r := l.job(miniworker.Job{Name: "steps", Container: &miniworker.Container{Image: s.debian},
		Services: []miniworker.Container{{Image: s.scratch, Command: "serve 80"}},
		Steps: []miniworker.Step{
			{Name: "write", Run: "echo from-job >file"},
			{Name: "app", Uses: &miniworker.Container{Image: s.scratch, Command: `show "two words" x`},
				Env: map[string]string{"GIVEN": "value"}},
			{Name: "workspace", Uses: &miniworker.Container{Image: s.alpine, Entrypoint: "/bin/sh",
				Command: `-c "cat file; pwd; echo $HOME; echo out=1 >>$GITHUB_OUTPUT; echo made >made; exit 0"`}},
			{Name: "made", Run: "cat made"},
			{Name: "network", Uses: &miniworker.Container{Image: s.alpine, Entrypoint: "/bin/sh",
				Command: `-c "nc app 80 </dev/null"`}},
			{Name: "status", ContinueOnError: true, Uses: &miniworker.Container{Image: s.scratch, Command: "exit 9"}},
			{Name: "missing", ContinueOnError: true, Uses: &miniworker.Container{Image: s.Addr() + "/does-not-exist:1"}},
			{Name: "no command", ContinueOnError: true, Uses: &miniworker.Container{Image: s.scratch, Entrypoint: "/nothing"}},
		}})
	l.said(r, map[string]string{
		"workspace": "from-job\n/github/workspace\n/github/home", "made": "made", "network": "hello from app",
	})
	app := strings.Join(r.Step("app").Output, "\n")
	for _, want := range []string{`args ["show" "two words" "x"]`, "env GIVEN=value", "env CI=true",
		"env GITHUB_ACTIONS=true", "env HOME=/github/home",
		"env PATH=/usr/local/sbin:", "env GITHUB_WORKSPACE=/github/workspace", "uid 0 dir /github/workspace"} {
		if !strings.Contains(app, want) {
			l.Errorf("no %s in\n%s", want, app)
		}
	}
	if step := r.Step("status"); step.Exit != 9 {
		l.Errorf("step %v", step)
	}
	if step := r.Step("missing"); step.Exit != 125 || !strings.Contains(strings.Join(step.Output, "\n"),
		"::error::cannot run container \"__run\": cannot pull "+s.Addr()+"/does-not-exist:1: ") {
		l.Errorf("step %v", step)
	}
	if step := r.Step("workspace"); step.Outputs["out"] != "1" {
		l.Errorf("step %v", step)
	}
	// Also in a job without container and services.
	r = l.job(miniworker.Job{Name: "no-container", Steps: []miniworker.Step{{Name: "app",
		Uses: &miniworker.Container{Image: "docker://" + s.scratch, Command: "exit 0"}}}})
	l.said(r, map[string]string{"app": "app: about to end"})
}

func (l *lab) volumes(s *shelf) {
	share := l.share()
	l.writeShared("file.txt", "hello\n")
	r := l.job(miniworker.Job{Name: "volumes",
		Container: &miniworker.Container{Image: s.debian, Volumes: []string{share + ":/volume_mount",
			share + ":/read_only:ro", "my_volume:/named", "/anonymous", share + "/file.txt:/new/name.txt:ro",
			"filled:/etc/dpkg"}},
		Services: []miniworker.Container{{Image: s.alpine, Entrypoint: "sh",
			Command: "-c 'echo shared >/v/from-service; sleep 1000'", Volumes: []string{"my_volume:/v"},
			Options: "--health-cmd 'test -s /v/from-service'"}},
		Steps: []miniworker.Step{
			{Name: "file", Run: "cat /new/name.txt; echo x 2>/dev/null >/new/name.txt || echo read-only"}, // X1
			{Name: "content", Run: "grep -q ' /etc/dpkg ' /proc/mounts; test -s /etc/dpkg/dpkg.cfg; " + // V44
				"stat -c %u:%g:%a /etc/dpkg/dpkg.cfg; echo x >/etc/dpkg/x"},
			{Name: "read", Run: "cat /volume_mount/file.txt /share/file.txt; touch /read_only/x 2>&1 | " +
				"grep -o 'Read-only file system'; cat /named/from-service; ls /anonymous; echo mine >/volume_mount/mine"},
		}})
	l.said(r, map[string]string{"read": "hello\nhello\nRead-only file system\nshared",
		"file": "hello\nread-only", "content": "0:0:644"})
	l.sharedWithRunner("mine")
	if l.place != inImage { // whose config.env allows none
		l.keptVolume(s)
	}
	r = l.job(miniworker.Job{Name: "forbidden", Container: &miniworker.Container{Image: s.debian,
		Volumes: []string{"/etc:/host-etc"}}})
	if step := r.Step("Initialize containers"); step.Exit != 3 || !strings.Contains(strings.Join(step.Output, "\n"),
		"::error::cannot prepare job: cannot mount /host-etc: volume /etc is not allowed") {
		l.Errorf("step %v", step)
	}
}

// keptVolume has row V47: a volume that root of the host allows outlives the job.
func (l *lab) keptVolume(s *shelf) {
	for _, job := range []struct{ run, want string }{
		{run: "echo kept >/cache/file; echo gone >/other/file"},
		{run: "cat /cache/file; rm /cache/file; ls /other", want: "kept"},
	} {
		r := l.job(miniworker.Job{Name: "cache", Container: &miniworker.Container{
			Image: s.alpine, Volumes: []string{"kept:/cache", "other:/other"},
		}, Steps: []miniworker.Step{{Name: "run", Run: job.run}}})
		l.said(r, map[string]string{"run": job.want})
	}
}

// alpineJob: the runner takes the node.js for musl, which the image's loader
// starts.
func (l *lab) alpineJob(s *shelf) {
	job := miniworker.Job{Name: "alpine", Container: &miniworker.Container{Image: s.alpine},
		Steps: []miniworker.Step{{Name: "release", Run: ". /etc/os-release; echo $ID"}}}
	said := map[string]string{"release": "alpine"}
	if l.place != inImage {
		job.Steps = append(job.Steps, miniworker.Step{Name: "node", Run: "/__e/node20_alpine/bin/node /__w/x.js"})
		said["node"] = "musl /__w/x.js"
	}
	r := l.job(job)
	if answer := l.response(r); answer.IsAlpine == nil || !*answer.IsAlpine {
		l.Errorf("alpine is %v", answer.IsAlpine)
	}
	l.said(r, said)
}

// nonRootJob: the image's user owns the workspace, and files that it writes to a
// directory of the host are the runner's there, as are root's.
func (l *lab) nonRootJob(s *shelf) {
	r := l.job(miniworker.Job{Name: "non-root", Container: &miniworker.Container{Image: s.nonRoot},
		Steps: []miniworker.Step{
			{Name: "user", Run: "id -u; id -Gn; echo x >file; echo x >/share/file; echo out=1 >>$GITHUB_OUTPUT; " +
				"touch /data/x; grep CapEff /proc/self/status; stat -c %u /__w /github/home"},
		}})
	l.said(r, map[string]string{"user": "1001\napp staff\nCapEff:\t0000000000000000\n1001\n1001"})
	if out := r.Step("user").Outputs["out"]; out != "1" {
		l.Errorf("output is %q", out)
	}
	l.sharedWithRunner("file")
	r = l.job(miniworker.Job{Name: "as-root", Container: &miniworker.Container{Image: s.nonRoot, Options: "--user root"},
		Steps: []miniworker.Step{{Name: "user", Run: "id -u"}}})
	l.said(r, map[string]string{"user": "0"})
}

func (l *lab) optionsJob(s *shelf) {
	r := l.job(miniworker.Job{Name: "options", Container: &miniworker.Container{Image: s.debian,
		Options: `--hostname build-1 --env "FROM_OPTIONS=two words" --tmpfs /scratch:size=1m --shm-size 2m ` +
			"--add-host registry.test:192.0.2.7 --cap-drop NET_RAW --cap-drop=CHOWN " +
			"--cpus 1 --memory 2g --pids-limit 500 --init"},
		Steps: []miniworker.Step{
			{Name: "look", Run: `hostname; echo "$FROM_OPTIONS"
df -k --output=size /scratch /dev/shm | tail -n 2 | tr -d ' '
getent ahostsv4 registry.test | awk 'NR == 1 {print $1}'`},
			{Name: "chown", ContinueOnError: true, Run: "touch /tmp/x; chown 7 /tmp/x"},
		}})
	l.said(r, map[string]string{"look": "build-1\ntwo words\n1024\n2048\n192.0.2.7"})
	if step := r.Step("chown"); step.Exit != 1 || !strings.Contains(strings.Join(step.Output, "\n"),
		"Operation not permitted") {
		l.Errorf("step %v", step)
	}
	r = l.job(miniworker.Job{Name: "no-capabilities", Container: &miniworker.Container{Image: s.debian,
		Options: "--cap-drop ALL --cap-add CHOWN --user 7:8"},
		Steps: []miniworker.Step{
			{Name: "look", Run: "grep -E '^Cap(Eff|Bnd):' /proc/self/status | tr -d '\n'; id -u; id -g"},
		}})
	l.said(r, map[string]string{"look": "CapEff:\t0000000000000000CapBnd:\t00000000000000017\n8"})
	for _, test := range []struct{ options, want string }{
		{options: "--privileged", want: "container: options: option --privileged is not supported"},
		{options: "--device /dev/kvm", want: "device /dev/kvm is not allowed: " +
			"it is not in RUNNER_NSPAWN_DEVICES of config.env"},
		{options: "--network host", want: "container: options: option --network is not supported"},
	} {
		r := l.job(miniworker.Job{Name: "refused", Container: &miniworker.Container{Image: s.debian, Options: test.options}})
		step := r.Step("Initialize containers")
		if step.Exit == 0 || !strings.Contains(strings.Join(step.Output, "\n"), "::error::cannot prepare job: "+test.want) {
			l.Errorf("%s: step %v", test.options, step)
		}
	}
}

// healthJob: a service that is not healthy fails the job, with the reason.
func (l *lab) healthJob(s *shelf) {
	for _, test := range []struct {
		summary string
		service miniworker.Container
		want    string
	}{
		{
			summary: "unhealthy",
			service: miniworker.Container{Image: s.alpine, Entrypoint: "sh", Command: "-c 'echo starting up; sleep 1000'",
				Options: "--health-cmd 'echo no; false' --health-interval 100ms --health-retries 2"},
			want: `2 checks in a row have failed, the last of "echo no; false" with status 1: no; its last output:` +
				"%0Astarting up",
		},
		{
			// The health command keeps the broker waiting: a service without
			// one has to stay up for some milliseconds only.
			summary: "ended",
			service: miniworker.Container{Image: s.alpine, Entrypoint: "sh", Command: "-c 'echo about to end; exit 3'",
				Options: "--health-cmd false"},
			want: "it ended with status 3; its last output:%0Aabout to end",
		},
		{
			summary: "no program",
			service: miniworker.Container{Image: s.scratch, Entrypoint: "/nothing"},
			want:    "cannot start process: /nothing does not exist in the guest",
		},
	} {
		r := l.job(miniworker.Job{Name: test.summary, Services: []miniworker.Container{test.service},
			Steps: []miniworker.Step{{Name: "never", Run: "true"}}})
		step := r.Step("Initialize containers")
		line := "::error::cannot prepare job: cannot start service " + test.service.Image + ": "
		if i := slices.IndexFunc(step.Output, func(s string) bool { return strings.HasPrefix(s, line) }); step.Exit != 1 ||
			i < 0 || !strings.Contains(step.Output[i], test.want) {
			l.Errorf("%s: step %v", test.summary, step)
		}
		if r.Step("never").Conclusion != miniworker.Skipped {
			l.Errorf("%s: the job went on", test.summary)
		}
	}
	l.goingOn(s)
}

// goingOn has rows V08, V12, V13 and V49: a health check without a shell, services that
// end, and the health of the job's own container, for which all wait.
func (l *lab) goingOn(s *shelf) {
	r := l.job(miniworker.Job{Name: "goes-on",
		Container: &miniworker.Container{Image: s.debian, Options: "--health-cmd 'sleep 0.5; test -e /etc/debian_version'"},
		Services: []miniworker.Container{
			{Image: s.distroless},
			{Image: s.alpine, Entrypoint: "sh", Command: "-c 'echo seeded'"},
			{Image: s.alpine, Entrypoint: "sh", Command: "-c 'echo no such table >&2; exit 3'"},
		},
		Steps: []miniworker.Step{{Name: "run", Run: "echo ran"}}})
	l.said(r, map[string]string{"run": "ran"})
	said := printed(r.Step("Initialize containers"))
	for _, want := range []string{
		"service " + s.distroless + " is healthy after ", "the job's container is healthy after ",
		"service " + s.alpine + " does not run any more: it ended with status 0; its last output:\nseeded",
		"::warning::service " + s.alpine + " does not run any more: it ended with status 3; its last output:%0Ano such table",
	} {
		if !strings.Contains(said, want) {
			l.Errorf("no %q in\n%s", want, said)
		}
	}
}

// registryJob: images that need credentials.
func (l *lab) registryJob(s *shelf) {
	private := func(password string) miniworker.JobResult {
		c := &miniworker.Container{Image: s.private}
		if password != "" {
			c.Credentials = &miniworker.Credentials{Username: "octocat", Password: password}
		}
		return l.job(miniworker.Job{Name: "private", Container: c, Steps: []miniworker.Step{{Name: "run", Run: "echo ran"}}})
	}
	for _, password := range []string{"", "wrong"} {
		step := private(password).Step("Initialize containers")
		if step.Exit != 1 || !strings.Contains(strings.Join(step.Output, "\n"), "UNAUTHORIZED") ||
			strings.Contains(fmt.Sprint(step.Output), "wrong") {
			l.Errorf("password %q: step %v", password, step)
		}
	}
	l.said(private("s3cret-of-the-registry"), map[string]string{"run": "ran"})

	if l.place == inImage {
		l.secretNotInImage("s3cret-of-the-registry")
		return
	}
	found, err := exec.Command("grep", "-rl", "s3cret-of-the-registry", l.path("images"), l.path("jobs")).Output()
	if len(found) > 0 || err == nil || strings.Contains(l.log(), "s3cret") {
		l.Errorf("the password is in %s, or in the broker's log", found)
	}
}

// offlineJob: images that were pulled serve without their registry.
func (l *lab) offlineJob(s *shelf) {
	_ = s.Close() // may be closed already
	r := l.job(miniworker.Job{Name: "offline", Container: &miniworker.Container{Image: s.debian},
		Steps: []miniworker.Step{{Name: "run", Run: "echo ran"}}})
	l.said(r, map[string]string{"run": "ran"})
	if out := strings.Join(r.Step("Initialize containers").Output, "\n"); !strings.Contains(out,
		"the registry cannot be reached, using the image of ") {
		l.Errorf("the user does not learn of it:\n%s", out)
	}
}
