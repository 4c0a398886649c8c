package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/ci/protocol"
	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/api"
)

// Delays of JobDispatcher.cs and ProcessInvoker.cs.
const (
	renewEvery     = time.Minute
	sendTimeout    = 30 * time.Second // for the job message to be read
	minCancel      = time.Minute      // the least a cancelled job may take,
	cancelReserve  = 15 * time.Second // of which this is kept for the listener
	shutdownWait   = 30 * time.Second // for a worker after RunnerShutdown
	afterInterrupt = 7500 * time.Millisecond
	afterTerminate = 2500 * time.Millisecond
	outputWait     = 5 * time.Second // for the end of a worker's output
)

// Descriptors of the pipes in a worker, as the real listener happens to have
// them: any numbers. Others are inherited too.
const (
	workerIn    = 143
	workerExtra = 150 // the writing end of that pipe, which hides its end from who keeps it open
	workerOut   = 161
)

// runningJob is a job and its worker.
type runningJob struct {
	id, planID, name, owner string
	run                     string     // URL of the run service
	client                  api.Client // with the job token
	message                 string

	stop chan stopRequest
}

// stopRequest asks for the end of a worker: a message to it, and how long to wait
// before it is killed.
type stopRequest struct {
	kind int32
	wait time.Duration
}

// acquire takes a job that was offered and starts it.
func (l *listener) acquire(ctx context.Context, request protocol.JobRequest) error {
	if request.ShouldAcknowledge {
		address := l.address(fmt.Sprintf("acknowledge?sessionId=%s&status=%s&runnerVersion=%s&os=Linux&architecture=%s",
			l.session, "Online", version, runnerArch()))
		body := map[string]string{"runnerRequestId": request.RunnerRequestID}
		_ = l.Call(ctx, http.MethodPost, address, body, nil) // best effort, as in the runner
	}
	if err := l.authorize(ctx); err != nil {
		return err
	}

	var raw json.RawMessage
	body := protocol.Acquire{JobMessageID: request.RunnerRequestID, RunnerOS: "Linux",
		BillingOwnerID: request.BillingOwnerID}
	if err := l.Call(ctx, http.MethodPost, request.RunServiceURL+"/acquirejob", body, &raw); err != nil {
		return err
	}
	var m protocol.JobMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	connection, err := m.Connection()
	if err != nil {
		return err
	}

	job := &runningJob{
		id: m.JobID, planID: m.Plan.PlanID, name: m.JobDisplayName, owner: m.BillingOwnerID,
		run: request.RunServiceURL, message: string(raw), stop: make(chan stopRequest, 2),
		client: api.Client{Authorization: "Bearer " + connection.Token(), UserAgent: l.UserAgent},
	}
	l.mu.Lock()
	l.job = job
	l.mu.Unlock()
	l.setStatus("Busy")
	say("Running job: " + job.name)
	l.jobs.Go(func() { l.runJob(ctx, job) })
	return nil
}

func (l *listener) cancelJob(c protocol.Cancellation) {
	var hours, minutes, seconds int
	_, _ = fmt.Sscanf(c.Timeout, "%d:%d:%d", &hours, &minutes, &seconds) // zero is a time too
	timeout := time.Duration(hours*3600+minutes*60+seconds) * time.Second
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.job != nil && l.job.id == c.JobID {
		l.job.requestStop(stopRequest{protocol.CancelRequest, max(timeout, minCancel) - cancelReserve})
	}
}

// requestStop does not wait: a worker reads one request, so later ones are lost.
func (j *runningJob) requestStop(r stopRequest) {
	select {
	case j.stop <- r:
	default:
	}
}

func (l *listener) runJob(ctx context.Context, j *runningJob) {
	defer l.setStatus("Online")
	defer l.forget(j)
	work := context.WithoutCancel(ctx) // outlives a stop of the listener
	if err := j.renew(work); err != nil {
		fmt.Fprintln(os.Stderr, "An error occurred:", err)
		return
	}
	if ctx.Err() != nil {
		return // the job is lost: nobody reports it
	}
	stopShutdown := context.AfterFunc(ctx, func() {
		j.requestStop(stopRequest{protocol.RunnerShutdown, shutdownWait})
	})
	defer stopShutdown()

	renewCtx, endRenewals := context.WithCancel(work)
	var renewals sync.WaitGroup
	renewals.Go(func() { j.keepRenewed(renewCtx) })
	status, output := j.runWorker(l.root.Path("bin"))
	endRenewals()
	renewals.Wait()

	result, ok := results[status]
	if !ok {
		result = "Failed"
		j.forceFail(work, output)
	}
	say(fmt.Sprintf("Job %s completed with result: %s", j.name, result))
}

// forget makes cancellations of a job that has ended meaningless. Another may run
// already.
func (l *listener) forget(j *runningJob) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.job == j {
		l.job = nil
	}
}

