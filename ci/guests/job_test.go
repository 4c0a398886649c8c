package guests

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// place is where the worker of a job runs, and with it the steps that have no
// container.
type place string

const (
	onHost  place = "Host"  // RUNNER_JOBS=host: beside the listener
	inGuest place = "Guest" // RUNNER_JOBS=guest: in a guest of the job's own
	inImage place = "Image" // in a guest, too, on an appliance that booted the baked image
)

// workDir returns the work directory by the path that the worker knows it by.
func (l *lab) workDir() string {
	if l.workerInGuest() {
		return layout.WorkerWork
	}
	return l.path("work")
}

// workerInGuest reports whether the worker of a job has a guest.
func (l *lab) workerInGuest() bool { return l.place != onHost }

// inBoth runs a test with jobs on the host and with jobs in guests. These need
// serveGitHub.
func (l *lab) inBoth(test func(*lab)) {
	for _, p := range []place{onHost, inGuest} {
		l.run(string(p), func(l *lab) {
			l.place = p
			test(l)
		})
	}
}

// job runs a whole job in the lab's place.
func (l *lab) job(job miniworker.Job) miniworker.JobResult {
	l.Helper()
	switch l.place {
	case inGuest:
		return l.startJob(job).result()
	case inImage:
		return l.jobInImage(job)
	default:
		return l.jobOnHost(job)
	}
}

// githubAddr is where workers in guests reach it.
const githubAddr = internetAddr + ":8080"

// github is what the lab has of GitHub: jobs, and services that a worker calls.
type github struct {
	*fakegithub.Server
	worker []byte // program that stands for the actions runner's worker
}

// serveGitHub starts a GitHub on the internet, and builds the worker.
func (l *lab) serveGitHub() {
	l.Helper()
	program := l.path("stub-worker")
	build := exec.CommandContext(l.Context(), "go", "build", "-o", program,
		"github.com/mkappliance/mkappliance/ci/stubrunner/worker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		l.Fatalf("%v\n%s", err, out)
	}
	worker, err := os.ReadFile(program)
	if err != nil {
		l.Fatal(err)
	}

	l.github = &github{Server: fakegithub.New(fakegithub.Options{}), worker: worker}
	listener := l.listenIn(l.makeInternet(), githubAddr)
	server := &http.Server{Handler: l.github, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }() // ends with Close
	l.Cleanup(func() { _ = server.Close() })
}

// guestJob is a job under way in a guest.
type guestJob struct {
	*relayed
	id string
}

// startJob starts a job the whole way: job message, relay, broker, worker in a
// guest.
func (l *lab) startJob(job miniworker.Job) guestJob {
	l.Helper()
	id, message, err := l.github.Start(job, "http://"+githubAddr)
	if err != nil {
		l.Fatal(err)
	}
	return guestJob{relayed: l.relayMessage(l.github.worker, message, "-"), id: id}
}

// result waits for the end of the job and returns what its worker reported.
func (j guestJob) result() miniworker.JobResult {
	j.Helper()
	status := j.wait()
	ctx, cancel := context.WithTimeout(j.Context(), time.Second)
	defer cancel()
	result, err := j.github.Wait(ctx, j.id)
	if err != nil {
		j.Fatalf("the relay ended with %d, and the worker reported nothing: %v\n%s", status, err, &j.out.text)
	}
	statuses := map[string]int{miniworker.Success: 100, miniworker.Failure: 102, miniworker.Cancelled: 103}
	if want := statuses[result.Conclusion]; status != want {
		j.Errorf("the relay ended with %d, want %d, for %v", status, want, result)
	}
	return result
}

// jobOnHost runs a whole job on the host, as the runner's user would.
func (l *lab) jobOnHost(job miniworker.Job) miniworker.JobResult {
	l.Helper()
	options, err := json.Marshal(map[string]any{
		"Hook": l.path("hook.sh"), "Root": l.path("runner"), "Work": l.path("work"), "Job": job.Name,
	})
	if err != nil {
		l.Fatal(err)
	}
	input, err := json.Marshal(job)
	if err != nil {
		l.Fatal(err)
	}

	// The test binary lies where only root may look.
	worker := l.path("worker")
	self, err := os.Executable()
	if err != nil {
		l.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		l.Fatal(err)
	}
	if err := os.WriteFile(worker, data, 0o755); err != nil {
		l.Fatal(err)
	}

	programs := append([]string{l.path("runner-shim"), l.path("hook.sh")}, l.programs...)
	cmd := l.asRunner(worker)
	cmd.Env = []string{
		jobVariable + "=" + string(options), programsVariable + "=" + strings.Join(programs, ":"),
		"PATH=" + os.Getenv("PATH"), "HOME=" + l.path("work"),
	}
	cmd.Stdin, cmd.Stderr, cmd.Dir = bytes.NewReader(input), os.Stderr, l.dir
	out, err := cmd.Output()
	if err != nil {
		l.Fatal(err)
	}

	var result miniworker.JobResult
	if err := json.Unmarshal(out, &result); err != nil {
		l.Fatal(err)
	}
	return result
}
