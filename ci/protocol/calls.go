package protocol

import "time"

// BrokerMessage is the answer to a poll.
type BrokerMessage struct {
	MessageID   int    `json:"messageId"`
	MessageType string `json:"messageType"`
	Body        string `json:"body"` // JSON
}

// Types of messages of the broker.
const (
	RunnerJobRequest = "RunnerJobRequest"
	JobCancellation  = "JobCancellation"
	// DoubleExit is of the doubles alone: the body is the status that the listener
	// is to end with.
	DoubleExit = "DoubleExit"
)

// JobRequest is the body of a RunnerJobRequest.
type JobRequest struct {
	ID                string `json:"id"`
	RunnerRequestID   string `json:"runner_request_id"`
	ShouldAcknowledge bool   `json:"should_acknowledge"`
	RunServiceURL     string `json:"run_service_url"`
	BillingOwnerID    string `json:"billing_owner_id"`
}

// Cancellation is the body of a JobCancellation.
type Cancellation struct {
	JobID   string `json:"jobId"`
	Timeout string `json:"timeout"` // HH:MM:SS
}

// BrokerError is the answer to a poll that is refused.
type BrokerError struct {
	Source     string `json:"source"`    // "actions-broker-listener"
	ErrorKind  string `json:"errorKind"` // such as RunnerNotFound
	StatusCode int    `json:"statusCode"`
	Message    string `json:"errorMessage"`
}

// Kinds of BrokerError.
const (
	RunnerNotFound       = "RunnerNotFound"
	RunnerVersionTooOld  = "RunnerVersionTooOld"
	RunnerSessionInvalid = "RunnerSessionInvalid"
)

// Acquire is the body of acquirejob.
type Acquire struct {
	JobMessageID   string `json:"jobMessageId"` // the message's RunnerRequestID
	RunnerOS       string `json:"runnerOS"`
	BillingOwnerID string `json:"billingOwnerId"`
}

// Renew is the body of renewjob.
type Renew struct {
	PlanID string `json:"planId"`
	JobID  string `json:"jobId"`
}

// Complete is the body of completejob, sent by the worker, or by the listener if
// the worker ended without a result.
type Complete struct {
	PlanID      string            `json:"planId"`
	JobID       string            `json:"jobId"`
	Conclusion  string            `json:"conclusion"`
	Outputs     map[string]Output `json:"outputs"`
	StepResults []StepResult      `json:"stepResults"`
	Annotations []Annotation      `json:"annotations"`
	Telemetry   []Telemetry       `json:"telemetry"`

	BillingOwnerID string `json:"billingOwnerId"`
}

// Output is an output of the job.
type Output struct {
	Value string `json:"value"`
}

// StepResult is the end of a step.
type StepResult struct {
	ExternalID  string       `json:"external_id"`
	Number      int          `json:"number"`
	Name        string       `json:"name"`
	ActionName  string       `json:"action_name"`
	Type        string       `json:"type"`
	Status      string       `json:"status"`
	Conclusion  string       `json:"conclusion"`
	StartedAt   time.Time    `json:"started_at"`
	CompletedAt time.Time    `json:"completed_at"`
	Annotations []Annotation `json:"annotations"`
}

// Annotation is a line that GitHub shows beside a job or a step. Level is
// "failure", "warning" or "notice".
type Annotation struct {
	Level   string `json:"level"`
	Message string `json:"message"`
}

// Telemetry is a remark of the worker for the service. The doubles put here what
// tests want to know and the real worker keeps to itself: a miniworker.StepResult
// without its output, or a miniworker.JobResult without its steps, as JSON.
type Telemetry struct {
	Type    string `json:"type"` // "general", or one of the doubles
	Message string `json:"message"`
}

// Types of Telemetry of the doubles.
const (
	StepTelemetry = "double-step"
	JobTelemetry  = "double-job"
)

// Conclusions of completejob.
const (
	Succeeded = "succeeded"
	Failed    = "failed"
	Canceled  = "canceled"
	Skipped   = "skipped"
)

// StepsUpdate is the body of WorkflowStepsUpdate.
type StepsUpdate struct {
	Steps       []StepUpdate `json:"steps"`
	ChangeOrder int          `json:"change_order"`
	JobID       string       `json:"workflow_job_run_backend_id"`
	PlanID      string       `json:"workflow_run_backend_id"`
}

// StepUpdate is the state of a step.
type StepUpdate struct {
	ExternalID  string     `json:"external_id"`
	Number      int        `json:"number"`
	Name        string     `json:"name"`
	Status      int        `json:"status"`
	StartedAt   *time.Time `json:"started_at,omitempty"`
	CompletedAt *time.Time `json:"completed_at,omitempty"`
	Conclusion  int        `json:"conclusion"`
}

// Values of StepUpdate's Status and Conclusion.
const (
	StatusRunning = 3
	StatusPending = 5
	StatusDone    = 6

	ConclusionOK        = 2
	ConclusionFailed    = 3
	ConclusionCancelled = 4
	ConclusionSkipped   = 7
)

// BlobRequest asks the results service for the place of a log or a summary.
// StepID is empty for the job's own.
type BlobRequest struct {
	JobID  string `json:"workflow_job_run_backend_id"`
	PlanID string `json:"workflow_run_backend_id"`
	StepID string `json:"step_backend_id,omitempty"`
}

// BlobPlace is the answer to a BlobRequest.
type BlobPlace struct {
	LogsURL    string `json:"logs_url,omitempty"`
	SummaryURL string `json:"summary_url,omitempty"`
	Storage    string `json:"blob_storage_type"`
	SoftLimit  string `json:"soft_size_limit"` // bytes
}

// BlobMetadata ends the upload of a log (LineCount) or a summary (Size).
type BlobMetadata struct {
	BlobRequest
	UploadedAt time.Time `json:"uploaded_at"`
	LineCount  int64     `json:"line_count,omitempty"`
	Size       int64     `json:"size,omitempty"` // bytes
}

// AzureBlob is the only BlobPlace.Storage.
const AzureBlob = "BLOB_STORAGE_TYPE_AZURE"

// Services of the results service, beneath its URL.
const (
	StepsUpdatePath = "/twirp/github.actions.results.api.v1.WorkflowStepUpdateService/WorkflowStepsUpdate"
	ReceiverPath    = "/twirp/results.services.receiver.Receiver/"
)

// ResolveRequest asks where actions can be fetched.
type ResolveRequest struct {
	Actions []ActionName `json:"actions"`
}

// ActionName names an action: OWNER/NAME, a ref and a directory beneath.
type ActionName struct {
	Action  string `json:"action"`
	Version string `json:"version"`
	Path    string `json:"path,omitempty"`
}

// ResolveAnswer maps NAME@REF to where the action is.
type ResolveAnswer struct {
	Actions map[string]ResolvedAction `json:"actions"`
}

// ResolvedAction is where an action is.
type ResolvedAction struct {
	Name         string `json:"name"`
	ResolvedName string `json:"resolved_name"`
	ResolvedSHA  string `json:"resolved_sha"`
	Version      string `json:"version"`
	TarURL       string `json:"tar_url"` // gzip; one directory at the top
}

// ByteOrderMark begins each JSON file of the runner and each uploaded log.
const ByteOrderMark = "\xef\xbb\xbf"

// LogTime is the form of the time before each line of a log.
const LogTime = "2006-01-02T15:04:05.0000000Z"
