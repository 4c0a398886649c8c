package broker

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

const (
	mib         = 1 << 20
	timeMessage = "the job was ended: it took longer than 1m0s (RUNNER_JOB_TIMEOUT_S in config.env)"
	diskMessage = "the job was ended: it wrote more than 100 MiB to disk (RUNNER_JOB_DISK in config.env)"
)

func TestWatch(t *testing.T) {
	for _, test := range []struct {
		summary string
		limits  JobLimits
		free    func(passed time.Duration) (int64, error)
		stop    time.Duration // when the job ends by itself; 0: never
		want    string        // "" if no limit is exceeded
		after   time.Duration // when it is, at the earliest; watchInterval later at the latest
	}{{
		summary: "no limits",
	}, {
		summary: "time",
		limits:  JobLimits{Time: time.Minute},
		want:    timeMessage,
		after:   time.Minute,
	}, {
		summary: "a job that ends in time",
		limits:  JobLimits{Time: time.Minute},
		stop:    time.Minute,
	}, {
		summary: "disk",
		limits:  JobLimits{Disk: 100 * mib},
		free: func(passed time.Duration) (int64, error) {
			return 1000*mib - int64(passed.Seconds()*10*mib), nil
		},
		want:  diskMessage,
		after: 10 * time.Second,
	}, {
		summary: "disk up to the limit",
		limits:  JobLimits{Disk: 100 * mib},
		free: func(passed time.Duration) (int64, error) {
			if passed == 0 {
				return 1000 * mib, nil
			}
			return 900 * mib, nil
		},
	}, {
		summary: "disk that becomes free",
		limits:  JobLimits{Disk: 100 * mib},
		free:    func(passed time.Duration) (int64, error) { return 1000*mib + int64(passed), nil },
	}, {
		summary: "time before disk",
		limits:  JobLimits{Disk: 100 * mib, Time: time.Minute},
		free:    func(time.Duration) (int64, error) { return 1000 * mib, nil },
		want:    timeMessage,
		after:   time.Minute,
	}, {
		summary: "a disk that cannot be asked for once",
		limits:  JobLimits{Disk: 100 * mib},
		free: func(passed time.Duration) (int64, error) {
			switch {
			case passed == 0:
				return 1000 * mib, nil
			case passed < time.Second:
				return 0, errors.New("broken")
			}
			return 0, nil
		},
		want:  diskMessage,
		after: time.Second,
	}, {
		summary: "a disk that cannot be asked for at first: the time still counts",
		limits:  JobLimits{Disk: 100 * mib, Time: time.Minute},
		free: func(passed time.Duration) (int64, error) {
			if passed == 0 {
				return 0, errors.New("broken")
			}
			return 0, nil
		},
		want:  timeMessage,
		after: time.Minute,
	}} {
		t.Run(test.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				free := test.free
				if free == nil {
					free = func(time.Duration) (int64, error) { return 0, errors.New("nobody should ask") }
				}
				w := watcher{limits: test.limits, log: slog.New(slog.DiscardHandler),
					freeSpace: func() (int64, error) { return free(time.Since(begin)) }}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var causes []error
				var after time.Duration
				w.start(ctx, func(cause error) {
					causes, after = append(causes, cause), time.Since(begin)
				})

				if test.stop > 0 {
					time.Sleep(test.stop)
					cancel()
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				switch {
				case test.want == "" && len(causes) == 0:
				case len(causes) != 1 || causes[0].Error() != test.want:
					t.Errorf("got %v, want %q once", causes, test.want)
				case after < test.after || after > test.after+watchInterval:
					t.Errorf("the job was ended after %v, want %v", after, test.after)
				}
			})
		})
	}
}

// TestLimitReachesStep has a job that goes beyond a limit during a step, a
// container step and the build of one. All must say so, and so must every step
// after them.
func TestLimitReachesStep(t *testing.T) {
	for _, test := range []struct {
		summary string
		limits  JobLimits
		want    string
	}{
		{summary: "disk", limits: JobLimits{Disk: 100 * mib}, want: diskMessage},
		{
			summary: "time", limits: JobLimits{Time: time.Millisecond},
			want: "the job was ended: it took longer than 1ms (RUNNER_JOB_TIMEOUT_S in config.env)",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.settings.Limits = test.limits
			var free atomic.Int64
			free.Store(1000 * mib)
			l.freeSpace = func() (int64, error) { return free.Load(), nil }
			l.guests.onExec = func(ctx context.Context, g *fakeGuest, _ guestapi.Process, _ wire.Streams) (int, error) {
				free.Store(0)
				return g.sleep(ctx)
			}
			l.serve()
			job := l.prepare(ownContainer()).Job

			results := make(chan error)
			step := func() {
				_, err := l.exec(job, "dd")
				results <- err
			}
			containerStep := func() {
				_, err := l.step(job, base, "dd")
				results <- err
			}
			build := newBuild(l)
			build.Job = job
			buildStep := func() {
				_, err := l.client.Container(l.Context(), build, wire.Streams{})
				results <- err
			}
			go step()
			go containerStep()
			go buildStep()
			for range 3 {
				if err := <-results; err == nil || err.Error() != test.want {
					t.Errorf("during the job: got %v, want %s", err, test.want)
				}
			}
			for _, later := range []func(){step, containerStep, buildStep} {
				go later()
				if err := <-results; err == nil || !strings.HasPrefix(err.Error(), test.want) {
					t.Errorf("after it: got %v, want %s", err, test.want)
				}
			}
			if err := l.client.Cleanup(t.Context(), job); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLimitsAlone has what runs beside any job.
func TestLimitsAlone(t *testing.T) {
	for _, test := range []struct {
		summary string
		run     func(l *lab) (int, error)
		want    string
	}{
		{summary: "a container", run: func(l *lab) (int, error) { return l.step("", base, "dd") }, want: diskMessage},
		{summary: "a build", run: func(l *lab) (int, error) {
			return l.client.Container(l.Context(), newBuild(l), wire.Streams{})
		}, want: "cannot build Dockerfile: " + diskMessage},
		{summary: "a command", run: func(l *lab) (int, error) {
			return l.client.Run(l.Context(), brokerapi.RunRequest{Argv: []string{"dd"}}, wire.Streams{})
		}, want: diskMessage},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.settings.Limits = JobLimits{Disk: 100 * mib}
			var free atomic.Int64
			free.Store(1000 * mib)
			l.freeSpace = func() (int64, error) { return free.Load(), nil }
			l.guests.onExec = func(ctx context.Context, g *fakeGuest, _ guestapi.Process, _ wire.Streams) (int, error) {
				free.Store(0)
				return g.sleep(ctx)
			}
			l.serve()
			if _, err := test.run(l); err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			l.checkNothingLeft()
		})
	}
}

func TestFreeSpace(t *testing.T) {
	if free, err := freeSpace(t.TempDir()); err != nil || free <= 0 {
		t.Errorf("got %d, %v", free, err)
	}
	if _, err := freeSpace("/nonexistent"); err == nil {
		t.Error("a directory that does not exist has free space")
	}
}
