package protocol

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// Run is what the service adds to a scripted job to make a job message of it.
type Run struct {
	PlanID, JobID string
	RequestID     int
	Token         string   // the job token
	GitHubToken   string   // GITHUB_TOKEN
	RunService    string   // URL of the run service
	Results       string   // URL of the results service
	Launch        string   // URL of the service that resolves actions
	StepIDs       []string // GUIDs, one for each step of the job
}

// lockTime is how long a job is the runner's without a renewal.
const lockTime = 10 * time.Minute

// jobKey returns a key of jobs: in a workflow these are letters, digits, - and _,
// whereas the name can be anything.
func jobKey(name string) string {
	return regexp.MustCompile(`[^0-9A-Za-z_-]`).ReplaceAllString(name, "_")
}

// NewJobMessage returns the message for a job.
func NewJobMessage(j miniworker.Job, r Run) JobMessage {
	m := JobMessage{
		MessageType: "RunnerJobRequest", JobID: r.JobID, JobDisplayName: j.Name, JobName: "__default",
		RequestID: r.RequestID, LockedUntil: time.Now().Add(lockTime).UTC(), BillingOwnerID: billingOwner,
		Plan: Plan{PlanID: r.PlanID, ScopeIdentifier: "00000000-0000-0000-0000-000000000000", PlanType: "free",
			Version: 12},
		Timeline: Timeline{ID: r.PlanID},
		Variables: map[string]Variable{
			tokenVariable:            {Value: r.GitHubToken, IsSecret: true},
			"github_token":           {Value: r.GitHubToken, IsSecret: true},
			resultsVariable:          {Value: r.Results},
			launchVariable:           {Value: r.Launch},
			lowDiskVariable:          {Value: "100"},
			"system.runnerGroupName": {Value: "Default"},
			"system.orchestrationId": {Value: r.PlanID + "." + jobKey(j.Name) + ".__default"},
			"DistributedTask.AllowRunnerContainerHooks": {Value: "true"},
		},
		ContextData: contextData(j),
		Mask:        []Mask{{Type: "regex", Value: regexp.QuoteMeta(r.GitHubToken)}},
		Defaults:    []Token{}, FileTable: []string{".github/workflows/scripted.yml"},
		EnvironmentVariables: []Token{},
	}
	m.Resources.Endpoints = []Endpoint{{
		Name: connectionName, URL: r.RunService,
		Authorization: Authorization{Scheme: "OAuth", Parameters: map[string]string{"AccessToken": r.Token}},
		Data:          map[string]string{"ResultsServiceUrl": r.Results, "PipelinesServiceUrl": r.RunService},
	}}
	for name, value := range j.Variables {
		m.Variables[name] = Variable{Value: value}
	}

	if len(j.Env) > 0 {
		m.EnvironmentVariables = append(m.EnvironmentVariables, Token{stringMapping(j.Env)})
	}
	if j.Container != nil {
		m.JobContainer = containerToken(*j.Container)
	}
	if len(j.Services) > 0 {
		services := Mapping{}
		for i, s := range j.Services {
			services = append(services, pair(serviceKey(s, i), containerToken(s)))
		}
		m.JobServiceContainers = Token{services}
	}
	for i, s := range j.Steps {
		m.Steps = append(m.Steps, newStep(s, r.StepIDs[i]))
	}
	return m
}

const billingOwner = "U_kgAA"

// contextData returns the contexts of expressions.
func contextData(j miniworker.Job) map[string]Data {
	repository := j.Repository
	if repository == "" {
		repository = miniworker.DefaultRepository
	}
	owner, _, _ := strings.Cut(repository, "/")
	return map[string]Data{
		"github": stringDictionary(map[string]string{
			"actor": owner, "event_name": "push", "job": j.Name, "ref": "refs/heads/main", "repository": repository,
			"repository_owner": owner, "run_attempt": "1", "run_id": "1", "run_number": "1",
			"sha": strings.Repeat("0", 40), "workflow": "scripted",
		}),
		"matrix": stringDictionary(j.Matrix), "strategy": {Dictionary{}}, "needs": {Dictionary{}},
		"vars": {Dictionary{}}, "inputs": {Dictionary{}},
	}
}

func serviceKey(s miniworker.Container, i int) string {
	if s.Key != "" {
		return s.Key
	}
	return "service" + strconv.Itoa(i+1)
}

