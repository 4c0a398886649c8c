// Package miniworker calls a container hook exactly as the actions runner's
// worker does (ContainerHookManager, ScriptHandler and ProcessInvoker of
// actions/runner 2.336.0): the same JSON, files, environment, working
// directory, signals and error texts. It stands for the worker in tests.
//
// What it leaves out: workflow commands in the output other than add-mask, and
// expressions. Keys of JSON maps are sorted, where the
// real worker keeps the order of the workflow.
package miniworker

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Options say where a worker works.
type Options struct {
	Hook       string // path of the hook, ACTIONS_RUNNER_CONTAINER_HOOKS; "" for docker
	Root       string // the runner's directory; externals lies in it
	Work       string // the work root, usually Root/_work
	Repository string // OWNER/NAME; default octo/repo
	RunnerName string // default stub
	// Env is the worker's own environment; nil means that of this process.
	Env []string
	// Line receives every line of the log as it comes. Calls do not overlap.
	Line func(string)
	// Step receives each step of RunJob, "Set up job" and "Complete job" included,
	// when it starts, without a conclusion, and when it has ended.
	Step func(StepResult)
	// Job names the job; default job.
	Job string
	// Masks are secrets that the log does not show.
	Masks []string
}

// Worker runs the steps of one job. Its methods may be called concurrently,
// as the real worker does for background steps.
type Worker struct {
	opt       Options
	workspace string
	tracking  string // value of RUNNER_TRACKING_ID
	lineMu    sync.Mutex
	maskMu    sync.Mutex
	masks     []string // secrets, hidden in all output

	mu          sync.Mutex
	state       json.RawMessage              // ContainerHookState
	alpine      bool                         // prepare_job's isAlpine
	states      map[string]map[string]string // of actions, by their names
	prependPath []string                     // GITHUB_PATH, oldest first
	env         map[string]string
	container   *Container // the job's, once prepared
	docker      *dockerJob // nil unless docker was asked for containers
	context     JobContext
}

// JobContext describes the containers as prepare_job did: the job context of
// expressions.
type JobContext struct {
	Container ContainerContext
	Services  []ContainerContext // in the order of the job's services
}

// ContainerContext describes one container.
type ContainerContext struct {
	ID      string
	Network string
	Ports   map[string]string // container port: host port
}

// Reasons for the end of a job, as the cause of a cancelled context.
var (
	ErrCancelled = errors.New("the job was cancelled")
	ErrShutdown  = errors.New("the runner has received a shutdown signal")
)

// DefaultRepository is the repository of a job that names none.
const DefaultRepository = "octo/repo"

// New prepares the work root as "Set up job" does: it empties _temp and makes
// _actions anew.
func New(opt Options) (*Worker, error) {
	if opt.Repository == "" {
		opt.Repository = DefaultRepository
	}
	if opt.RunnerName == "" {
		opt.RunnerName = "stub"
	}
	if opt.Job == "" {
		opt.Job = "job"
	}
	if opt.Env == nil {
		opt.Env = os.Environ()
	}

	_, repo, ok := strings.Cut(opt.Repository, "/")
	if !ok || !filepath.IsAbs(opt.Work) || !filepath.IsAbs(opt.Root) {
		return nil, fmt.Errorf("cannot set up job: repository %q, work root %q and runner root %q must be OWNER/NAME and "+
			"absolute paths", opt.Repository, opt.Work, opt.Root)
	}

	w := &Worker{
		opt: opt, workspace: filepath.Join(opt.Work, repo, repo), tracking: "github_" + guid(),
		env: map[string]string{}, states: map[string]map[string]string{}, masks: slices.Clone(opt.Masks),
	}
	if err := w.makeDirs(); err != nil {
		return nil, fmt.Errorf("cannot set up job: %w", err)
	}
	return w, nil
}

func (w *Worker) makeDirs() error {
	if err := os.RemoveAll(w.path("_actions")); err != nil {
		return err
	}
	left, err := filepath.Glob(w.path("_temp/*"))
	if err != nil {
		return err
	}
	for _, p := range left {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}

	for _, dir := range []string{
		w.workspace, w.path("_actions"), w.path("_temp/_github_home"), w.path("_temp/_github_workflow"),
		w.path("_temp/_runner_file_commands"), w.tools(),
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(w.path("_temp/_github_workflow/event.json"), []byte("{}\n"), 0o644)
}

// Workspace is the host path of github.workspace.
func (w *Worker) Workspace() string { return w.workspace }

// State is the hook state the next call will get; nil before the first.
func (w *Worker) State() json.RawMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.state)
}

// SetState replaces the hook state, to play a forged one.
func (w *Worker) SetState(state json.RawMessage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = slices.Clone(state)
}

// Context is what prepare_job answered.
func (w *Worker) Context() JobContext {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.context
}

// path joins to the work root.
func (w *Worker) path(name string) string { return filepath.Join(w.opt.Work, name) }

// tools is the tool cache, outside the work root if the environment says so.
func (w *Worker) tools() string {
	for _, key := range []string{"AGENT_TOOLSDIRECTORY", "RUNNER_TOOLSDIRECTORY", "RUNNER_TOOL_CACHE"} {
		if dir := lookup(w.opt.Env, key); dir != "" {
			return dir
		}
	}
	return w.path("_tool")
}

