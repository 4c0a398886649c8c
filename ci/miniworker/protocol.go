package miniworker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The request, members in the order of the runner's classes, nulls included.
type hookInput struct {
	Command      string          `json:"command"`
	ResponseFile string          `json:"responseFile"`
	Args         any             `json:"args"`
	State        json.RawMessage `json:"state"`
}

type prepareJobArgs struct {
	Container *hookContainer  `json:"container"`
	Services  []hookContainer `json:"services"`
}

type scriptStepArgs struct {
	EntryPointArgs       []string          `json:"entryPointArgs"`
	EntryPoint           string            `json:"entryPoint"`
	EnvironmentVariables map[string]string `json:"environmentVariables"`
	PrependPath          []string          `json:"prependPath"`
	WorkingDirectory     string            `json:"workingDirectory"`
}

type hookContainer struct {
	Image                *string           `json:"image"`
	Dockerfile           *string           `json:"dockerfile"`
	EntryPointArgs       []string          `json:"entryPointArgs"`
	EntryPoint           *string           `json:"entryPoint"`
	WorkingDirectory     *string           `json:"workingDirectory"`
	CreateOptions        *string           `json:"createOptions"`
	Registry             *hookRegistry     `json:"registry"`
	EnvironmentVariables map[string]string `json:"environmentVariables"`
	PortMappings         []string          `json:"portMappings"`
	SystemMountVolumes   []hookMount       `json:"systemMountVolumes"`
	UserMountVolumes     []hookMount       `json:"userMountVolumes"`
}

type hookRegistry struct {
	Username  string  `json:"username"`
	Password  *string `json:"password"`
	ServerURL string  `json:"serverUrl"`
}

type hookMount struct {
	UserProvidedValue *string `json:"userProvidedValue"`
	SourceVolumePath  *string `json:"sourceVolumePath"`
	TargetVolumePath  string  `json:"targetVolumePath"`
	ReadOnly          bool    `json:"readOnly"`
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// newHookContainer is ContainerInfo.GetHookContainer.
func newHookContainer(c *Container) hookContainer {
	h := hookContainer{
		Image:                optional(c.Image),
		Dockerfile:           optional(c.Dockerfile),
		EntryPointArgs:       []string{},
		EntryPoint:           optional(c.Entrypoint),
		CreateOptions:        optional(c.Options),
		EnvironmentVariables: map[string]string{},
		PortMappings:         append([]string{}, c.Ports...),
		SystemMountVolumes:   []hookMount{},
		UserMountVolumes:     []hookMount{},
	}
	for _, a := range strings.Split(c.Command, " ") {
		if a = strings.TrimSpace(a); a != "" {
			h.EntryPointArgs = append(h.EntryPointArgs, a)
		}
	}
	for k, v := range c.Env {
		h.EnvironmentVariables[k] = v
	}
	for _, v := range c.Volumes {
		h.UserMountVolumes = append(h.UserMountVolumes, parseVolume(v))
	}
	if c.Credentials != nil && c.Credentials.Username != "" {
		h.Registry = &hookRegistry{
			Username: c.Credentials.Username, Password: optional(c.Credentials.Password), ServerURL: registryOf(c.Image),
		}
	}
	return h
}

// registryOf returns the server of an image name; "" for Docker Hub.
func registryOf(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host
	}
	return ""
}

// parseVolume is MountVolume.ParseVolumeString.
func parseVolume(v string) hookMount {
	m := hookMount{UserProvidedValue: &v}
	parts := strings.Split(v, ":")
	if len(parts) == 2 && strings.EqualFold(parts[1], "ro") || len(parts) == 3 {
		m.ReadOnly = strings.EqualFold(parts[len(parts)-1], "ro")
	}
	switch {
	case len(parts) == 3, len(parts) == 2 && !m.ReadOnly:
		m.SourceVolumePath, m.TargetVolumePath = &parts[0], parts[1]
	default:
		m.TargetVolumePath = parts[0]
	}
	return m
}

func (w *Worker) jobContainer(c *Container) *hookContainer {
	h := newHookContainer(c)
	h.EnvironmentVariables["HOME"] = "/github/home"
	h.WorkingDirectory = optional(w.jobPaths().translate(w.workspace))
	mount := func(source, target string, readOnly bool) {
		m := hookMount{SourceVolumePath: &source, TargetVolumePath: target, ReadOnly: readOnly}
		h.SystemMountVolumes = append(h.SystemMountVolumes, m)
	}
	mount("/var/run/docker.sock", "/var/run/docker.sock", false) // always listed, there or not
	mount(w.opt.Work, "/__w", false)
	mount(filepath.Join(w.opt.Root, "externals"), "/__e", true)
	mount(w.path("_temp"), "/__w/_temp", false)
	mount(w.path("_actions"), "/__w/_actions", false)
	mount(w.tools(), w.jobPaths().translate(w.tools()), false)
	mount(w.path("_temp/_github_home"), "/github/home", false)
	mount(w.path("_temp/_github_workflow"), "/github/workflow", false)
	return &h
}

// serviceContainer has no system mounts and, in 2.336.0, no name either
// (actions/runner#2783).
func serviceContainer(c *Container) hookContainer { return newHookContainer(c) }

func (w *Worker) stepContainer(c *Container) hookContainer {
	h := newHookContainer(c)
	h.CreateOptions, h.Registry = nil, nil
	h.WorkingDirectory = optional("/github/workspace")
	for _, m := range append([]pathPair{{"/var/run/docker.sock", "/var/run/docker.sock"}}, w.containerStepMounts()...) {
		h.SystemMountVolumes = append(h.SystemMountVolumes, hookMount{SourceVolumePath: &m.host, TargetVolumePath: m.guest})
	}
	return h
}

