package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// succeeded is the worker's exit status for a job that succeeded.
const succeeded = 100

// insideRows are what the worker measures in its guest.
type insideRows struct{ Prepare, Cleanup, Plain, Hook row }

// inside has the broker start this program as a worker, which measures its guest
// from there.
func (b *bench) inside(ctx context.Context) (insideRows, error) {
	var rows insideRows
	if err := b.takeWorkersPlace(); err != nil {
		return rows, err
	}
	job := make(chan brokerapi.JobInfo)
	close(job)
	var out, failures bytes.Buffer
	// The end of the input is the sign that the guest is ready for steps.
	status, err := b.client.Worker(ctx, brokerapi.WorkerRequest{}, job,
		wire.Streams{Stdin: bytes.NewReader(nil), Stdout: &out, Stderr: &failures})
	if err == nil && status != succeeded {
		err = fmt.Errorf("the worker ended with status %d: %s", status, &failures)
	}
	if err != nil {
		return rows, fmt.Errorf("cannot measure inside of a guest: %w", err)
	}
	return rows, json.Unmarshal(out.Bytes(), &rows)
}

// takeWorkersPlace puts this program where the broker finds the worker.
func (b *bench) takeWorkersPlace() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return os.WriteFile(b.path(workerPath), program, 0o755)
}

// asWorker is what this program does as the worker of a job.
func asWorker(ctx context.Context) error {
	rows, err := measureInside(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(rows)
}

func measureInside(ctx context.Context) (rows insideRows, err error) {
	if _, err := io.Copy(io.Discard, os.NewFile(3, "listener")); err != nil {
		return rows, err
	}
	// The services that still start would be measured too. The status is that of
	// the system, which does not matter.
	err = exec.CommandContext(ctx, "systemctl", "is-system-running", "--wait").Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		return rows, err
	}
	worker, err := miniworker.New(miniworker.Options{
		Hook: layout.WorkerHooks, Root: layout.WorkerRunner, Work: layout.WorkerWork,
	})
	if err != nil {
		return rows, err
	}

	// With what the worker writes before a step, and reads after it.
	step := func() (time.Duration, error) {
		return clocked(func() error {
			_, err := took(worker.RunScript(ctx, miniworker.Step{Name: "true", Run: "true"}))
			return err
		})
	}
	if rows.Plain, err = measure("in a job without container", 51, step); err != nil {
		return rows, err
	}
	if rows.Prepare, rows.Cleanup, err = measureContainers(ctx, worker); err != nil {
		return rows, err
	}
	if _, err := took(prepareJob(ctx, worker)); err != nil {
		return rows, err
	}
	rows.Hook, err = measure("in the job's container: hook in the guest, broker, guest beside it", 51, step)
	return rows, err
}

// measureContainers measures how the job's container starts and ends.
func measureContainers(ctx context.Context, worker *miniworker.Worker) (prepare, cleanup row, err error) {
	var ends []time.Duration
	const what = "prepare_job through the hook, for a job with a container"
	prepare, err = measure(what, 21, func() (time.Duration, error) {
		time.Sleep(pause)
		begun, err := took(prepareJob(ctx, worker))
		if err != nil {
			return 0, err
		}
		ended, err := took(worker.Cleanup(ctx))
		ends = append(ends, ended)
		return begun, err
	})
	return prepare, median("cleanup_job through the hook", ends), err
}

func prepareJob(ctx context.Context, worker *miniworker.Worker) miniworker.StepResult {
	return worker.PrepareJob(ctx, &miniworker.Container{Image: "runner-base"}, nil)
}

// took returns how long a step took that succeeded.
func took(r miniworker.StepResult) (time.Duration, error) {
	if r.Conclusion != miniworker.Success {
		return 0, fmt.Errorf("%v", r)
	}
	return r.Duration, nil
}

// isWorker reports whether the broker started this program, as the worker.
func isWorker() bool { return filepath.Base(os.Args[0]) == filepath.Base(workerPath) }
