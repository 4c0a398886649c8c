package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/tail"
)

// healthCheck is how to find out whether a container can be used, with the meanings
// and defaults of docker-create(1). The zero value is that of a container without.
type healthCheck struct {
	argv          []string
	text          string        // for messages
	interval      time.Duration // between checks
	timeout       time.Duration // of one check
	startPeriod   time.Duration // failures do not count before it has passed
	startInterval time.Duration // between checks in the start period
	retries       int           // failures in a row that make a container unhealthy
}

// health returns the check that the workflow asks for; the image decides what options
// leave out. An image's own check is about its own program, which the job's
// container does not run.
func (m *member) health() healthCheck {
	o := m.spec.options.Health
	var image oci.Health
	if h := m.root.config.Health; h != nil && m.isService {
		image = *h
	}
	if o.Disabled || o.Cmd == "" && len(image.Test) == 0 {
		return healthCheck{}
	}

	check := healthCheck{
		interval:      cmp.Or(o.Interval, image.Interval, 30*time.Second),
		timeout:       cmp.Or(o.Timeout, image.Timeout, 30*time.Second),
		startPeriod:   cmp.Or(o.StartPeriod, image.StartPeriod),
		startInterval: cmp.Or(o.StartInterval, image.StartInterval, 5*time.Second),
		retries:       cmp.Or(o.Retries, image.Retries, 3),
	}
	shell := m.root.config.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	if o.Cmd != "" {
		image.Test, image.Shell = []string{o.Cmd}, true
	}
	check.argv, check.text = image.Test, strings.Join(image.Test, " ")
	if image.Shell {
		check.argv = slices.Concat(shell, image.Test)
	}
	return check
}

// healthSchedule decides when a container is checked, and which failures count.
//
// Docker checks after an interval, and again an interval after the end of each check. A
// job waits here, so a container is checked more often than that, but a failure
// counts only where Docker would have made a check as well: a container has at least
// as long to become healthy as there.
type healthSchedule struct {
	check    healthCheck
	began    time.Time
	due      time.Time // when Docker would check next
	failures int       // that count, in a row
}

func newHealthSchedule(check healthCheck, now time.Time) *healthSchedule {
	s := &healthSchedule{check: check, began: now}
	s.due = now.Add(s.interval(now))
	return s
}

func (s *healthSchedule) starting(at time.Time) bool { return at.Sub(s.began) < s.check.startPeriod }

func (s *healthSchedule) interval(at time.Time) time.Duration {
	if s.starting(at) {
		return s.check.startInterval
	}
	return s.check.interval
}

// failed takes the failure of a check that ran from begin to end, and reports
// whether the container is unhealthy.
func (s *healthSchedule) failed(begin, end time.Time) bool {
	if begin.Before(s.due) {
		return false
	}
	s.due = end.Add(s.interval(end))
	if !s.starting(begin) {
		s.failures++
	}
	return s.failures >= s.check.retries
}

// Bounds of the wait between two checks, which is a tenth of the time that has passed.
const (
	leastWait = 50 * time.Millisecond
	mostWait  = 5 * time.Second
)

// wait returns how long to wait after a check.
func (s *healthSchedule) wait(now time.Time) time.Duration {
	wait := min(max(now.Sub(s.began)/10, leastWait), mostWait)
	return max(0, min(wait, s.due.Sub(now)))
}

// awaitHealth waits until a container is healthy. It fails if the container turns out
// to be unhealthy, and with the cause of ended once that has ended.
func (c *container) awaitHealth(
	ctx, ended context.Context, check healthCheck, what string, report reporter,
) error {
	report("waiting for %s to be healthy", what)
	s := newHealthSchedule(check, time.Now())
	for {
		begin := time.Now()
		status, output, err := c.checkHealth(ctx, check)
		if err == nil && status == 0 {
			report("%s is healthy after %v", what, time.Since(s.began).Round(10*time.Millisecond))
			return nil
		}

		end := time.Now()
		if s.failed(begin, end) {
			return fmt.Errorf("it is not healthy after %v: %d checks in a row have failed, the last of %.80q with status %d: %s",
				end.Sub(s.began).Round(10*time.Millisecond), s.failures, check.text, status, output)
		}
		select {
		case <-ended.Done():
			return context.Cause(ended)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.wait(end)):
		}
	}
}

// checkHealth runs the check once. With an error, the status is -1 and output says
// why.
func (c *container) checkHealth(ctx context.Context, check healthCheck) (status int, output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, check.timeout)
	defer cancel()

	out := tail.Buffer{Limit: outputLimit}
	status, err = c.exec(ctx, check.argv, wire.Streams{Stdout: &out, Stderr: &out})
	var failure *wire.Error
	switch {
	case errors.As(err, &failure):
		return -1, failure.Message, err
	case err != nil:
		return -1, "it did not answer in time", err
	}
	return status, out.String(), nil
}
