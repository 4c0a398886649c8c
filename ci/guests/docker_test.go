package guests

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// TestDocker has jobs whose worker asks for containers by docker, which the broker
// answers: RUNNER_CONTAINERS=docker.
func TestDocker(t *testing.T) {
	l := newLab(t, "RUNNER_CONTAINERS=docker", "RUNNER_INSECURE_REGISTRIES="+registryAddr+" "+internetAddr+":5000")
	l.place = inGuest
	s := l.newShelf()
	base := l.alpineOnInternet()
	l.serveGitHub()
	for _, test := range []struct {
		summary string
		test    func(l *lab)
	}{
		{"Acceptance", func(l *lab) { l.dockerAcceptance(s) }},
		{"Steps", func(l *lab) { l.dockerSteps(s) }},
		{"Actions", func(l *lab) { l.dockerActions(s, base) }},
		{"Health", func(l *lab) { l.dockerHealth(s) }},
		{"Refused", func(l *lab) { l.dockerRefused(s) }},
		{"Registry", func(l *lab) { l.dockerRegistry(s) }},
	} {
		l.run(test.summary, func(l *lab) {
			test.test(l)
			l.noResidue()
		})
	}
}

// dockerAcceptance: names, conclusions and annotations are those of a machine with
// Docker, and no line names a hook.
func (l *lab) dockerAcceptance(s *shelf) {
	r := l.job(miniworker.Job{Name: "docker",
		Container: &miniworker.Container{
			Image: s.debian, Env: map[string]string{"JOB": "job"}, Options: `--cpus 1 --hostname "web"`,
			Ports: []string{"8080:80"}, Volumes: []string{"shared:/v"},
		},
		Services: []miniworker.Container{
			{Key: "app", Image: s.scratch, Command: "serve 80", Ports: []string{"80"}},
			{Key: "my_db", Image: s.debian, Entrypoint: "sh", Volumes: []string{"shared:/v"},
				Command: `-c "echo $IMAGE_ENV $CI >/v/env; exec sleep 1000"`},
			{Key: "checked", Image: s.healthy},
		},
		Steps: []miniworker.Step{
			{Name: "names", Shell: "bash", Run: "exec 3<>/dev/tcp/app/80; cat <&3; grep -o my_db /etc/hosts; hostname"},
			{Name: "env", Run: "echo $JOB $IMAGE_ENV $CI $STEP $HOME; cat /v/env; pwd", Env: map[string]string{"STEP": "s"}},
			{Name: "write", Run: "echo a=b >>$GITHUB_OUTPUT; echo /own >>$GITHUB_PATH; echo E=f >>$GITHUB_ENV"},
			{Name: "path", Run: "echo $PATH $E"},
			{Name: "fails", Run: "echo before; exit 7", ContinueOnError: true},
			{Name: "times out", Run: "trap 'echo interrupted; exit 9' INT; sleep 100 & wait", TimeoutSeconds: 1,
				ContinueOnError: true},
			{Name: "last", Run: "pgrep -x sleep | wc -l"},
		}})
	l.said(r, map[string]string{
		"names": "hello from app\nmy_db\nweb", "env": "job from-image true s /github/home\nfrom-image true\n/__w/repo/repo",
		"path": "/own:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin f", "last": "0",
	})
	if out := r.Step("write").Outputs["a"]; out != "b" {
		l.Errorf("output is %q", out)
	}
	for name, want := range map[string]string{
		"fails": "Process completed with exit code 7.", "times out": "The action 'times out' has timed out.",
	} {
		if step := r.Step(name); step.Conclusion != miniworker.Failure || !slices.Equal(step.Errors, []string{want}) {
			l.Errorf("step %v, want one error: %s", step, want)
		}
	}
	if stopped := r.Step("Stop containers"); !slices.Contains(stopped.Output, "app: serving") {
		l.Errorf("the log of a service is not shown: %v", stopped)
	}
	for _, step := range r.Steps {
		if text := strings.Join(append(step.Output, step.Errors...), "\n"); strings.Contains(text, "hook") {
			l.Errorf("step %s names a hook:\n%s", step.Name, text)
		}
	}
	if r.Conclusion != miniworker.Success || r.Orphans != 0 {
		l.Errorf("the job ended with %s, %d orphans", r.Conclusion, r.Orphans)
	}
}

