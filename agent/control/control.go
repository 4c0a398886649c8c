// Package control is what runner.service can be asked for by the verbs status,
// drain and resume, the client that asks, and the server that answers.
//
// A conversation is one line of JSON each way over a unix socket: a request, and
// the answer with the state after it. Both are bounded, and neither side trusts
// the other: the service runs as user runner, who owns the socket.
package control

import "time"

// State is what the runner does as a whole. Package supervise has the table of
// transitions.
type State string

// The states of runner.service.
const (
	Starting   State = "starting"   // the listener has no session with GitHub yet, or waits for its next start
	Online     State = "online"     // waits for a job
	Busy       State = "busy"       // runs a job
	Draining   State = "draining"   // the job under way, if any, is the last
	Drained    State = "drained"    // takes no job until resume or the next boot; GitHub shows the runner offline
	Conflict   State = "conflict"   // another session with this registration is open; tries again
	Stopped    State = "stopped"    // the service was stopped, or does not run
	Deprecated State = "deprecated" // GitHub no longer serves this version of the actions runner
	Removed    State = "removed"    // the runner is not registered, or no longer
)

// Status is the answer to each request.
type Status struct {
	State  State     `json:"state"`
	Since  time.Time `json:"since,omitzero"`   // when it came into this state
	Reason string    `json:"reason,omitempty"` // why it is in this state, where that is not plain

	// Job is the name of the job under way, which a workflow chooses: at most 256
	// bytes of text. It is empty without a job.
	Job      string    `json:"job,omitempty"`
	JobSince time.Time `json:"job_since,omitzero"`
	// Jobs is how many jobs have ended since the service started. The end of a
	// listener with status 0 does not mean that it ran one.
	Jobs int `json:"jobs"`

	Drain *Drain `json:"drain,omitempty"` // nil unless a drain is asked for

	// RunnerVersion is the version of the actions runner that runs, as it prints
	// it; empty before that.
	RunnerVersion string `json:"runner_version,omitempty"`
	// RunnerDeadline is the day from which GitHub does not serve that version any
	// more; zero if the listener has not printed one.
	RunnerDeadline time.Time `json:"runner_deadline,omitzero"`
}

// Drain is a drain that was asked for. It holds over restarts of the service
// until a resume or the next boot.
type Drain struct {
	Since time.Time `json:"since"`
	// Deadline is when the job under way is cancelled; zero for never.
	Deadline time.Time `json:"deadline,omitzero"`
	// Cancelled reports that a job was cancelled at the deadline.
	Cancelled bool `json:"cancelled,omitempty"`
	// Brief reports that the drain ends with a restart of the service, or by itself
	// a minute after the runner is drained, see Client.Pause.
	Brief bool `json:"brief,omitempty"`
}

// Names in the directory that the service shows.
const (
	socketName = "control.sock"
	statusName = "status.json" // the last Status, for when the service does not run
)

// Bounds of a conversation.
const (
	maxRequest = 4 << 10  // bytes
	maxAnswer  = 64 << 10 // bytes; also of the file
	maxClients = 16       // at a time
	timeout    = 10 * time.Second
)

// request is one of the verbs with its parameter.
type request struct {
	Verb string `json:"verb"` // status, drain, pause, resume or job-ended
	// TimeoutS is how long the job under way may take after a drain, in seconds; 0
	// for as long as it takes.
	TimeoutS int64 `json:"timeout_s,omitempty"`
}

type answer struct {
	Status Status `json:"status"`
	Error  string `json:"error,omitempty"`
}
