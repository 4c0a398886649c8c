package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/protocol"
)

// record keeps the steps of a job and uploads them: the log of each as it ends,
// their states at most each updateEvery, and the rest at the end of the job.
type record struct {
	job     *jobRun
	uploads chan *stepRecord
	ended   sync.WaitGroup // of what uploads in the background
	stop    chan struct{}

	mu          sync.Mutex
	steps       []*stepRecord
	all         []string // the whole log, each line with its time
	annotations []protocol.Annotation
	changed     bool
	changes     int // how many updates were sent
}

// stepRecord is one step. Only its log may change after it was queued for
// uploading, and that does not: another step has begun.
type stepRecord struct {
	result             miniworker.StepResult
	number             int
	started, completed time.Time
	lines              []string // each with its time
}

// updateEvery is the least time between two updates of the steps.
const updateEvery = 500 * time.Millisecond

func newRecord(j *jobRun) *record {
	r := &record{job: j, uploads: make(chan *stepRecord, 1000), stop: make(chan struct{})}
	r.ended.Go(func() {
		for s := range r.uploads {
			r.uploadLog(context.Background(), "StepLogs", s.result.ID, s.lines)
		}
	})
	r.ended.Go(func() {
		for {
			select {
			case <-r.stop:
				return
			case <-time.After(updateEvery):
				r.update(context.Background())
			}
		}
	})
	return r
}

// step begins or ends a step: miniworker.Options.Step.
func (r *record) step(result miniworker.StepResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed = true
	now := time.Now().UTC()
	current := r.current()
	if current == nil || current.result.Name != result.Name || !current.completed.IsZero() {
		if result.ID == "" {
			result.ID = randomGUID()
		}
		current = &stepRecord{number: len(r.steps) + 1, started: now}
		r.steps = append(r.steps, current)
	} else if result.ID == "" {
		result.ID = current.result.ID
	}
	current.result = result
	if result.Conclusion != "" {
		current.completed = now
		r.uploads <- current
	}
}

// current returns the step that began last. The caller holds mu.
func (r *record) current() *stepRecord {
	if len(r.steps) == 0 {
		return nil
	}
	return r.steps[len(r.steps)-1]
}

// line adds a line to the log: miniworker.Options.Line. The name of a job may have
// several.
func (r *record) line(text string) {
	at := time.Now().UTC().Format(protocol.LogTime)
	r.mu.Lock()
	defer r.mu.Unlock()
	for part := range strings.SplitSeq(text, "\n") {
		line := at + " " + part
		r.all = append(r.all, line)
		if s := r.current(); s != nil && s.completed.IsZero() {
			s.lines = append(s.lines, line)
		}
	}
}

// annotate adds an annotation to the job.
func (r *record) annotate(level, message string) {
	r.line("##[" + level + "]" + message)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.annotations = append(r.annotations, protocol.Annotation{Level: level, Message: message})
}

var stepConclusions = map[string]struct {
	update int
	result string
}{
	miniworker.Success:   {protocol.ConclusionOK, protocol.Succeeded},
	miniworker.Failure:   {protocol.ConclusionFailed, protocol.Failed},
	miniworker.Cancelled: {protocol.ConclusionCancelled, protocol.Canceled},
	miniworker.Skipped:   {protocol.ConclusionSkipped, protocol.Skipped},
}

// update sends the states of all steps if one has changed.
func (r *record) update(ctx context.Context) {
	r.mu.Lock()
	changed := r.changed
	r.changed = false
	if changed {
		r.changes++
	}
	body := protocol.StepsUpdate{ChangeOrder: r.changes, JobID: r.job.message.JobID,
		PlanID: r.job.message.Plan.PlanID}
	for _, s := range r.steps {
		started, completed := s.started, s.completed
		update := protocol.StepUpdate{ExternalID: s.result.ID, Number: s.number, Name: s.result.Name,
			Status: protocol.StatusRunning, StartedAt: &started}
		if !completed.IsZero() {
			update.Status, update.CompletedAt = protocol.StatusDone, &completed
			update.Conclusion = stepConclusions[s.result.Conclusion].update
		}
		body.Steps = append(body.Steps, update)
	}
	r.mu.Unlock()

	if !changed {
		return
	}
	address := r.job.message.Results() + protocol.StepsUpdatePath
	if err := r.job.client.Call(ctx, http.MethodPost, address, body, nil); err != nil {
		r.job.log.Print(err)
	}
}