// dockerSteps: steps of a job without a container reach its services by docker, and
// by their names and ports.
func (l *lab) dockerSteps(s *shelf) {
	r := l.job(miniworker.Job{Name: "docker",
		Services: []miniworker.Container{
			{Key: "db", Image: s.debian, Entrypoint: "sh", Command: `-c "echo out; echo err >&2; exec sleep 1000"`,
				Env: map[string]string{"A": "of-service"}},
			{Key: "app", Image: s.scratch, Command: "serve 80", Ports: []string{"8081:80"}},
		},
		Steps: []miniworker.Step{
			{Name: "ps", Run: "docker ps --format '{{.Image}} {{.State}}' | sort; docker ps -aq --filter name=nothing"},
			{Name: "exec", Run: "id=$(docker ps -q --filter ancestor=" + s.debian + ")\n" +
				"docker exec $id sh -c 'echo $A; id -u; pwd'; echo input | docker exec -i $id cat; " +
				"docker exec -e B=c -w /tmp -u 7 $id sh -c 'echo $B; pwd; id -u'; docker exec $id sh -c 'exit 9' || echo status " +
				"$?"},
			{Name: "logs", Run: "id=$(docker ps -q --filter ancestor=" + s.debian + ")\n" +
				"docker logs $id 2>/dev/null; docker logs $id 2>&1 >/dev/null; docker inspect -f '{{.State.Status}}' $id"},
			{Name: "port", Shell: "bash", Run: "docker port $(docker ps -q --filter ancestor=" + s.scratch + ") 80\n" +
				"exec 3<>/dev/tcp/localhost/8081; cat <&3; exec 3<>/dev/tcp/::1/8081; cat <&3; exec 3<>/dev/tcp/app/80; cat <&3"},
			{Name: "run", Run: "docker run --rm --network $(docker inspect -f '{{.HostConfig.NetworkMode}}' $(docker ps -lq)) " +
				s.debian + " sh -c 'echo run; exit 3' || echo status $?; docker run --rm -i " + s.debian + " cat </etc/hostname"},
			{Name: "life", Run: "id=$(docker run -d --name x " + s.debian + " sleep 1000); docker stop -t 0 x; " +
				"docker inspect -f '{{.State.Status}}' x; docker rm x; docker inspect x 2>&1 | tail -n 1"},
			{Name: "engine", Run: "docker compose up 2>&1 || echo status $?"},
			{Name: "root", Run: "sudo docker ps -q | wc -l"},
		}})
	l.said(r, map[string]string{
		"ps":   s.debian + " running\n" + s.scratch + " running",
		"exec": "of-service\n0\n/\ninput\nc\n/tmp\n7\nstatus 9",
		"logs": "out\nerr\nrunning",
		"port": "127.0.0.1:8081\n[::1]:8081\nhello from app\nhello from app\nhello from app",
		"run":  "run\nstatus 3\nrunner",
		"life": "x\nexited\nx\nError: No such container: x",
		"engine": `Error: cannot run docker ["compose" "up"]: there is no Docker in this guest; ` +
			"add docker.io to the packages of its guest base in images.toml\nstatus 1",
		"root": "2",
	})
}

// dockerActions: docker:// and Dockerfile actions, in jobs with and without a
// container.
func (l *lab) dockerActions(s *shelf, base string) {
	action := l.TempDir()
	dockerfile := "FROM " + base + "\nENV BUILT=yes\nRUN echo made >/made\n" +
		`ENTRYPOINT ["sh", "-c", "cat /made; echo $BUILT $INPUT_WHO $0 $1; pwd; echo answer=42 >>$GITHUB_OUTPUT"]` + "\n"
	if err := os.WriteFile(action+"/Dockerfile", []byte(dockerfile), 0o644); err != nil {
		l.Fatal(err)
	}
	for _, container := range []*miniworker.Container{nil, {Image: s.debian}} {
		r := l.job(miniworker.Job{Name: "actions", Container: container, Actions: map[string]string{"o/a/v1": action},
			Steps: []miniworker.Step{
				{Name: "write", Run: "echo from-job >file"},
				{Name: "image", Uses: &miniworker.Container{Image: "docker://" + s.alpine, Entrypoint: "sh",
					Command: `-c "cat file; pwd; echo $HOME"`}},
				{Name: "built", Action: "o/a/v1", Uses: &miniworker.Container{Dockerfile: "Dockerfile", Command: `one "two words"`},
					Env: map[string]string{"INPUT_WHO": "Mona"}},
				{Name: "fails", ContinueOnError: true, Uses: &miniworker.Container{Image: "docker://" + s.alpine,
					Entrypoint: "sh", Command: `-c "exit 9"`}},
			}})
		l.said(r, map[string]string{
			"image": "from-job\n/github/workspace\n/github/home", "built": "made\nyes Mona one two words\n/github/workspace",
		})
		if out := r.Step("built").Outputs["answer"]; out != "42" {
			l.Errorf("output is %q", out)
		}
		if step := r.Step("fails"); step.Exit != 9 || step.Conclusion != miniworker.Failure || len(step.Errors) != 1 {
			l.Errorf("step %v", step)
		}
	}
}