// PrepareJob calls prepare_job. A nil container means a job with services only.
func (w *Worker) PrepareJob(ctx context.Context, container *Container, services []Container) StepResult {
	if w.usesDocker() {
		return w.prepareDocker(ctx, container, services)
	}
	args := prepareJobArgs{Services: []hookContainer{}}
	if container != nil {
		args.Container = w.jobContainer(container)
	}
	for i := range services {
		args.Services = append(args.Services, serviceContainer(&services[i]))
	}
	w.mu.Lock()
	w.container = container
	w.mu.Unlock()
	return w.call(ctx, "Initialize containers", "prepare_job", args, nil, func(r *response) error {
		return w.acceptPrepare(r, container != nil, len(services))
	})
}

// Cleanup calls cleanup_job.
func (w *Worker) Cleanup(ctx context.Context) StepResult {
	if w.usesDocker() {
		return w.dockerStep("Stop containers", func(result *StepResult) error { return w.dockerOfJob().stop(ctx, result) })
	}
	return w.call(ctx, "Stop containers", "cleanup_job", struct{}{}, nil, nil)
}

// RunScript runs a run: step: in the job's container through run_script_step,
// or on the host if the job has none.
func (w *Worker) RunScript(ctx context.Context, step Step) StepResult {
	commands, err := w.newFileCommands()
	if err != nil {
		return failedStep(step.Name, err)
	}
	onHost := w.onHost()
	script, program, arguments, err := w.writeScript(step)
	if err != nil {
		return failedStep(step.Name, err)
	}
	env := w.stepEnv(step.Env, commands)
	dir := step.WorkingDirectory
	if !strings.HasPrefix(dir, "/") {
		dir = filepath.Join(w.workspace, dir)
	}

	var result StepResult
	switch {
	case onHost:
		host := hostScript{program, arguments, script}
		result = w.runOnHost(ctx, step.Name, host, scriptHeader(step, host), dir, env)
	case w.usesDocker():
		translated := strings.ReplaceAll(arguments, "{0}", w.jobPaths().translate(script))
		for _, line := range scriptHeader(step, hostScript{program, arguments, script}) {
			w.line(strings.ReplaceAll(line, "{program}", program))
		}
		result = w.dockerOfJob().exec(ctx, step.Name, program, translated, dir, env)
	default:
		paths := w.jobPaths()
		args := scriptStepArgs{
			EntryPointArgs:       splitArguments(strings.ReplaceAll(arguments, "{0}", paths.translate(script))),
			EntryPoint:           program,
			EnvironmentVariables: paths.translateAll(env),
			PrependPath:          w.prepended(),
			WorkingDirectory:     paths.translate(dir),
		}
		result = w.call(ctx, step.Name, "run_script_step", args, commands, w.acceptStep)
	}
	w.collect(commands, &result)
	return result
}

// onHost reports whether steps run beside the worker: the job has no container.
func (w *Worker) onHost() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.container == nil
}

// RunScriptArgs calls run_script_step with an entry point and the arguments
// string a JavaScript action or a custom shell would give.
func (w *Worker) RunScriptArgs(ctx context.Context, name, entryPoint, arguments string,
	env map[string]string) StepResult {
	commands, err := w.newFileCommands()
	if err != nil {
		return failedStep(name, err)
	}
	return w.runArgs(ctx, name, entryPoint, arguments, env, commands)
}

func (w *Worker) runArgs(ctx context.Context, name, entryPoint, arguments string, env map[string]string,
	commands fileCommands) StepResult {
	if w.usesDocker() {
		result := w.dockerOfJob().exec(ctx, name, entryPoint, arguments, w.workspace, w.stepEnv(env, commands))
		w.collect(commands, &result)
		return result
	}
	paths := w.jobPaths()
	result := w.call(ctx, name, "run_script_step", scriptStepArgs{
		EntryPointArgs:       splitArguments(arguments),
		EntryPoint:           entryPoint,
		EnvironmentVariables: paths.translateAll(w.stepEnv(env, commands)),
		PrependPath:          w.prepended(),
		WorkingDirectory:     paths.translate(w.workspace),
	}, commands, w.acceptStep)
	w.collect(commands, &result)
	return result
}

// RunContainerStep runs a docker:// action through run_container_step.
func (w *Worker) RunContainerStep(ctx context.Context, step Step) StepResult {
	commands, err := w.newFileCommands()
	if err != nil {
		return failedStep(step.Name, err)
	}
	env := w.stepEnv(step.Env, commands)
	maps.Copy(env, step.Uses.Env)
	if w.usesDocker() {
		result := w.runDockerAction(ctx, step, env)
		w.collect(commands, &result)
		return result
	}
	args := w.stepContainer(step.Uses)
	args.EnvironmentVariables = w.containerStepPaths().translateAll(env)
	result := w.call(ctx, step.Name, "run_container_step", args, commands, w.acceptStep)
	w.collect(commands, &result)
	return result
}

func failedStep(name string, err error) StepResult {
	return StepResult{Name: name, Conclusion: Failure, Exit: -1, Errors: []string{err.Error()}}
}

// prepended is GITHUB_PATH, most recent first.
func (w *Worker) prepended() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := append([]string{}, w.prependPath...)
	slices.Reverse(p)
	return p
}

func (w *Worker) observe(r StepResult) {
	if w.opt.Step != nil {
		w.opt.Step(r)
	}
}

func (w *Worker) line(s string) {
	if w.opt.Line == nil {
		return
	}
	w.lineMu.Lock()
	defer w.lineMu.Unlock()
	w.opt.Line(s)
}

func lookup(env []string, key string) string {
	value := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, key+"="); ok {
			value = v
		}
	}
	return value
}

// guid is a random UUID, as .NET's Guid.NewGuid.
func guid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