// finish uploads what is left and completes the job.
func (r *record) finish(ctx context.Context, result miniworker.JobResult) error {
	close(r.stop)
	close(r.uploads)
	r.ended.Wait()
	r.mu.Lock()
	r.changed = true
	r.mu.Unlock()
	r.update(ctx)
	r.uploadLog(ctx, "JobLogs", "", r.all)
	for _, s := range r.steps {
		if s.result.Summary != "" {
			r.uploadSummary(ctx, s.result.ID, s.result.Summary)
		}
	}

	body, err := r.complete(result)
	if err != nil {
		return err
	}
	return r.job.client.CallRetrying(ctx, http.MethodPost, r.job.run.URL+"/completejob", body, nil)
}

func (r *record) complete(result miniworker.JobResult) (protocol.Complete, error) {
	body := protocol.Complete{PlanID: r.job.message.Plan.PlanID, JobID: r.job.message.JobID,
		Conclusion: stepConclusions[result.Conclusion].result, Outputs: map[string]protocol.Output{},
		Annotations: slices.Clone(r.annotations), BillingOwnerID: r.job.message.BillingOwnerID}
	result.Steps = nil
	job, err := facts(protocol.JobTelemetry, result)
	if err != nil {
		return body, err
	}
	body.Telemetry = append(body.Telemetry, job)

	for _, s := range r.steps {
		step := protocol.StepResult{ExternalID: s.result.ID, Number: s.number, Name: s.result.Name, Type: "run",
			ActionName: "sh", Status: "completed", Conclusion: stepConclusions[s.result.Conclusion].result,
			StartedAt: s.started, CompletedAt: s.completed, Annotations: []protocol.Annotation{}}
		switch s.result.Name {
		case miniworker.SetUpJob:
			step.ActionName, step.Type = "setup_job", "runner"
		case miniworker.CompleteJob:
			step.ActionName, step.Type = "complete_job", "runner"
		}
		for _, text := range s.result.Errors {
			step.Annotations = append(step.Annotations, protocol.Annotation{Level: "failure", Message: text})
		}
		body.StepResults = append(body.StepResults, step)

		s.result.Output, s.result.Summary = nil, ""
		hidden, err := facts(protocol.StepTelemetry, s.result)
		if err != nil {
			return body, err
		}
		body.Telemetry = append(body.Telemetry, hidden)
	}
	return body, nil
}

func (r *record) blobRequest(step string) protocol.BlobRequest {
	return protocol.BlobRequest{JobID: r.job.message.JobID, PlanID: r.job.message.Plan.PlanID, StepID: step}
}

// uploadLog uploads lines as a blob that begins with a byte order mark. A log that
// cannot be uploaded does not fail the job.
func (r *record) uploadLog(ctx context.Context, kind, step string, lines []string) {
	if len(lines) == 0 {
		return
	}
	text := protocol.ByteOrderMark + strings.Join(lines, "\n") + "\n"
	metadata := protocol.BlobMetadata{BlobRequest: r.blobRequest(step), UploadedAt: time.Now().UTC(),
		LineCount: int64(len(lines))}
	r.upload(ctx, kind, text, metadata)
}

func (r *record) uploadSummary(ctx context.Context, step, text string) {
	metadata := protocol.BlobMetadata{BlobRequest: r.blobRequest(step), UploadedAt: time.Now().UTC(),
		Size: int64(len(text))}
	r.upload(ctx, "StepSummary", text, metadata)
}

func (r *record) upload(ctx context.Context, kind, text string, metadata protocol.BlobMetadata) {
	receiver := r.job.message.Results() + protocol.ReceiverPath
	var place protocol.BlobPlace
	err := r.job.client.Call(ctx, http.MethodPost, receiver+"Get"+kind+"SignedBlobURL", metadata.BlobRequest, &place)
	if err == nil {
		err = putBlob(ctx, place.LogsURL+place.SummaryURL, text) // one of them is empty
	}
	if err == nil {
		err = r.job.client.Call(ctx, http.MethodPost, receiver+"Create"+kind+"Metadata", metadata, nil)
	}
	if err != nil {
		r.job.log.Print(err)
	}
}

func putBlob(ctx context.Context, address, text string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, address, strings.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("x-ms-blob-type", "BlockBlob")
	req.Header.Set("Content-Type", "text/plain")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("cannot put a blob: status %d", resp.StatusCode)
	}
	return nil
}

// randomGUID returns a GUID as .NET writes it.
func randomGUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
