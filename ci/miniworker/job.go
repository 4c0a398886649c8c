package miniworker

import (
	"fmt"
	"strings"
	"time"
)

// Job is a scripted job: that of a workflow file, already expanded.
type Job struct {
	Name       string            `json:"name"`
	Repository string            `json:"repository,omitempty"` // OWNER/NAME; default octo/repo
	Container  *Container        `json:"container,omitempty"`
	Services   []Container       `json:"services,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	Matrix     map[string]string `json:"matrix,omitempty"` // for expressions such as ${{ matrix.image }}
	// Variables are those of the job message, beside the usual ones.
	Variables map[string]string `json:"variables,omitempty"`
	// Actions are directories of the host that stand for downloaded actions,
	// by OWNER/NAME/REF.
	Actions map[string]string `json:"actions,omitempty"`
	Steps   []Step            `json:"steps"`
}

// Container is a workflow's container: or service, or a docker:// action.
type Container struct {
	Key         string            `json:"key,omitempty"` // of a service: its name in the workflow, default serviceN
	Image       string            `json:"image"`
	Dockerfile  string            `json:"dockerfile,omitempty"` // host path, of a Dockerfile action, in place of Image
	Options     string            `json:"options,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	Volumes     []string          `json:"volumes,omitempty"`
	Ports       []string          `json:"ports,omitempty"`
	Credentials *Credentials      `json:"credentials,omitempty"`
	Entrypoint  string            `json:"entrypoint,omitempty"` // services and container steps
	Command     string            `json:"command,omitempty"`    // their arguments, one string
}

// Credentials are those of an image registry.
type Credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// Step is one run: step, or, with Uses, one docker:// action, or, with Action,
// a JavaScript one.
type Step struct {
	ID               string            `json:"id,omitempty"` // a GUID, from a job message
	Name             string            `json:"name,omitempty"`
	Run              string            `json:"run,omitempty"`
	Shell            string            `json:"shell,omitempty"` // as in a workflow; "" means sh -e
	WorkingDirectory string            `json:"working_directory,omitempty"`
	Env              map[string]string `json:"env,omitempty"`
	Uses             *Container        `json:"uses,omitempty"`
	// Action, of the job's Actions, has its file Main run by node.js.
	Action          string            `json:"action,omitempty"`
	Main            string            `json:"main,omitempty"`
	With            map[string]string `json:"with,omitempty"` // its inputs
	If              string            `json:"if,omitempty"`   // "" (success), "always" or "failure"
	ContinueOnError bool              `json:"continue_on_error,omitempty"`
	TimeoutSeconds  int               `json:"timeout_seconds,omitempty"`
}

// Conclusions of steps and jobs, as GitHub names them.
const (
	Success   = "success"
	Failure   = "failure"
	Cancelled = "cancelled"
	Skipped   = "skipped"
)

// StepResult is the end of one call of the hook, or of one step on the host.
type StepResult struct {
	ID         string            `json:"id,omitempty"` // of the Step
	Name       string            `json:"name"`
	Conclusion string            `json:"conclusion"`
	Exit       int               `json:"exit"`             // exit status, or 128 + signal
	Output     []string          `json:"output,omitempty"` // lines of stdout and stderr as they came
	Errors     []string          `json:"errors,omitempty"` // what the runner itself says
	Outputs    map[string]string `json:"outputs,omitempty"`
	Summary    string            `json:"summary,omitempty"` // of GITHUB_STEP_SUMMARY
	Duration   time.Duration     `json:"duration"`

	// Request is what went to the hook's standard input, Response what the
	// response file held. Empty for a step that calls no hook.
	Request  string `json:"request,omitempty"`
	Response string `json:"response,omitempty"`
}

// JobResult is the end of a job. Steps include "Initialize containers" and
// "Stop containers".
type JobResult struct {
	Conclusion string       `json:"conclusion"`
	Steps      []StepResult `json:"steps"`
	// Orphans counts processes of the job that were still there at its end
	// and had to be killed.
	Orphans int `json:"orphans"`
	// Annotations are what GitHub shows beside the job, each "LEVEL: TEXT".
	Annotations []string `json:"annotations,omitempty"`
}

// Step finds a step's result by name; the zero StepResult if there is none.
func (r JobResult) Step(name string) StepResult {
	for _, s := range r.Steps {
		if s.Name == name {
			return s
		}
	}
	return StepResult{}
}

// String describes a step for a person, without request and response.
func (r StepResult) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, exit %d, %s", r.Name, r.Conclusion, r.Exit, r.Duration.Round(time.Millisecond))
	for _, line := range r.Output {
		b.WriteString("\n  | " + line)
	}
	for _, e := range r.Errors {
		b.WriteString("\n  ! " + e)
	}
	return b.String()
}

// String describes a job for a person, step by step.
func (r JobResult) String() string {
	lines := []string{fmt.Sprintf("%s, %d orphans", r.Conclusion, r.Orphans)}
	for _, s := range r.Steps {
		lines = append(lines, s.String())
	}
	return strings.Join(lines, "\n")
}
