package guests

import (
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// TestWorkerJob runs jobs without a container as workflows have them, in guests.
func TestWorkerJob(t *testing.T) {
	l := newLab(t)
	l.place = inGuest
	s := l.newShelf()
	l.serveGitHub()
	for _, test := range []struct {
		summary string
		test    func(*lab, *shelf)
	}{
		{summary: "Steps", test: (*lab).stepsOfJob},
		{summary: "Failure", test: (*lab).failedJob},
		{summary: "Cancel", test: (*lab).cancelledJob},
		{summary: "Services", test: (*lab).servicesOfJob},
		{summary: "Matrix", test: (*lab).servicesOfMatrix},
		{summary: "ContainerStep", test: (*lab).containerStepOfJob},
		{summary: "Volumes", test: (*lab).volumesOfJob},
		{summary: "Output", test: (*lab).outputOfJob},
		{summary: "Units", test: (*lab).unitsOfJob},
		{summary: "Packages", test: (*lab).packagesOfJob},
	} {
		l.run(test.summary, func(l *lab) {
			test.test(l, s)
			l.noResidue()
		})
	}
}

// stepsOfJob: what a step writes to its files reaches the later ones.
func (l *lab) stepsOfJob(*shelf) {
	r := l.job(miniworker.Job{Name: "steps", Env: map[string]string{"OF_JOB": "job"}, Steps: []miniworker.Step{
		{Name: "write", Shell: "bash", Run: `mkdir tools && printf '#!/bin/sh\necho tool $*\n' >tools/greet
chmod 755 tools/greet
echo $PWD/tools >>$GITHUB_PATH
printf 'MANY<<END\nfirst\nsecond\nEND\n' >>$GITHUB_ENV
echo out=1 >>$GITHUB_OUTPUT
echo '# Done' >>$GITHUB_STEP_SUMMARY`},
		{Name: "read", Shell: "bash", Run: `greet "$OF_JOB" "$MANY" $OF_STEP`, Env: map[string]string{"OF_STEP": "step"}},
		{Name: "directory", WorkingDirectory: "tools", Run: "pwd; ls"},
		{Name: "python", Shell: "python3 {0}", Run: "import os; print(os.environ['RUNNER_TEMP'])"},
		{Name: "user", Run: "id -un; echo $HOME; sudo id -un; test ! -e $HOME/left; touch $HOME/left"},
		{Name: "status", ContinueOnError: true, Run: "exit 42"},
		{Name: "bytes", Run: `printf 'a\377b\npartial'`},
	}})
	work := l.workDir()
	l.said(r, map[string]string{
		"write": "", "read": "tool job first second step", "directory": work + "/repo/repo/tools\ngreet",
		"python": work + "/_temp", "user": "runner\n/home/runner\nroot", "bytes": "a\uFFFDb\npartial",
	})
	if step := r.Step("write"); step.Outputs["out"] != "1" || step.Summary != "# Done\n" {
		l.Errorf("step %v, outputs %v, summary %q", step, step.Outputs, step.Summary)
	}
	if step := r.Step("status"); step.Exit != 42 {
		l.Errorf("step %v", step)
	}

	setUp := strings.Join(r.Step(miniworker.SetUpJob).Output, "\n")
	for _, want := range []string{"Runner name: 'a'", "Machine name: 'runner'", "##[group]Operating System\nDebian "} {
		if !strings.Contains(setUp, want) {
			l.Errorf("no %q in\n%s", want, setUp)
		}
	}
}

// failedJob: steps after a failure are skipped, but those that always run.
func (l *lab) failedJob(*shelf) {
	r := l.job(miniworker.Job{Name: "failure", Steps: []miniworker.Step{
		{Name: "fails", Run: "exit 3"},
		{Name: "never", Run: "true"},
		{Name: "always", If: "always", Run: "echo ran"},
	}})
	if r.Conclusion != miniworker.Failure || r.Step("fails").Exit != 3 ||
		r.Step("never").Conclusion != miniworker.Skipped {
		l.Errorf("got %v", r)
	}
	l.said(r, map[string]string{"always": "ran"})
}

// cancelledJob: a job that is cancelled, or whose runner is shut down, ends at
// once, with its steps in containers, and runs those that always run.
func (l *lab) cancelledJob(s *shelf) {
	for _, test := range []struct {
		summary string
		kind    uint32 // of the listener's message
		always  string // conclusion of a step that always runs
	}{
		{summary: "cancel", kind: 2, always: miniworker.Success},
		{summary: "shutdown", kind: 3, always: miniworker.Skipped},
	} {
		job := l.startJob(miniworker.Job{Name: test.summary, Container: &miniworker.Container{Image: s.debian},
			Steps: []miniworker.Step{
				{Name: "waits", Run: "echo waiting >started; sleep 4321"},
				{Name: "never", Run: "true"},
				{Name: "always", If: "always", Run: "cat started"},
			}})
		// Not sooner: dash loses a SIGINT that comes while it starts a program.
		l.eventually("the step waits", func() bool {
			return exec.CommandContext(l.Context(), "pgrep", "-x", "-f", "sleep 4321").Run() == nil
		})
		if _, err := job.pipe.Write(frame(test.kind, "")); err != nil {
			l.Fatal(err)
		}
		begin := time.Now()
		r := job.result()
		if r.Conclusion != miniworker.Cancelled || r.Step("waits").Conclusion != miniworker.Failure ||
			r.Step("never").Conclusion != miniworker.Skipped || r.Step("always").Conclusion != test.always {
			l.Errorf("%s: got %v", test.summary, r)
		}
		if took := time.Since(begin); took > 7*time.Second {
			l.Errorf("%s: it took %v, more than until the runner's second signal: %v", test.summary, took, r)
		}
		l.noSleepers()
	}
}

// servicesOfJob: steps reach services by port at localhost and by the workflow's
// own names for them; a service reaches a step at the job's name.
func (l *lab) servicesOfJob(s *shelf) {
	reach := func(name, address string) miniworker.Step {
		return miniworker.Step{Name: name, Shell: "bash", Run: "exec 3<>/dev/tcp/" + address + "; cat <&3"}
	}
	r := l.job(miniworker.Job{Name: "services",
		Services: []miniworker.Container{
			{Key: "web", Image: s.scratch, Command: "serve 80", Ports: []string{"8081:80"}},
			{Key: "other", Image: s.scratch, Command: "serve 81", Ports: []string{"81"}},
			{Key: "caller", Image: s.alpine, Entrypoint: "sh",
				Command: "-c 'while :; do echo from a service | nc runner 9000; sleep 0.2; done'"},
		},
		Steps: []miniworker.Step{
			reach("IPv4", "127.0.0.1/8081"), reach("IPv6", "::1/8081"), reach("localhost", "localhost/8081"),
			reach("key", "web/80"), reach("other key", "other/81"),
			{Name: "back", Shell: "python3 {0}", Run: `import socket
server = socket.create_server(("", 9000))
server.settimeout(20)
print(server.accept()[0].makefile().readline().strip())`},
			{Name: "beside", Uses: &miniworker.Container{Image: s.alpine, Entrypoint: "sh",
				Command: `-c "nc web 80 </dev/null"`}},
		}})
	hello := "hello from app"
	l.said(r, map[string]string{"IPv4": hello, "IPv6": hello, "localhost": hello, "key": hello, "other key": hello,
		"back": "from a service", "beside": hello})

	// A port that the workflow leaves open is one of the guest's.
	ports := l.response(r).Context.Services[1].Ports
	if ports["81"] == "" {
		l.Errorf("ports are %v", ports)
	}
}

// servicesOfMatrix: a matrix names the images, one of which is empty: services have
// their own names all the same.
func (l *lab) servicesOfMatrix(s *shelf) {
	r := l.job(miniworker.Job{Name: "matrix", Matrix: map[string]string{"none": "", "image": s.scratch},
		Services: []miniworker.Container{
			{Key: "none", Image: "${{ matrix.none }}", Command: "serve 79"},
			{Key: "web", Image: "${{ matrix.image }}", Command: "serve 80"},
			{Key: "other", Image: s.scratch, Command: "serve 81"},
		},
		Steps: []miniworker.Step{
			{Name: "web", Shell: "bash", Run: "exec 3<>/dev/tcp/web/80; cat <&3"},
			{Name: "other", Shell: "bash", Run: "exec 3<>/dev/tcp/other/81; cat <&3"},
			{Name: "none", Run: "grep -w none /etc/hosts || echo unknown"},
		}})
	l.said(r, map[string]string{"web": "hello from app", "other": "hello from app", "none": "unknown"})
}

// containerStepOfJob: a docker:// step works on the files of the job.
func (l *lab) containerStepOfJob(s *shelf) {
	r := l.job(miniworker.Job{Name: "container-step", Steps: []miniworker.Step{
		{Name: "before", Run: "echo from a step >file"},
		{Name: "container", Uses: &miniworker.Container{Image: "docker://" + s.alpine, Entrypoint: "/bin/sh",
			Command: `-c "cat file; pwd; id -u; echo out=1 >>$GITHUB_OUTPUT; echo made >made; mkdir dir; touch dir/x"`}},
		{Name: "after", Run: "cat made; stat -c %U made dir/x; rm -r made dir"},
		{Name: "status", ContinueOnError: true, Uses: &miniworker.Container{Image: s.scratch, Command: "exit 9"}},
	}})
	l.said(r, map[string]string{
		"container": "from a step\n/github/workspace\n0", "after": "made\nrunner\nrunner",
	})
	if step := r.Step("container"); step.Outputs["out"] != "1" {
		l.Errorf("step %v, outputs %v", step, step.Outputs)
	}
	if step := r.Step("status"); step.Exit != 9 {
		l.Errorf("step %v", step)
	}
}

// volumesOfJob: services and steps share directories of the workspace, services
// among them named volumes; a directory of the guest elsewhere is refused.
func (l *lab) volumesOfJob(s *shelf) {
	data := l.workDir() + "/repo/repo/data:/data"
	service := func(key, script string) miniworker.Container {
		return miniworker.Container{Key: key, Image: s.alpine, Entrypoint: "sh",
			Command: "-c '" + script + "; touch /tmp/up; exec sleep 1000'", Volumes: []string{data, "named:/named"},
			Options: "--health-cmd 'test -e /tmp/up'"}
	}
	r := l.job(miniworker.Job{Name: "volumes",
		Services: []miniworker.Container{
			service("first", "echo one >/data/first; echo named >/named/x"),
			service("second", "until cat /named/x >/data/second; do sleep 0.1; done"),
		},
		Steps: []miniworker.Step{
			{Name: "read", Run: "cat data/first data/second; stat -c %U data data/first; echo two >data/third"},
			{Name: "container", Uses: &miniworker.Container{Image: s.alpine, Entrypoint: "cat", Command: "data/third"}},
			{Name: "remove", Run: "rm data/first data/second && ls data"},
		}})
	l.said(r, map[string]string{"read": "one\nnamed\nrunner\nrunner", "container": "two", "remove": "third"})

	elsewhere := service("first", "true")
	elsewhere.Volumes = []string{"/etc:/data"}
	r = l.job(miniworker.Job{Name: "elsewhere", Services: []miniworker.Container{elsewhere}})
	if step := r.Step("Initialize containers"); step.Exit != 3 || !strings.Contains(strings.Join(step.Output, "\n"),
		"::error::cannot prepare job: cannot start service "+s.alpine+": cannot mount /data: volume /etc is not allowed") {
		l.Errorf("step %v", step)
	}
}

// outputOfJob: no line is lost of what steps print fast.
func (l *lab) outputOfJob(s *shelf) {
	const lines = 40_000
	r := l.job(miniworker.Job{Name: "output", Steps: []miniworker.Step{
		{Name: "step", Run: fmt.Sprintf("seq %d", lines)},
		{Name: "container", Uses: &miniworker.Container{Image: s.alpine, Entrypoint: "seq", Command: fmt.Sprint(lines)}},
	}})
	for _, name := range []string{"step", "container"} {
		output := slices.DeleteFunc(r.Step(name).Output, progressLine.MatchString)
		for i := range output {
			if output[i] != strconv.Itoa(i+1) {
				l.Errorf("step %s: line %d is %q", name, i+1, output[i])
				break
			}
		}
		if len(output) != lines {
			l.Errorf("step %s: got %d lines, want %d", name, len(output), lines)
		}
	}
}

// unitsOfJob: a step writes a unit, which systemd runs until the job ends.
func (l *lab) unitsOfJob(*shelf) {
	r := l.job(miniworker.Job{Name: "units", Steps: []miniworker.Step{
		{Name: "start", Shell: "bash", Run: `sudo tee /etc/systemd/system/web.service >/dev/null <<'END'
[Service]
ExecStart=python3 -m http.server --directory /srv 9000
[Install]
WantedBy=multi-user.target
END
echo served | sudo tee /srv/file >/dev/null
sudo systemctl daemon-reload
sudo systemctl enable --now web 2>/dev/null`},
		{Name: "status", Run: "systemctl is-active web; sudo systemctl status web | grep -o 'Active: active'"},
		{Name: "served", Run: "until curl -fs http://localhost:9000/file; do sleep 0.1; done", TimeoutSeconds: 20},
		{Name: "stop", Run: "sudo systemctl stop web; systemctl is-active web || true"},
		{Name: "missing", ContinueOnError: true, Run: "sudo systemctl start does-not-exist"},
	}})
	l.said(r, map[string]string{
		"start": "", "status": "active\nActive: active", "served": "served", "stop": "inactive",
	})
	if step := r.Step("missing"); step.Exit != 5 { // EXIT_NOTINSTALLED, systemctl(1)
		l.Errorf("step %v", step)
	}
}

// packagesOfJob: a step installs a package from a mirror on the network.
func (l *lab) packagesOfJob(*shelf) {
	mirror := l.path("mirror")
	l.makeMirror(mirror)
	server := &http.Server{Handler: http.FileServer(http.Dir(mirror)), ReadHeaderTimeout: time.Minute}
	listener := l.listenIn(l.makeInternet(), internetAddr+":8000")
	go func() { _ = server.Serve(listener) }() // ends with Close
	l.Cleanup(func() { _ = server.Close() })

	r := l.job(miniworker.Job{Name: "packages", Steps: []miniworker.Step{
		{Name: "source", Run: `sudo rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] http://` + internetAddr + `:8000 ./' | sudo tee /etc/apt/sources.list.d/local.list >/dev/null`},
		{Name: "install", Run: "sudo apt-get update && sudo apt-get install --yes greeter"},
		{Name: "run", Run: "greeter; cat /var/lib/greeter/configured; dpkg-query -W greeter greeter-data"},
		{Name: "remove", Run: "sudo apt-get remove --yes greeter >/dev/null; command -v greeter || echo gone"},
		{Name: "missing", ContinueOnError: true, Run: "sudo apt-get install --yes does-not-exist"},
	}})
	l.said(r, map[string]string{
		"source": "", "run": "hello from greeter\nas root\ngreeter\t1.0\ngreeter-data\t1.0", "remove": "gone",
	})
	if step := r.Step("install"); step.Conclusion != miniworker.Success {
		l.Errorf("step %v", step)
	}
	if step := r.Step("missing"); step.Exit != 100 || !strings.Contains(strings.Join(step.Output, "\n"),
		"Unable to locate package does-not-exist") {
		l.Errorf("step %v", step)
	}
}

// makeMirror makes a flat repository, sources.list(5), of a program and of what
// it depends on.
func (l *lab) makeMirror(dir string) {
	l.Helper()
	l.makePackage(dir, "greeter", "Depends: greeter-data\n", map[string]string{
		"usr/bin/greeter": "#!/bin/sh\ncat /usr/share/greeter/text\n",
		"DEBIAN/postinst": "#!/bin/sh\nmkdir -p /var/lib/greeter; echo as $(id -un) >/var/lib/greeter/configured\n",
	})
	l.makePackage(dir, "greeter-data", "", map[string]string{"usr/share/greeter/text": "hello from greeter\n"})
}

// makePackage builds a package into dir and lists it in Packages.gz there.
func (l *lab) makePackage(dir, name, fields string, files map[string]string) {
	l.Helper()
	tree := filepath.Join(l.TempDir(), name)
	fields = "Package: " + name + "\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.com>\n" +
		"Description: package of a test\n" + fields
	files["DEBIAN/control"] = fields
	for file, content := range files {
		path := filepath.Join(tree, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			l.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			l.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		l.Fatal(err)
	}
	archive := name + "_1.0_all.deb"
	build := exec.CommandContext(l.Context(), "dpkg-deb", "--build", "--root-owner-group", tree,
		filepath.Join(dir, archive))
	if out, err := build.CombinedOutput(); err != nil {
		l.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, archive))
	if err != nil {
		l.Fatal(err)
	}

	list, err := os.OpenFile(filepath.Join(dir, "Packages.gz"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		l.Fatal(err)
	}
	defer list.Close()
	gz := gzip.NewWriter(list) // members of gzip follow each other
	if _, err := fmt.Fprintf(gz, "%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", fields, archive, len(data),
		sha256.Sum256(data)); err != nil {
		l.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		l.Fatal(err)
	}
}
