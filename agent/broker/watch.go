package broker

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// JobLimits end a job that goes beyond them. Zero means no limit.
type JobLimits struct {
	Disk int64         // bytes by which the file system of guests and work root may fill up
	Time time.Duration // from prepare_job to cleanup_job
}

// watchInterval is how often the disk is looked at: what a job can write in
// between goes beyond its limit.
const watchInterval = 250 * time.Millisecond

// watch ends the job when it goes beyond its limits. Only one job runs at a
// time, so what the file system lost since its start is the job's.
func (s *Server) watch(j *job) {
	ctx, cancel := context.WithCancel(context.Background())
	j.stopWatch = cancel
	limits := s.settings.Job
	if limits == (JobLimits{}) {
		return
	}
	begin := time.Now()
	before, err := s.freeSpace()
	if err != nil {
		s.log.Warn("the disk is not watched", "error", err)
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
			if err := s.exceeded(limits, before, begin); err != nil {
				s.log.Warn("job ended by the broker", "job", j.id, "reason", err)
				j.kill(err)
				return
			}
		}
	}()
}

// exceeded tells which limit a job has gone beyond.
func (s *Server) exceeded(limits JobLimits, before int64, begin time.Time) error {
	if limits.Time > 0 && time.Since(begin) > limits.Time {
		return fmt.Errorf("the job was ended: it took longer than %v (RUNNER_JOB_TIMEOUT_S in config.env)", limits.Time)
	}
	if limits.Disk > 0 && before > 0 {
		if now, err := s.freeSpace(); err == nil && before-now > limits.Disk {
			return fmt.Errorf("the job was ended: it wrote more than %d MiB to disk (RUNNER_JOB_DISK in config.env)", limits.Disk>>20)
		}
	}
	return nil
}

// freeSpace gives the bytes free where guests write, statfs(2).
func (s *Server) freeSpace() (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(s.settings.JobsDir, &stat); err != nil {
		return 0, fmt.Errorf("cannot look at the disk: %w", err)
	}
	return int64(stat.Bfree) * stat.Bsize, nil
}

// kill ends the processes of a job's guests, and has its steps report why. What
// they left goes with the job.
func (j *job) kill(cause error) {
	j.mu.Lock()
	j.cause = cause
	j.mu.Unlock()
	if j.container != nil {
		j.container.guest.Kill()
	}
	for _, service := range j.services {
		service.guest.Kill()
	}
}