// dockerHealth: a service that cannot be used fails the job as with Docker.
func (l *lab) dockerHealth(s *shelf) {
	for _, test := range []struct {
		summary string
		service miniworker.Container
		want    []string // errors of "Initialize containers"
		output  string   // a line of it
	}{{
		summary: "unhealthy",
		service: miniworker.Container{Image: s.alpine, Entrypoint: "sh", Command: `-c "echo starting up; sleep 1000"`,
			Options: "--health-cmd false --health-interval 100ms --health-retries 2"},
		want:   []string{"Failed to initialize container " + s.alpine, "One or more containers failed to start."},
		output: "starting up",
	}, {
		summary: "ended",
		service: miniworker.Container{Image: s.alpine, Entrypoint: "sh", Command: `-c "echo about to end; exit 3"`,
			Options: "--health-cmd false --health-interval 100ms"},
		want:   []string{"Failed to initialize container " + s.alpine, "One or more containers failed to start."},
		output: "about to end",
	}, {
		summary: "no program",
		service: miniworker.Container{Image: s.scratch, Entrypoint: "/nothing"},
		want:    []string{"Docker start fail with exit code 1"},
	}} {
		test.service.Key = "s"
		r := l.job(miniworker.Job{Name: test.summary, Services: []miniworker.Container{test.service},
			Steps: []miniworker.Step{{Name: "never", Run: "true"}}})
		step := r.Step("Initialize containers")
		if step.Conclusion != miniworker.Failure || !slices.Equal(step.Errors, test.want) ||
			test.output != "" && !slices.Contains(step.Output, test.output) {
			l.Errorf("%s: step %v\nwant %q", test.summary, step, test.want)
		}
		if r.Step("never").Conclusion != miniworker.Skipped {
			l.Errorf("%s: the job went on", test.summary)
		}
	}
}

// dockerRefused: an option that cannot be had fails the job before its steps, and
// says why.
func (l *lab) dockerRefused(s *shelf) {
	for options, want := range map[string]string{
		"--privileged":      "Error: option --privileged is not supported: ",
		"--device /dev/kvm": "device /dev/kvm is not allowed: it is not in RUNNER_NSPAWN_DEVICES of config.env",
		"--network host":    "Error: network host not found",
		"-v /etc:/host-etc": "volume /etc is not allowed",
	} {
		r := l.job(miniworker.Job{Name: "refused", Container: &miniworker.Container{Image: s.debian, Options: options},
			Steps: []miniworker.Step{{Name: "never", Run: "true"}}})
		step := r.Step("Initialize containers")
		if step.Conclusion != miniworker.Failure || !strings.Contains(strings.Join(step.Output, "\n"), want) {
			l.Errorf("%s: step %v\nwant %s", options, step, want)
		}
	}
}

// dockerRegistry: images that need credentials.
func (l *lab) dockerRegistry(s *shelf) {
	private := func(password string) miniworker.JobResult {
		return l.job(miniworker.Job{Name: "private", Container: &miniworker.Container{Image: s.private,
			Credentials: &miniworker.Credentials{Username: "octocat", Password: password}},
			Steps: []miniworker.Step{{Name: "run", Run: "ls -A /__w/_temp | grep docker_ || echo ran"}}})
	}
	step := private("wrong").Step("Initialize containers")
	if step.Conclusion != miniworker.Failure || !strings.Contains(strings.Join(step.Output, "\n"), "UNAUTHORIZED") {
		l.Errorf("step %v", step)
	}
	l.said(private("s3cret-of-the-registry"), map[string]string{"run": "ran"})
	if strings.Contains(l.log(), "s3cret") {
		l.Error("the password is in the broker's log")
	}
}