// results are the exit statuses of a worker that has reported its job's result:
// 100 + TaskResult.
var results = map[int]string{100: "Succeeded", 101: "SucceededWithIssues", 102: "Failed", 103: "Canceled",
	104: "Skipped", 105: "Abandoned"}

func (j *runningJob) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return j.client.Call(ctx, http.MethodPost, j.run+"/renewjob", protocol.Renew{PlanID: j.planID, JobID: j.id}, nil)
}

// keepRenewed cancels a job that its service no longer knows.
func (j *runningJob) keepRenewed(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(renewEvery):
		}
		var se *api.StatusError
		if err := j.renew(ctx); errors.As(err, &se) && se.Status == http.StatusNotFound {
			j.requestStop(stopRequest{protocol.CancelRequest, minCancel - cancelReserve})
			return
		}
	}
}

// forceFail completes a job whose worker ended without a result.
func (j *runningJob) forceFail(ctx context.Context, output string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := j.client.Call(ctx, http.MethodPost, j.run+"/completejob", protocol.Complete{
		PlanID: j.planID, JobID: j.id, Conclusion: protocol.Failed, BillingOwnerID: j.owner,
		Annotations: []protocol.Annotation{{Level: "failure", Message: output}},
	}, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "An error occurred:", err)
	}
}

// runWorker starts the worker and waits for its end. It returns the exit status
// (128 + N for signal N) and all that the worker wrote to its outputs.
func (j *runningJob) runWorker(bin string) (status int, output string) {
	readIn, in, err := os.Pipe()
	if err != nil {
		return -1, err.Error()
	}
	defer in.Close()
	out, writeOut, err := os.Pipe()
	if err != nil {
		return -1, err.Error()
	}
	defer out.Close()

	var both lockedBuffer
	cmd := exec.Command(bin+"/Runner.Worker", "spawnclient", fmt.Sprint(workerIn), fmt.Sprint(workerOut))
	cmd.Dir, cmd.Env = bin, workerEnv(os.Environ())
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &both, &both, outputWait
	cmd.ExtraFiles = make([]*os.File, workerOut+1-3) // that of index N becomes descriptor 3 + N
	cmd.ExtraFiles[workerIn-3], cmd.ExtraFiles[workerOut-3] = readIn, writeOut
	if cmd.ExtraFiles[workerExtra-3], err = openAgain(in); err != nil {
		return -1, err.Error()
	}
	err = cmd.Start()
	for _, f := range []*os.File{readIn, writeOut, cmd.ExtraFiles[workerExtra-3]} {
		_ = f.Close()
	}
	if err != nil {
		return -1, err.Error()
	}

	exited := make(chan struct{})
	var control sync.WaitGroup
	control.Go(func() { j.control(in, cmd.Process, exited) })
	_ = cmd.Wait() // the status is read from ProcessState
	close(exited)
	control.Wait()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), both.lines()
	}
	return cmd.ProcessState.ExitCode(), both.lines()
}

// openAgain opens the writing end of a pipe once more. A duplicate would be made
// blocking when a process inherits it, and in with it.
func openAgain(in *os.File) (again *os.File, err error) {
	raw, err := in.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		again, failed = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY, 0)
	})
	return again, errors.Join(err, failed)
}

// workerEnv adds what ProcessInvoker adds.
func workerEnv(env []string) []string {
	env = append(env, "GITHUB_ACTIONS=true")
	if os.Getenv("CI") == "" {
		env = append(env, "CI=true")
	}
	return env
}

// control sends the job, and later the request to stop, to the worker. One that
// does not obey is killed.
func (j *runningJob) control(in *os.File, worker *os.Process, exited <-chan struct{}) {
	_ = in.SetWriteDeadline(time.Now().Add(sendTimeout))
	if err := protocol.WritePipe(in, protocol.NewJobRequest, j.message); err != nil {
		kill(worker, exited)
		return
	}

	select {
	case <-exited:
	case request := <-j.stop:
		_ = in.SetWriteDeadline(time.Now().Add(sendTimeout))
		_ = protocol.WritePipe(in, request.kind, "") // a worker that has gone does not matter
		select {
		case <-exited:
		case <-time.After(request.wait):
			kill(worker, exited)
		}
	}
}

// kill signals the one process, not its children.
func kill(worker *os.Process, exited <-chan struct{}) {
	for _, s := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, afterInterrupt}, {syscall.SIGTERM, afterTerminate}, {syscall.SIGKILL, time.Hour}} {
		_ = worker.Signal(s.signal) // it may have ended by now
		select {
		case <-exited:
			return
		case <-time.After(s.wait):
		}
	}
}

// lockedBuffer takes both outputs of a process.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

var _ io.Writer = (*lockedBuffer)(nil)

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// lines returns the text without the lines that the worker means for a terminal.
func (b *lockedBuffer) lines() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lines []string
	for line := range strings.Lines(b.text.String()) {
		if !strings.HasPrefix(line, "[WORKER") {
			lines = append(lines, strings.TrimRight(line, "\r\n"))
		}
	}
	return strings.Join(lines, "\n")
}
