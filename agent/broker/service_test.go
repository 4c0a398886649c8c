package broker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// isHealthCheck reports whether a process is one of awaitHealth's.
func isHealthCheck(p guestapi.Process) bool {
	return p.Argv[0] == "/bin/sh" && p.Argv[len(p.Argv)-1] == "check"
}

// TestServices prepares jobs with one service.
func TestServices(t *testing.T) {
	const unhealthy = `3 checks in a row have failed, the last of "check" with status `
	const health = "--health-cmd check --health-interval 10ms --health-retries 3"
	for _, test := range []struct {
		summary string
		options string
		// serve is the service's process, check the nth check of its health.
		serve func(ctx context.Context, g *fakeGuest, out io.Writer) (int, error)
		check func(n int, out io.Writer) (int, error)
		want  string // end of the error; "" for success
		told  string // what the client is told at least
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
		told:    "service oci/db is healthy after ",
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
		summary: "ends early, V13",
		serve: func(_ context.Context, _ *fakeGuest, out io.Writer) (int, error) {
			_, _ = io.WriteString(out, "app: 100%\nabout to end\n")
			return 3, nil
		},
		told: "::warning::service oci/db does not run any more: it ended with status 3; its last output:" +
			"%0Aapp: 100%25%0Aabout to end\n",
	}, {
		summary: "does its work once, V12 and V54",
		serve: func(_ context.Context, _ *fakeGuest, out io.Writer) (int, error) {
			_, _ = io.WriteString(out, "done\n")
			return 0, nil
		},
		told: "service oci/db does not run any more: it ended with status 0; its last output:\ndone\n",
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
			case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.HasSuffix(err.Error(), test.want)):
				t.Errorf("got %v, want %q", err, test.want)
			case err != nil:
				l.checkNothingLeft()
			case !strings.Contains(progress.String(), test.told):
				t.Errorf("the client was told\n%s, want %s", &progress, test.told)
			}
		})
	}
}

// TestServiceNames: the client is told by which names services are reached (X8), one of
// which it may have sent (EX3).
func TestServiceNames(t *testing.T) {
	l := newLab(t)
	l.guests.onExec = serving
	l.serve()
	var progress bytes.Buffer
	_, err := l.client.Prepare(t.Context(), brokerapi.PrepareRequest{Services: []brokerapi.Container{
		{Image: "oci/my_app", Name: "db", Args: []string{"serve"}, Options: "--network-alias other"},
		{Image: "oci/-", Name: "not a name", Args: []string{"serve"}},
	}}, &progress)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"service oci/my_app is reachable as db, other, my_app\n", "service oci/- is reachable as 10.0.0.3\n",
	} {
		if !strings.Contains(progress.String(), want) {
			t.Errorf("no %q in\n%s", want, &progress)
		}
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
