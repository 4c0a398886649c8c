package broker

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// JobLimits end a job that goes beyond them. Zero means no limit.
type JobLimits struct {
	Disk int64         // bytes by which the file system of guests and work root may fill up
	Time time.Duration // from the end of prepare_job to cleanup_job
}

// watchInterval is how often disk usage is checked: what a job can write in
// between goes beyond its limit.
const watchInterval = 250 * time.Millisecond

// watcher checks the limits of jobs.
type watcher struct {
	limits    JobLimits
	freeSpace func() (int64, error) // bytes, where guests write
	log       *slog.Logger
}

// start watches until ctx ends or a limit is exceeded, for which it calls kill
// with a message for the job's steps. Only one job runs at a time, so what the
// file system loses from now on is that job's.
func (w watcher) start(ctx context.Context, kill func(cause error)) {
	if w.limits == (JobLimits{}) {
		return
	}
	begin := time.Now()
	before, err := w.freeSpace()
	if err != nil {
		w.log.Warn("disk usage is not limited", "error", err)
		w.limits.Disk = 0
	}

	go func() {
		ticker := time.NewTicker(watchInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if err := w.exceeded(before, begin); err != nil {
				kill(err)
				return
			}
		}
	}()
}

// exceeded returns an error that names the limit which a job has gone beyond.
func (w watcher) exceeded(before int64, begin time.Time) error {
	if limit := w.limits.Time; limit > 0 && time.Since(begin) > limit {
		return fmt.Errorf("the job was ended: it took longer than %v (RUNNER_JOB_TIMEOUT_S in config.env)", limit)
	}
	if limit := w.limits.Disk; limit > 0 {
		if now, err := w.freeSpace(); err == nil && before-now > limit {
			return fmt.Errorf("the job was ended: it wrote more than %d MiB to disk (RUNNER_JOB_DISK in config.env)", limit>>20)
		}
	}
	return nil
}
