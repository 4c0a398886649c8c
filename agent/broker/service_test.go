package broker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// isHealthCheck reports whether a process is one of awaitHealth's.
func isHealthCheck(p guestapi.Process) bool { return p.Argv[0] == "/bin/sh" }

// TestServices prepares jobs with one service.
func TestServices(t *testing.T) {
	const unhealthy = `cannot start service oci/db: it was not healthy after 30ms: "check" ended with status `
	const health = "--health-cmd check --health-interval 10ms --health-retries 3"
	for _, test := range []struct {
		summary string
		options string
		// serve is the service's process, check the nth check of its health.
		serve func(ctx context.Context, g *fakeGuest, out io.Writer) (int, error)
		check func(n int, out io.Writer) (int, error)
		want  string // error; "" for success
		// silent: the process is not reported to run.
		silent bool
	}{{
		summary: "without a health command",
	}, {
		summary: "healthy at once",
		options: health,
		check:   func(int, io.Writer) (int, error) { return 0, nil },
	}, {
		summary: "healthy in the end",
		options: "--health-cmd check --health-interval 10s",
		check:   func(n int, _ io.Writer) (int, error) { return max(0, 3-n), nil },
	}, {
		summary: "a check that cannot be made at first",
		options: "--health-cmd check --health-interval 10s",
		check: func(n int, _ io.Writer) (int, error) {
			if n == 1 {
				return 0, &wire.Error{Message: "no /bin/sh yet"}
			}
			return 0, nil
		},
	}, {
		summary: "never healthy",
		options: health,
		serve: func(ctx context.Context, g *fakeGuest, out io.Writer) (int, error) {
			_, _ = io.WriteString(out, "starting up\n")
			return g.sleep(ctx)
		},
		check: func(_ int, out io.Writer) (int, error) {
			_, _ = io.WriteString(out, "no\n")
			return 1, nil
		},
		want: unhealthy + "1: no; its last output:\nstarting up",
	}, {
		summary: "a health command that cannot be run",
		options: health,
		check:   func(int, io.Writer) (int, error) { return 0, &wire.Error{Message: "no /bin/sh"} },
		want:    unhealthy + "-1: no /bin/sh",
	}, {
		summary: "a health command that hangs",
		options: health + " --health-timeout 20ms",
		check: func(int, io.Writer) (int, error) {
			time.Sleep(20 * time.Millisecond)
			return 0, context.DeadlineExceeded
		},
		want: unhealthy + "-1: it did not answer in time",
	}, {
		summary: "ends early",
		serve: func(_ context.Context, _ *fakeGuest, out io.Writer) (int, error) {
			_, _ = io.WriteString(out, "app: about to end\n")
			return 3, nil
		},
		want: "cannot start service oci/db: it ended with status 3; its last output:\napp: about to end",
	}, {
		summary: "ends before it is healthy",
		options: "--health-cmd check",
		serve:   func(context.Context, *fakeGuest, io.Writer) (int, error) { return 3, nil },
		check:   func(int, io.Writer) (int, error) { return 1, nil },
		want:    "cannot start service oci/db: it ended with status 3",
	}, {
		summary: "cannot be run",
		serve: func(context.Context, *fakeGuest, io.Writer) (int, error) {
			return 0, &wire.Error{Message: `cannot start process: command "serve" is not in the guest's PATH`}
		},
		want: `cannot start service oci/db: cannot start process: command "serve" is not in the guest's PATH`,
	}, {
		summary: "cannot be run, as it turns out late",
		silent:  true,
		serve: func(context.Context, *fakeGuest, io.Writer) (int, error) {
			time.Sleep(3 * settleTime)
			return 0, &wire.Error{Message: `cannot start process: command "serve" is not in the guest's PATH`}
		},
		want: `cannot start service oci/db: cannot start process: command "serve" is not in the guest's PATH`,
	}, {
		summary: "its guest dies",
		serve: func(ctx context.Context, g *fakeGuest, _ io.Writer) (int, error) {
			g.Kill()
			return g.sleep(ctx)
		},
		want: "cannot start service oci/db: its guest ended",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.guests.silent = test.silent
			var mu sync.Mutex
			checks := 0
			l.guests.onExec = func(ctx context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
				switch {
				case isHealthCheck(p):
					mu.Lock()
					checks++
					n := checks
					mu.Unlock()
					return test.check(n, s.Stdout)
				case test.serve == nil:
					return g.sleep(ctx)
				}
				return test.serve(ctx, g, s.Stdout)
			}
			l.serve()

			r := brokerapi.PrepareRequest{Services: []brokerapi.Container{
				{Image: "oci/db", Args: []string{"serve"}, Options: test.options},
			}}
			var progress bytes.Buffer
			_, err := l.client.Prepare(t.Context(), r, &progress)
			switch {
			case test.want == "" && err != nil, test.want != "" && (err == nil || err.Error() != test.want):
				t.Errorf("got %v, want %q", err, test.want)
			case err != nil:
				l.checkNothingLeft()
			case test.options != "" && !strings.Contains(progress.String(), "service oci/db is healthy after"):
				t.Errorf("the client was told\n%s", &progress)
			}
		})
	}
}

// TestBootedService is a service whose root file system boots and has no command.
func TestBootedService(t *testing.T) {
	l := newLab(t)
	l.guests.onExec = func(context.Context, *fakeGuest, guestapi.Process, wire.Streams) (int, error) {
		return 0, errors.New("nothing should be run")
	}
	l.serve()
	l.prepare(brokerapi.PrepareRequest{Services: []brokerapi.Container{{Image: base}}})
}

// TestHealthTimes counts the checks of a service that never becomes healthy, and
// waits as long as Docker does.
func TestHealthTimes(t *testing.T) {
	for _, test := range []struct {
		summary string
		health  dockeropts.Health
		want    time.Duration
	}{
		{summary: "defaults", health: dockeropts.Health{Cmd: "check"}, want: 90 * time.Second},
		{
			summary: "all given",
			health:  dockeropts.Health{Cmd: "check", Interval: 2 * time.Second, Retries: 5, StartPeriod: time.Minute},
			want:    70 * time.Second,
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				checks := 0
				guests := &fakeGuests{onExec: func(context.Context, *fakeGuest, guestapi.Process, wire.Streams) (int, error) {
					checks++
					return 1, nil
				}}
				g, err := guests.Start(t.Context(), guest.Spec{})
				if err != nil {
					t.Fatal(err)
				}
				s := &service{container: &container{guest: g}, exited: make(chan struct{})}
				begin := time.Now()
				err = s.awaitHealth(t.Context(), test.health, "db", func(string, ...any) {})
				if err == nil || !strings.HasPrefix(err.Error(), "it was not healthy after "+test.want.String()) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if passed := time.Since(begin); passed < test.want || passed > test.want+2*time.Second {
					t.Errorf("waited for %v, want %v", passed, test.want)
				}
				// It begins with short waits, which grow to a second.
				if least := int(test.want.Seconds()); checks < least || checks > least+10 {
					t.Errorf("%d checks, want about one a second", checks)
				}
			})
		})
	}
}
