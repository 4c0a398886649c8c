package miniworker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// cleanupWindow is how long a cancelled job may still take.
const cleanupWindow = 285 * time.Second // 5 min message time-out - 15 s

// RunJob runs a whole job in the worker's order: Initialize containers, the
// steps, Stop containers, and the killing of orphans. When ctx ends with the
// cause ErrShutdown every later step is skipped, those of If "always" and the
// clean-up too; with another cause these still run.
func (w *Worker) RunJob(ctx context.Context, job Job) JobResult {
	r := &jobRun{worker: w, ctx: ctx, result: JobResult{Conclusion: Success}}
	w.mu.Lock()
	maps.Copy(w.env, job.Env)
	w.mu.Unlock()

	w.observe(StepResult{Name: SetUpJob})
	if err := w.setUp(job); err != nil {
		r.result.Conclusion = Failure
		r.result.Steps = append(r.result.Steps, failedStep(SetUpJob, err))
		w.observe(r.result.Steps[0])
		return r.result
	}
	w.observe(StepResult{Name: SetUpJob, Conclusion: Success})

	if w.usesDocker() {
		r.prepareActions(job.Steps)
	}
	containers := job.Container != nil || len(job.Services) > 0
	if containers {
		r.step("Initialize containers", Step{}, func(ctx context.Context) StepResult {
			return w.PrepareJob(ctx, job.Container, job.Services)
		})
	}

	for i, s := range job.Steps {
		if s.Name == "" {
			s.Name = "step " + strconv.Itoa(i+1)
		}
		r.step(s.Name, s, func(ctx context.Context) StepResult {
			switch {
			case s.Uses != nil:
				return w.RunContainerStep(ctx, w.withDockerfile(s))
			case s.Action != "":
				return w.RunAction(ctx, s)
			}
			return w.RunScript(ctx, s)
		})
	}

	if containers {
		r.step("Stop containers", Step{If: "always"}, w.Cleanup)
	}
	w.observe(StepResult{Name: CompleteJob})
	r.result.Orphans = w.killOrphans()
	w.observe(StepResult{Name: CompleteJob, Conclusion: Success})
	return r.result
}

// prepareActions pulls and builds what container actions need, each in a step of
// its own before all others (ActionManager.cs).
func (r *jobRun) prepareActions(steps []Step) {
	for _, s := range steps {
		if s.Uses == nil {
			continue
		}
		s = r.worker.withDockerfile(s)
		name := "Pull " + s.Uses.image()
		if s.Uses.Dockerfile != "" {
			name = "Build " + s.Action
		}
		r.step(name, Step{}, func(ctx context.Context) StepResult {
			return r.worker.dockerStep(name, func(result *StepResult) error {
				return r.worker.dockerOfJob().prepareAction(ctx, s.Uses, result)
			})
		})
	}
}

// Steps that the worker adds to each job.
const (
	SetUpJob    = "Set up job"
	CompleteJob = "Complete job"
)

// setUp refuses what the runner refuses, and fetches actions.
func (w *Worker) setUp(job Job) error {
	if job.Container == nil && requireContainer(lookup(w.opt.Env, "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER")) {
		err := runnerError("Jobs without a job container are forbidden on this runner, please add a 'container:' to your " +
			"job or contact your self-hosted runner administrator.")
		w.line("##[error]" + err.Error())
		return err
	}
	for name, dir := range job.Actions {
		if err := os.CopyFS(w.path(filepath.Join("_actions", name)), os.DirFS(dir)); err != nil {
			return err
		}
	}
	return nil
}

// withDockerfile finds the Dockerfile of an action among the downloaded actions.
func (w *Worker) withDockerfile(s Step) Step {
	if s.Action != "" && s.Uses.Dockerfile != "" && !filepath.IsAbs(s.Uses.Dockerfile) {
		uses := *s.Uses
		uses.Dockerfile = w.path(filepath.Join("_actions", s.Action, uses.Dockerfile))
		s.Uses = &uses
	}
	return s
}

func requireContainer(v string) bool { return v == "1" || v == "true" || v == "$true" }

// jobRun is a job under way.
type jobRun struct {
	worker *Worker
	ctx    context.Context
	result JobResult
}

func (r *jobRun) step(name string, s Step, run func(context.Context) StepResult) {
	cancelled := r.ctx.Err() != nil
	if cancelled && r.result.Conclusion == Success {
		r.result.Conclusion = Cancelled
	}

	wanted := s.If == "always" || (!cancelled && (r.result.Conclusion == Success) == (s.If == ""))
	if cancelled && errors.Is(context.Cause(r.ctx), ErrShutdown) {
		wanted = false
	}
	r.worker.observe(StepResult{ID: s.ID, Name: name})
	if !wanted {
		r.end(StepResult{ID: s.ID, Name: name, Conclusion: Skipped})
		return
	}

	ctx, cancel := r.ctx, context.CancelFunc(func() {})
	if cancelled {
		ctx, cancel = context.WithTimeout(context.WithoutCancel(r.ctx), cleanupWindow)
	} else if s.TimeoutSeconds > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(s.TimeoutSeconds)*time.Second)
	}
	defer cancel()

	result := run(ctx)
	result.ID = s.ID
	r.end(result)
	if result.Conclusion == Failure && !s.ContinueOnError && r.result.Conclusion == Success {
		r.result.Conclusion = Failure
	}
	if r.ctx.Err() != nil {
		r.result.Conclusion = Cancelled
	}
}

func (r *jobRun) end(result StepResult) {
	r.result.Steps = append(r.result.Steps, result)
	r.worker.observe(result)
}

// killOrphans ends every process that still carries this job's
// RUNNER_TRACKING_ID, and counts them.
func (w *Worker) killOrphans() int {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	killed := 0
	want := []byte("RUNNER_TRACKING_ID=" + w.tracking)
	for _, dir := range dirs {
		environ, err := os.ReadFile(dir + "/environ")
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue // ended, or another user's
		}
		for _, v := range bytes.Split(environ, []byte{0}) {
			if bytes.Equal(v, want) && syscall.Kill(pid, syscall.SIGKILL) == nil {
				w.line(fmt.Sprintf("Terminate orphan process: pid (%d)", pid))
				killed++
			}
		}
	}
	return killed
}
