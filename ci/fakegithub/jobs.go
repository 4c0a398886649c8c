package fakegithub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/protocol"
)

// States of a job.
const (
	jobQueued    = "queued"
	jobSent      = "sent" // to a listener, which has not acquired it
	jobRunning   = "running"
	jobCompleted = "completed"
)

type job struct {
	ID     string                `json:"id"`
	Job    miniworker.Job        `json:"job"`
	State  string                `json:"state"`
	Cancel bool                  `json:"cancel"`
	Result *miniworker.JobResult `json:"result,omitempty"`

	guid, plan, request string
	token, gitHubToken  string
	runner              int // id of the runner that it was sent to
	cancelSent          bool
	stepIDs             []string
	archives            map[string]string   // id of a tar file: directory of the action
	logs                map[string][]string // of steps, by their ids; "" is the whole log
	summaries           map[string]string   // of steps, by their ids
}

func (s *Server) runRoutes() {
	s.mux.HandleFunc("POST "+runPath+"/acquirejob", s.acquire)
	s.mux.HandleFunc("POST "+runPath+"/renewjob", s.renew)
	s.mux.HandleFunc("POST "+runPath+"/completejob", s.complete)
}

// acquire hands out a job message to the runner that was told of the job.
func (s *Server) acquire(w http.ResponseWriter, r *http.Request) {
	var in protocol.Acquire
	if !readJSON(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	runner := s.caller(w, r)
	if runner == nil {
		return
	}
	for _, j := range s.jobs {
		if j.request == in.JobMessageID && j.State == jobSent && j.runner == runner.ID {
			j.State = jobRunning
			s.notify()
			writeJSON(w, http.StatusOK, j.message(origin(r)))
			return
		}
	}
	writeJSON(w, http.StatusNotFound, map[string]any{"source": "actions-run-service",
		"statusCode": http.StatusNotFound, "errorMessage": "job not found"})
}

func (j *job) message(origin string) protocol.JobMessage {
	return protocol.NewJobMessage(j.Job, protocol.Run{
		PlanID: j.plan, JobID: j.guid, RequestID: 1, Token: j.token, GitHubToken: j.gitHubToken,
		RunService: origin + runPath, Results: origin + resultsPath, Launch: origin + launchPath, StepIDs: j.stepIDs,
	})
}

// running finds the running job by its token. The caller holds mu.
func (s *Server) running(w http.ResponseWriter, r *http.Request) *job {
	token := bearer(r)
	i := slices.IndexFunc(s.jobs, func(j *job) bool { return j.token == token })
	if i < 0 {
		writeError(w, http.StatusUnauthorized, "Bad credentials")
		return nil
	}
	if s.jobs[i].State != jobRunning {
		writeError(w, http.StatusNotFound, "Not Found")
		return nil
	}
	return s.jobs[i]
}

// renew keeps the job's lock.
func (s *Server) renew(w http.ResponseWriter, r *http.Request) {
	var in protocol.Renew
	if !readJSON(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.running(w, r); j != nil {
		writeJSON(w, http.StatusOK, map[string]time.Time{"lockedUntil": time.Now().Add(10 * time.Minute).UTC()})
	}
}

func (s *Server) complete(w http.ResponseWriter, r *http.Request) {
	var in protocol.Complete
	if !readJSON(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.running(w, r); j != nil {
		result := j.result(in)
		j.State, j.Result = jobCompleted, &result
		s.notify()
		w.WriteHeader(http.StatusOK)
	}
}

var conclusions = map[string]string{protocol.Succeeded: miniworker.Success, protocol.Failed: miniworker.Failure,
	protocol.Canceled: miniworker.Cancelled, protocol.Skipped: miniworker.Skipped}

// result puts together what a test wants to know, from logs, summaries and
// completejob.
func (j *job) result(c protocol.Complete) miniworker.JobResult {
	var result miniworker.JobResult
	hidden := map[string]miniworker.StepResult{}
	for _, t := range c.Telemetry {
		var step miniworker.StepResult
		switch t.Type {
		case protocol.JobTelemetry:
			_ = json.Unmarshal([]byte(t.Message), &result) // of the doubles: what it lacks a test will miss
		case protocol.StepTelemetry:
			_ = json.Unmarshal([]byte(t.Message), &step)
			hidden[step.ID] = step
		}
	}

	result.Conclusion = conclusions[c.Conclusion]
	for _, a := range c.Annotations {
		result.Annotations = append(result.Annotations, a.Level+": "+a.Message)
	}
	for _, s := range c.StepResults {
		step := hidden[s.ExternalID]
		step.ID, step.Name, step.Conclusion = s.ExternalID, s.Name, conclusions[s.Conclusion]
		step.Duration, step.Errors = s.CompletedAt.Sub(s.StartedAt), nil
		for _, a := range s.Annotations {
			if a.Level == "failure" {
				step.Errors = append(step.Errors, a.Message)
			}
		}
		step.Output = output(j.logs[s.ExternalID], step.Errors)
		step.Summary = j.summaries[s.ExternalID]
		result.Steps = append(result.Steps, step)
	}
	return result
}

// output returns the lines of a step's log that its program has written.
func output(log, errors []string) []string {
	if len(log) > 0 && strings.HasPrefix(log[0], "##[group]Run ") {
		log = log[slices.Index(log, "##[endgroup]")+1:]
	}
	var lines []string
	for _, line := range log {
		if text, ok := strings.CutPrefix(line, "##[error]"); !ok || !slices.Contains(errors, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

// Enqueue queues a job for the next runner that asks, and returns its id.
func (s *Server) Enqueue(j miniworker.Job) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.enqueue(j).ID
}

// Start starts a job without a listener, for a worker that reaches the server at
// this URL. It returns the job's id, and the job message to write into the pipe.
func (s *Server) Start(j miniworker.Job, url string) (id, message string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	started := s.enqueue(j)
	started.State = jobRunning
	data, err := json.Marshal(started.message(url))
	return started.ID, string(data), err
}

// enqueue adds a job. The caller holds mu.
func (s *Server) enqueue(j miniworker.Job) *job {
	id := fmt.Sprintf("job-%d", len(s.jobs)+1)
	queued := &job{ID: id, Job: j, State: jobQueued, guid: randomUUID(), plan: randomUUID(), request: randomUUID(),
		token: randomJWT(), gitHubToken: "ghs_" + randomID(), archives: map[string]string{},
		logs: map[string][]string{}, summaries: map[string]string{}}
	for range j.Steps {
		queued.stepIDs = append(queued.stepIDs, randomUUID())
	}
	s.jobs = append(s.jobs, queued)
	s.notify()
	return queued
}

// Cancel asks the runner to cancel a job, as the button in a browser does.
func (s *Server) Cancel(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.job(id); j != nil {
		j.Cancel = true
		s.notify()
	}
}

func (s *Server) job(id string) *job {
	for _, j := range s.jobs {
		if j.ID == id {
			return j
		}
	}
	return nil
}

// Log returns the whole log of a job, which is there once the job has ended.
func (s *Server) Log(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.job(id); j != nil {
		return slices.Clone(j.logs[""])
	}
	return nil
}

// Wait waits until a job is completed.
func (s *Server) Wait(ctx context.Context, id string) (miniworker.JobResult, error) {
	var result miniworker.JobResult
	err := s.until(ctx, func() bool {
		j := s.job(id)
		if j == nil || j.Result == nil {
			return false
		}
		result = *j.Result
		return true
	})
	if err != nil {
		return result, fmt.Errorf("cannot wait for %s: %w", id, err)
	}
	return result, nil
}

// WaitOnline waits until n runners have a session.
func (s *Server) WaitOnline(ctx context.Context, n int) error {
	return s.until(ctx, func() bool {
		online := 0
		for _, r := range s.runners {
			if r.Status == "online" {
				online++
			}
		}
		return online == n
	})
}

// until waits until done, called with mu held, is true.
func (s *Server) until(ctx context.Context, done func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := done(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Second): // never needed, and a cheap guard
		}
	}
}
