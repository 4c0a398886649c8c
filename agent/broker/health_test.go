package broker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// TestHealth: the workflow's words before the image's, before Docker's defaults.
func TestHealth(t *testing.T) {
	defaults := func(text string, argv ...string) healthCheck {
		return healthCheck{argv: argv, text: text,
			interval: 30 * time.Second, timeout: 30 * time.Second, startInterval: 5 * time.Second, retries: 3}
	}
	all := oci.Health{
		Test: []string{"true"}, Shell: true, Interval: 1, Timeout: 2, StartPeriod: 3, StartInterval: 4, Retries: 5,
	}
	for _, test := range []struct {
		summary string
		options dockeropts.Health
		image   *oci.Health
		shell   []string
		own     bool // it is the job's own container
		want    healthCheck
	}{
		{summary: "none"},
		{summary: "numbers without a command", options: dockeropts.Health{Retries: 2}},
		{
			summary: "the image's command",
			image:   &oci.Health{Test: []string{"a b"}, Shell: true}, want: defaults("a b", "/bin/sh", "-c", "a b"),
		},
		{
			summary: "the image's words, without a shell, V08",
			image:   &oci.Health{Test: []string{"/check", "a b"}}, want: defaults("/check a b", "/check", "a b"),
		},
		{
			summary: "all of the image, V09", image: &all, shell: []string{"/bin/bash", "-ec"},
			want: healthCheck{[]string{"/bin/bash", "-ec", "true"}, "true", 1, 2, 3, 4, 5},
		},
		{
			summary: "the workflow's command, the image's numbers",
			options: dockeropts.Health{Cmd: "check", Retries: 2}, image: &all,
			want: healthCheck{[]string{"/bin/sh", "-c", "check"}, "check", 1, 2, 3, 4, 2},
		},
		{
			summary: "the workflow's numbers, the image's command",
			options: dockeropts.Health{Interval: 6, Timeout: 7, StartPeriod: 8, StartInterval: 9, Retries: 10}, image: &all,
			want: healthCheck{[]string{"/bin/sh", "-c", "true"}, "true", 6, 7, 8, 9, 10},
		},
		{summary: "disabled", options: dockeropts.Health{Disabled: true}, image: &all},
		{summary: "the image's, whose program does not run in the job's container", image: &all, own: true},
		{
			summary: "that of the job's container, V49",
			options: dockeropts.Health{Cmd: "check"}, own: true, want: defaults("check", "/bin/sh", "-c", "check"),
		},
	} {
		m := &member{
			spec:      containerSpec{options: dockeropts.Options{Health: test.options}},
			root:      rootFS{config: oci.Config{Health: test.image, Shell: test.shell}},
			isService: !test.own,
		}
		if diff := gocmp.Diff(test.want, m.health(), gocmp.AllowUnexported(healthCheck{})); diff != "" {
			t.Errorf("%s, -want +got:\n%s", test.summary, diff)
		}
	}
}

