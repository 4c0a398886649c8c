package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/protocol"
	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/api"
	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/files"
)

// jobRun is one job under way.
type jobRun struct {
	root     files.Root
	settings files.Settings
	message  *protocol.JobMessage
	run      protocol.Endpoint // the run service
	client   api.Client
	log      *log.Logger
	record   *record
}

// runJob runs the job and reports it. It returns the job's conclusion, "" if
// there is none.
func runJob(ctx context.Context, root files.Root, m *protocol.JobMessage, logger *log.Logger) (string, error) {
	settings, err := root.Settings()
	if err != nil {
		return "", fmt.Errorf("cannot read the runner's settings: %w", err)
	}
	connection, err := m.Connection()
	if err != nil {
		return "", err
	}
	j := &jobRun{root: root, settings: settings, message: m, run: connection, log: logger}
	j.client = api.Client{Authorization: "Bearer " + connection.Token(), UserAgent: j.userAgent()}
	j.record = newRecord(j)

	stopDisk := j.watchDisk(ctx)
	result := j.work(ctx)
	stopDisk()
	// The job's end is reported, cancelled or not.
	return result.Conclusion, j.record.finish(context.WithoutCancel(ctx), result)
}

func (j *jobRun) userAgent() string {
	var cred files.Credentials
	_ = files.LoadJSON(j.root.Path(".credentials"), &cred) // optional
	return api.UserAgent(version, "Worker", "ClientId/"+cred.Data.ClientID,
		fmt.Sprintf("RunnerId/%d", j.settings.AgentID), fmt.Sprintf("GroupId/%d", j.settings.PoolID),
		"OrchestrationId/"+j.message.Variables["system.orchestrationId"].Value)
}

// work runs the steps, after what "Set up job" does.
func (j *jobRun) work(ctx context.Context) miniworker.JobResult {
	j.record.step(miniworker.StepResult{Name: miniworker.SetUpJob})
	worker, job, err := j.setUp(ctx)
	if err != nil {
		j.record.line("##[error]" + err.Error())
		failed := miniworker.StepResult{Name: miniworker.SetUpJob, Conclusion: miniworker.Failure,
			Errors: []string{err.Error()}}
		j.record.step(failed)
		return miniworker.JobResult{Conclusion: miniworker.Failure, Steps: []miniworker.StepResult{failed}}
	}
	return worker.RunJob(ctx, job)
}

func (j *jobRun) setUp(ctx context.Context) (*miniworker.Worker, miniworker.Job, error) {
	host, _ := os.Hostname() // for people only
	j.record.line("Current runner version: '" + version + "'")
	j.record.line("Runner name: '" + j.settings.AgentName + "'")
	j.record.line("Machine name: '" + host + "'")
	if err := j.printSetupInfo(); err != nil {
		return nil, miniworker.Job{}, err
	}

	job, err := j.message.Job()
	if err != nil {
		return nil, job, err
	}
	work := j.root.Work(j.settings)
	worker, err := miniworker.New(miniworker.Options{
		Hook: os.Getenv("ACTIONS_RUNNER_CONTAINER_HOOKS"), Root: string(j.root), Work: work,
		Repository: job.Repository, RunnerName: j.settings.AgentName, Job: job.Name,
		Masks: []string{j.message.GitHubToken()}, Line: j.record.line, Step: j.record.step,
	})
	if err != nil {
		return nil, job, err
	}
	j.record.line("Prepare all required actions")
	if err := j.fetchActions(ctx, filepath.Join(work, "_actions")); err != nil {
		return nil, job, err
	}
	j.record.line("Complete job name: " + job.Name)
	return worker, job, nil
}

// printSetupInfo prints each group of the file .setup_info, which is optional.
func (j *jobRun) printSetupInfo() error {
	var groups []struct{ Group, Detail string }
	err := files.LoadJSON(j.root.Path(".setup_info"), &groups)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read .setup_info: %w", err)
	}
	for _, g := range groups {
		if strings.HasPrefix(g.Group, "_internal_") {
			continue
		}
		j.record.line("##[group]" + g.Group)
		for _, line := range strings.Split(strings.TrimRight(g.Detail, "\n"), "\n") {
			j.record.line(line)
		}
		j.record.line("##[endgroup]")
	}
	return nil
}

// diskEvery is how often the worker looks at the disk.
const diskEvery = 10 * time.Second

// watchDisk warns once when the root of the work folder's path, not the file
// system of the work folder, is short of space: the real worker does the same.
func (j *jobRun) watchDisk(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !j.warnOfDisk() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(diskEvery):
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (j *jobRun) warnOfDisk() bool {
	threshold, err := strconv.ParseUint(j.message.LowDisk(), 10, 64)
	var st unix.Statfs_t
	if err != nil || unix.Statfs("/", &st) != nil {
		return false
	}
	free := st.Bavail * uint64(st.Bsize) >> 20
	if free < threshold {
		j.record.annotate("warning", fmt.Sprintf("You are running out of disk space. The runner will stop working when "+
			"the machine runs out of disk space. Free space left: %d MB", free))
	}
	return free < threshold
}

// fetchActions downloads the actions that the steps name into dir.
func (j *jobRun) fetchActions(ctx context.Context, dir string) error {
	references := j.message.Actions()
	if len(references) == 0 {
		return nil
	}
	var request protocol.ResolveRequest
	for _, r := range references {
		request.Actions = append(request.Actions, protocol.ActionName{Action: r.Name, Version: r.Ref, Path: r.Path})
	}
	address := fmt.Sprintf("%s/actions/build/%s/jobs/%s/runnerresolve/actions", j.message.Launch(),
		j.message.Plan.PlanID, j.message.JobID)
	var answer protocol.ResolveAnswer
	if err := j.client.CallRetrying(ctx, http.MethodPost, address, request, &answer); err != nil {
		return err
	}

	for _, r := range references {
		resolved, ok := answer.Actions[r.Name+"@"+r.Ref]
		if !ok {
			return api.Errorf("Unable to resolve action %s@%s", r.Name, r.Ref)
		}
		j.record.line(fmt.Sprintf("Download action repository '%s@%s' (SHA:%s)", r.Name, r.Ref, resolved.ResolvedSHA))
		if err := j.fetchAction(ctx, resolved.TarURL, filepath.Join(dir, r.Name, r.Ref)); err != nil {
			return fmt.Errorf("cannot download action %s@%s: %w", r.Name, r.Ref, err)
		}
	}
	return nil
}

// facts encodes what a test wants to know and no real message has room for.
func facts(kind string, v any) (protocol.Telemetry, error) {
	text, err := json.Marshal(v)
	return protocol.Telemetry{Type: kind, Message: string(text)}, err
}
