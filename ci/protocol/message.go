package protocol

import (
	"cmp"
	"errors"
	"time"
)

// JobMessage is the answer to acquirejob, which the listener passes on to the
// worker as it is.
type JobMessage struct {
	MessageType          string              `json:"messageType"` // "RunnerJobRequest"
	Plan                 Plan                `json:"plan"`
	Timeline             Timeline            `json:"timeline"`
	JobID                string              `json:"jobId"`
	JobDisplayName       string              `json:"jobDisplayName"`
	JobName              string              `json:"jobName"`
	RequestID            int                 `json:"requestId"`
	LockedUntil          time.Time           `json:"lockedUntil"`
	Resources            Resources           `json:"resources"`
	Variables            map[string]Variable `json:"variables"`
	ContextData          map[string]Data     `json:"contextData"`
	Mask                 []Mask              `json:"mask"`
	EnvironmentVariables []Token             `json:"environmentVariables"` // mappings
	Defaults             []Token             `json:"defaults"`             // mappings
	FileTable            []string            `json:"fileTable"`
	Steps                []Step              `json:"steps"`
	JobContainer         Token               `json:"jobContainer"` // null, a string or a mapping
	JobServiceContainers Token               `json:"jobServiceContainers"`
	JobOutputs           Token               `json:"jobOutputs"`
	BillingOwnerID       string              `json:"billingOwnerId"`
}

// Plan names a workflow run at its service.
type Plan struct {
	PlanID          string `json:"planId"`
	ScopeIdentifier string `json:"scopeIdentifier"`
	PlanType        string `json:"planType"`
	Version         int    `json:"version"`
}

// Timeline names the list of a job's steps.
type Timeline struct {
	ID string `json:"id"`
}

// Resources hold the services that the job may call.
type Resources struct {
	Endpoints []Endpoint `json:"endpoints"` // exactly one, SystemVssConnection
}

// Endpoint is one service.
type Endpoint struct {
	Name          string            `json:"name"`
	URL           string            `json:"url"` // of the run service
	Authorization Authorization     `json:"authorization"`
	Data          map[string]string `json:"data"` // URLs of other services, such as ResultsServiceUrl
}

// Authorization is how to call an endpoint.
type Authorization struct {
	Scheme     string            `json:"scheme"`     // "OAuth"
	Parameters map[string]string `json:"parameters"` // AccessToken
}

// Variable is a setting of the job, or a secret.
type Variable struct {
	Value    string `json:"value"`
	IsSecret bool   `json:"isSecret,omitempty"`
}

// Mask is what the worker must not show.
type Mask struct {
	Type  string `json:"type"` // "regex"
	Value string `json:"value"`
}

// Step is one step of the job.
type Step struct {
	Type             string    `json:"type"` // "action"
	ID               string    `json:"id"`   // a GUID
	Name             string    `json:"name"`
	ContextName      string    `json:"contextName"`
	DisplayNameToken Token     `json:"displayNameToken"`
	Reference        Reference `json:"reference"`
	Inputs           Token     `json:"inputs"`      // a mapping
	Environment      Token     `json:"environment"` // a mapping
	Condition        string    `json:"condition"`   // such as "success()"
	ContinueOnError  Token     `json:"continueOnError"`
	TimeoutInMinutes Token     `json:"timeoutInMinutes"`

	// Main is of the doubles alone: the file of a JavaScript action to run, which
	// the real worker reads in action.yml.
	Main string `json:"main,omitempty"`
}

// Reference is what a step runs. Type is "script", "repository" or
// "containerRegistry".
type Reference struct {
	Type           string `json:"type"`
	RepositoryType string `json:"repositoryType,omitempty"` // "GitHub"
	Name           string `json:"name,omitempty"`           // OWNER/NAME
	Ref            string `json:"ref,omitempty"`
	Path           string `json:"path,omitempty"` // beneath the repository
	Image          string `json:"image,omitempty"`
}

// Connection returns the endpoint that the job calls its services with.
func (m *JobMessage) Connection() (Endpoint, error) {
	for _, e := range m.Resources.Endpoints {
		if e.Name == connectionName {
			return e, nil
		}
	}
	return Endpoint{}, errors.New("the job message has no endpoint SystemVssConnection")
}

// Token returns the job token, which authorizes the job's calls and renewals.
func (e Endpoint) Token() string { return e.Authorization.Parameters["AccessToken"] }

// Results returns the URL of the results service.
func (m *JobMessage) Results() string { return m.Variables[resultsVariable].Value }

// Launch returns the URL of the service that resolves actions.
func (m *JobMessage) Launch() string { return m.Variables[launchVariable].Value }

// LowDisk returns the free space in megabytes below which the worker warns.
func (m *JobMessage) LowDisk() string {
	return cmp.Or(m.Variables[lowDiskVariable].Value, "100")
}

// GitHubToken returns the job's GITHUB_TOKEN.
func (m *JobMessage) GitHubToken() string { return m.Variables[tokenVariable].Value }

// Names of variables and of the one endpoint.
const (
	connectionName  = "SystemVssConnection"
	tokenVariable   = "system.github.token"
	resultsVariable = "system.github.results_endpoint"
	launchVariable  = "system.github.launch_endpoint"
	lowDiskVariable = "system.runner.lowdiskspacethreshold"
)