var wholeExpression = regexp.MustCompile(`^\$\{\{\s*([^{}]+?)\s*\}\}$`)

// scalar returns a string of a workflow as a token: an expression if it is one
// as a whole.
func scalar(s string) Token {
	if m := wholeExpression.FindStringSubmatch(s); m != nil {
		return Token{Expression(m[1])}
	}
	return Token{s}
}

// containerToken returns a container: or a service as a token: a string if
// there is nothing but the image.
func containerToken(c miniworker.Container) Token {
	mapping := Mapping{pair("image", scalar(c.Image))}
	for _, member := range []struct{ key, value string }{
		{"options", c.Options}, {"entrypoint", c.Entrypoint}, {"command", c.Command},
	} {
		if member.value != "" {
			mapping = append(mapping, pair(member.key, scalar(member.value)))
		}
	}
	if len(c.Env) > 0 {
		mapping = append(mapping, pair("env", Token{stringMapping(c.Env)}))
	}
	if len(c.Ports) > 0 {
		mapping = append(mapping, pair("ports", Token{stringSequence(c.Ports)}))
	}
	if len(c.Volumes) > 0 {
		mapping = append(mapping, pair("volumes", Token{stringSequence(c.Volumes)}))
	}
	if c.Credentials != nil {
		mapping = append(mapping, pair("credentials", Token{stringMapping(map[string]string{
			"username": c.Credentials.Username, "password": c.Credentials.Password})}))
	}

	if len(mapping) == 1 {
		return scalar(c.Image)
	}
	return Token{mapping}
}

// conditions are the values of a step's If and what the message says for them.
var conditions = map[string]string{"": "success()", "always": "always()", "failure": "failure()"}

func newStep(s miniworker.Step, id string) Step {
	step := Step{Type: "action", ID: id, Name: "__run", ContextName: "__run", Condition: conditions[s.If], Main: s.Main}
	if s.Name != "" {
		step.DisplayNameToken = scalar(s.Name)
	}
	if s.ContinueOnError {
		step.ContinueOnError = Token{true}
	}
	if s.TimeoutSeconds > 0 {
		// Whole minutes in a real message; the double takes parts of one.
		step.TimeoutInMinutes = Token{float64(s.TimeoutSeconds) / 60}
	}

	inputs, env := maps.Clone(s.With), maps.Clone(s.Env)
	if inputs == nil {
		inputs = map[string]string{}
	}
	switch {
	case s.Action != "":
		step.Reference = newReference(s.Action)
	case s.Uses != nil:
		step.Reference = Reference{Type: "containerRegistry", Image: s.Uses.Image}
	default:
		step.Reference = Reference{Type: "script"}
		inputs["script"] = s.Run
		setIf(inputs, "shell", s.Shell)
		setIf(inputs, "workingDirectory", s.WorkingDirectory)
	}
	if s.Uses != nil {
		setIf(inputs, "entryPoint", s.Uses.Entrypoint)
		setIf(inputs, "args", s.Uses.Command)
		setIf(inputs, "dockerfile", s.Uses.Dockerfile)
		if env == nil {
			env = map[string]string{}
		}
		maps.Copy(env, s.Uses.Env)
	}

	step.Inputs = Token{stringMapping(inputs)}
	if len(env) > 0 {
		step.Environment = Token{stringMapping(env)}
	}
	return step
}

func setIf(m map[string]string, key, value string) {
	if value != "" {
		m[key] = value
	}
}

// newReference returns the reference of an action, OWNER/NAME/REF.
func newReference(action string) Reference {
	repository, ref := action, ""
	if i := strings.LastIndex(action, "/"); i > 0 {
		repository, ref = action[:i], action[i+1:]
	}
	return Reference{Type: "repository", RepositoryType: "GitHub", Name: repository, Ref: ref}
}

// Job returns the scripted job of a message, with the expressions in it
// evaluated.
func (m *JobMessage) Job() (miniworker.Job, error) {
	d := decoder{message: m}
	j := miniworker.Job{Name: m.JobDisplayName, Env: map[string]string{}}
	j.Repository, _ = m.ContextData["github"].lookUp("repository").Value.(string)
	for _, mapping := range m.EnvironmentVariables {
		maps.Copy(j.Env, d.strings(mapping))
	}

	if c := d.container(m.JobContainer); c.Image != "" {
		j.Container = &c
	}
	services, _ := m.JobServiceContainers.Value.(Mapping)
	for _, p := range services {
		// An empty image means that the service is not wanted this time.
		if c := d.container(p.Value); c.Image != "" {
			c.Key = d.string(p.Key)
			j.Services = append(j.Services, c)
		}
	}
	for _, s := range m.Steps {
		j.Steps = append(j.Steps, d.step(s))
	}
	return j, d.err
}