// TestHealthTimes: a container is as patiently waited for as in Docker, whatever its
// checks take, and more often asked.
func TestHealthTimes(t *testing.T) {
	const never = time.Hour
	for _, test := range []struct {
		summary   string
		check     healthCheck
		takes     time.Duration // one check
		healthyAt time.Duration
		want      time.Duration // until it is found healthy, or until Docker finds it unhealthy
		fails     bool
	}{
		// Docker's first check is after one interval, so the third ends after three.
		{summary: "defaults", healthyAt: never, want: 90 * time.Second, fails: true},
		{summary: "healthy at once", want: 0},
		{summary: "healthy soon", healthyAt: 3 * time.Second, want: 3 * time.Second},
		{summary: "just in time", healthyAt: 89 * time.Second, want: 90 * time.Second},
		{
			summary: "a start period, V09", check: healthCheck{startPeriod: 150 * time.Second},
			healthyAt: 100 * time.Second, want: 100 * time.Second,
		},
		{
			summary: "a start period that is over", check: healthCheck{startPeriod: 60 * time.Second},
			healthyAt: never, want: 120 * time.Second, fails: true,
		},
		{
			summary: "slow checks, V10", check: healthCheck{interval: time.Second, retries: 5}, takes: 2 * time.Second,
			healthyAt: 9 * time.Second, want: 11 * time.Second,
		},
		{
			summary: "slow checks in vain", check: healthCheck{interval: time.Second, retries: 5}, takes: 2 * time.Second,
			healthyAt: never, want: 15 * time.Second, fails: true,
		},
		{
			summary: "a check that hangs", check: healthCheck{interval: time.Second, timeout: time.Second, retries: 2},
			takes: never, healthyAt: never, want: 4 * time.Second, fails: true,
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				guests := &fakeGuests{
					onExec: func(ctx context.Context, _ *fakeGuest, _ guestapi.Process, _ wire.Streams) (int, error) {
						healthy := time.Since(begin) >= test.healthyAt
						select {
						case <-time.After(test.takes):
						case <-ctx.Done():
							return 0, ctx.Err()
						}
						if healthy {
							return 0, nil
						}
						return 1, nil
					},
				}
				g, err := guests.Start(t.Context(), guest.Spec{})
				if err != nil {
					t.Fatal(err)
				}

				check := test.check
				check.argv = []string{"check"}
				check.interval = cmp.Or(check.interval, 30*time.Second)
				check.timeout = cmp.Or(check.timeout, 30*time.Second)
				check.startInterval = cmp.Or(check.startInterval, 5*time.Second)
				check.retries = cmp.Or(check.retries, 3)
				c := &container{guest: g}
				err = c.awaitHealth(t.Context(), context.Background(), check, "db", func(string, ...any) {})
				passed := time.Since(begin)
				if (err != nil) != test.fails || passed < test.want || passed > test.want+test.want/3+time.Second {
					t.Errorf("after %v: %v; want %v and failure %v", passed, err, test.want, test.fails)
				}
			})
		})
	}
}

// TestHealthIsAskedOften counts the checks of a service that needs long to start.
func TestHealthIsAskedOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begin := time.Now()
		guests := &fakeGuests{onExec: func(context.Context, *fakeGuest, guestapi.Process, wire.Streams) (int, error) {
			at = append(at, time.Since(begin))
			return 1, nil
		}}
		g, err := guests.Start(t.Context(), guest.Spec{})
		if err != nil {
			t.Fatal(err)
		}
		check := healthCheck{argv: []string{"check"}, interval: 30 * time.Second, timeout: time.Second, retries: 3}
		_ = (&container{guest: g}).awaitHealth(t.Context(), context.Background(), check, "db", func(string, ...any) {})

		inFirst := func(d time.Duration) int {
			return slices.IndexFunc(at, func(a time.Duration) bool { return a > d })
		}
		if n := inFirst(time.Second); n < 10 || n > 30 {
			t.Errorf("%d checks in the first second", n)
		}
		if n := len(at); n < 40 || n > 80 {
			t.Errorf("%d checks in 90 s", n)
		}
	})
}

// TestOwnHealth: the job's own container is waited for if its options say how (V49).
func TestOwnHealth(t *testing.T) {
	for _, test := range []struct {
		summary string
		status  int
		dies    bool
		want    string
	}{
		{summary: "healthy"},
		{summary: "unhealthy", status: 4, want: `2 checks in a row have failed, the last of "check" with status 4: no`},
		{summary: "ended", dies: true, status: 4, want: "cannot start the job's container: its guest ended"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			l.guests.onExec = func(_ context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
				if !isHealthCheck(p) {
					return 0, errors.New("not a check")
				}
				if test.dies {
					g.Kill()
				}
				_, _ = s.Stdout.Write([]byte("no"))
				return test.status, nil
			}
			l.serve()
			interval := "10ms"
			if test.dies {
				interval = "1h"
			}
			var progress strings.Builder
			_, err := l.client.Prepare(t.Context(), brokerapi.PrepareRequest{Container: &brokerapi.Container{
				Image: "oci/app", Options: "--health-cmd check --health-retries 2 --health-interval " + interval,
			}}, &progress)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasSuffix(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if !strings.Contains(progress.String(), "waiting for the job's container to be healthy") {
				t.Errorf("the client was told %s", &progress)
			}
		})
	}
}