func (w *Worker) containerStepMounts() []pathPair {
	return []pathPair{
		{w.path("_temp"), "/github/runner_temp"},
		{w.path("_temp/_github_home"), "/github/home"},
		{w.path("_temp/_github_workflow"), "/github/workflow"},
		{w.path("_temp/_runner_file_commands"), "/github/file_commands"},
		{w.workspace, "/github/workspace"},
	}
}

// pathPair is a host path and where it appears in a guest.
type pathPair struct{ host, guest string }

// pathMap translates host paths, first match wins.
type pathMap []pathPair

func (w *Worker) jobPaths() pathMap {
	return pathMap{
		{w.path("_temp/_github_workflow"), "/github/workflow"},
		{w.path("_temp/_github_home"), "/github/home"},
		{w.opt.Work, "/__w"},
		{w.tools(), "/__t"},
		{filepath.Join(w.opt.Root, "externals"), "/__e"},
	}
}

func (w *Worker) containerStepPaths() pathMap {
	m := w.containerStepMounts()
	return pathMap{m[4], m[3], m[2], m[1], m[0]} // inserted at the head
}

func (m pathMap) translate(p string) string {
	for _, pair := range m {
		if p == pair.host {
			return pair.guest
		}
		if rest, ok := strings.CutPrefix(p, pair.host+"/"); ok {
			return pair.guest + "/" + rest
		}
	}
	return p
}

func (m pathMap) translateAll(env map[string]string) map[string]string {
	out := make(map[string]string, len(env))
	for k, v := range env {
		out[k] = m.translate(v)
	}
	return out
}

// splitArguments is arguments.Split(' ') with each part trimmed: empty parts
// stay, quotes mean nothing.
func splitArguments(arguments string) []string {
	parts := strings.Split(arguments, " ")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// response is what a hook may answer. Newtonsoft matches names in any case,
// as encoding/json does.
type response struct {
	State    json.RawMessage `json:"state"`
	IsAlpine *bool           `json:"isAlpine"`
	Context  *struct {
		Container *containerResponse `json:"container"`
		Services  json.RawMessage    `json:"services"`
	} `json:"context"`
}

type containerResponse struct {
	ID      *string                    `json:"id"`
	Network *string                    `json:"network"`
	Ports   map[string]json.RawMessage `json:"ports"`
}

// errNullReference is .NET's text for using null, which is how the runner
// fails where it does not check.
var errNullReference = runnerError("Object reference not set to an instance of an object.")

// readResponse reads and deletes the response file. nil means none.
func (w *Worker) readResponse(path, command string, required bool) (*response, string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if required {
			return nil, "", runnerErrorf("Response file is required but not found for the hook script at '%s' running "+
				"command '%s'", w.opt.Hook, command)
		}
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	text := string(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	var r *response
	if strings.TrimSpace(text) != "" {
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return nil, text, err
		}
	}
	if err := os.Remove(path); err != nil {
		return nil, text, err
	}
	if r == nil && required {
		return nil, text, runnerErrorf("Response file could not be read at '%s' running command '%s'", w.opt.Hook, command)
	}
	return r, text, nil
}

// acceptStep takes the state of a step's answer.
func (w *Worker) acceptStep(r *response) error {
	if r == nil || len(r.State) == 0 || string(r.State) == "null" {
		return nil
	}
	if r.State[0] != '{' {
		return runnerErrorf("Error converting value to type 'Newtonsoft.Json.Linq.JObject'. Path 'state'.")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = bytes.Clone(r.State)
	return nil
}

// acceptPrepare checks what prepare_job answered and takes state and context.
func (w *Worker) acceptPrepare(r *response, hasContainer bool, services int) error {
	if r == nil {
		return errNullReference
	}
	if hasContainer && r.IsAlpine == nil {
		return runnerError("The property 'isAlpine' is required but was not found in the response file.")
	}
	if err := w.acceptStep(r); err != nil || r.Context == nil {
		return err
	}
	var job JobContext
	if c := r.Context.Container; c != nil {
		if !hasContainer && (c.ID != nil || c.Network != nil) {
			return errNullReference
		}
		job.Container = ContainerContext{ID: value(c.ID), Network: value(c.Network)}
	}
	if err := acceptServices(r.Context.Services, services, &job); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.context, w.alpine = job, r.IsAlpine != nil && *r.IsAlpine
	return nil
}

func acceptServices(raw json.RawMessage, requested int, job *JobContext) error {
	if len(raw) == 0 {
		return nil
	}
	var answered []containerResponse
	if string(raw) == "null" {
		return errNullReference
	}
	if err := json.Unmarshal(raw, &answered); err != nil {
		return err
	}
	for i, c := range answered {
		if i >= requested {
			return runnerError("Index was out of range. Must be non-negative and less than the size of the collection. " +
				"(Parameter 'index')")
		}
		if c.Ports == nil {
			return errNullReference
		}
		ports := map[string]string{}
		for k, v := range c.Ports {
			ports[k] = strings.Trim(string(v), `"`)
		}
		job.Services = append(job.Services, ContainerContext{ID: value(c.ID), Network: value(c.Network), Ports: ports})
	}
	return nil
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// encode is compact JSON and a line feed; '<', '>' and '&' stay as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// runnerError is an error in the words of the runner, or of .NET.
type runnerError string

func (e runnerError) Error() string { return string(e) }

func runnerErrorf(format string, args ...any) error {
	return runnerError(fmt.Sprintf(format, args...))
}