// decoder evaluates the tokens of a message and remembers the first error.
type decoder struct {
	message *JobMessage
	err     error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("cannot read the job message: "+format, args...)
	}
}

// string returns a scalar, with an expression evaluated.
func (d *decoder) string(t Token) string {
	switch v := t.Value.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case Expression:
		return d.evaluate(v)
	}
	d.fail("%T where a scalar is expected", t.Value)
	return ""
}

// evaluate knows expressions that name a value, such as matrix.image.
func (d *decoder) evaluate(e Expression) string {
	context, rest, _ := strings.Cut(string(e), ".")
	value := d.message.ContextData[context]
	for _, key := range strings.Split(rest, ".") {
		value = value.lookUp(key)
	}
	if _, known := d.message.ContextData[context]; !known || strings.ContainsAny(rest, "()[]' ") {
		d.fail("the double does not evaluate the expression %s", e)
	}
	text, _ := value.Value.(string)
	return text
}

func (d *decoder) strings(t Token) map[string]string {
	mapping, _ := t.Value.(Mapping)
	m := map[string]string{}
	for _, p := range mapping {
		m[d.string(p.Key)] = d.string(p.Value)
	}
	return m
}

func (d *decoder) list(t Token) []string {
	sequence, _ := t.Value.(Sequence)
	var list []string
	for _, item := range sequence {
		list = append(list, d.string(item))
	}
	return list
}

func (d *decoder) container(t Token) miniworker.Container {
	mapping, ok := t.Value.(Mapping)
	if !ok {
		return miniworker.Container{Image: d.string(t)}
	}

	var c miniworker.Container
	for _, p := range mapping {
		switch key := d.string(p.Key); key {
		case "image":
			c.Image = d.string(p.Value)
		case "options":
			c.Options = d.string(p.Value)
		case "entrypoint":
			c.Entrypoint = d.string(p.Value)
		case "command":
			c.Command = d.string(p.Value)
		case "env":
			c.Env = d.strings(p.Value)
		case "ports":
			c.Ports = d.list(p.Value)
		case "volumes":
			c.Volumes = d.list(p.Value)
		case "credentials":
			credentials := d.strings(p.Value)
			c.Credentials = &miniworker.Credentials{Username: credentials["username"], Password: credentials["password"]}
		default:
			d.fail("unexpected key %q of a container", key)
		}
	}
	return c
}

func (d *decoder) step(s Step) miniworker.Step {
	step := miniworker.Step{ID: s.ID, Name: d.string(s.DisplayNameToken), Env: d.strings(s.Environment), Main: s.Main,
		ContinueOnError: s.ContinueOnError.Value == true}
	for value, condition := range conditions {
		if condition == s.Condition {
			step.If = value
		}
	}
	if minutes, ok := s.TimeoutInMinutes.Value.(float64); ok {
		step.TimeoutSeconds = int(minutes*60 + 0.5)
	}

	inputs := d.strings(s.Inputs)
	switch s.Reference.Type {
	case "script":
		step.Run, step.Shell, step.WorkingDirectory = inputs["script"], inputs["shell"], inputs["workingDirectory"]
		return step
	case "repository":
		step.Action = s.Reference.Name + "/" + s.Reference.Ref
	}
	if s.Reference.Type == "containerRegistry" || inputs["dockerfile"] != "" {
		step.Uses = &miniworker.Container{Image: s.Reference.Image, Dockerfile: inputs["dockerfile"],
			Entrypoint: inputs["entryPoint"], Command: inputs["args"]}
		return step
	}
	step.With = inputs
	return step
}

// Actions returns the actions that the job's steps name, each once.
func (m *JobMessage) Actions() []Reference {
	var all []Reference
	for _, s := range m.Steps {
		if s.Reference.Type == "repository" && !slices.Contains(all, s.Reference) {
			all = append(all, s.Reference)
		}
	}
	return all
}
