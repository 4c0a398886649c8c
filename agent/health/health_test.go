package health_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/health"
)

func check(name string, err error) health.Check {
	return health.Check{Name: name, Run: func(context.Context) error { return err }}
}

// TestRun: all checks run, whichever fail.
func TestRun(t *testing.T) {
	var events []string
	checks := []health.Check{check("a", nil), check("b", errors.New("broken")), check("c", errors.New("worse"))}
	err := health.Run(t.Context(), checks, func(name string) { events = append(events, "before "+name) },
		func(r health.Result) { events = append(events, fmt.Sprintf("%s %t %s", r.Check, r.OK, r.Error)) })
	want := []string{"before a", "a true ", "before b", "b false broken", "before c", "c false worse"}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err == nil || err.Error() != "b: broken\nc: worse" {
		t.Errorf("got %v", err)
	}
	if err := health.Run(t.Context(), checks[:1], func(string) {}, func(health.Result) {}); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.env")
	if err := health.Config(path).Run(t.Context()); err != nil {
		t.Errorf("a missing file: %v", err)
	}
	for content, want := range map[string]string{
		"RUNNER_GITHUB_URL=https://github.com/a/b\nRUNNER_REGISTRATION_TOKEN=AKLMNOPQRSTUVWXYZ234567ABCDEF\n": "",
		"RUNNER_JOBS=moon\n": "RUNNER_JOBS",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := health.Config(path).Run(t.Context())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", content, err, want)
		}
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	if err := health.State(dir, dir).Run(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	if err := health.State(filepath.Join(dir, "none"), dir).Run(t.Context()); err == nil {
		t.Error("a directory that cannot be written passes")
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := health.State(dir, dir).Run(t.Context()); err == nil {
		t.Error("state of upgrades that cannot be read passes")
	}
}

// TestGuestWithoutBroker: nobody answers.
func TestGuestWithoutBroker(t *testing.T) {
	if err := health.Guest(filepath.Join(t.TempDir(), "socket")).Run(t.Context()); err == nil {
		t.Error("a guest without a broker passes")
	}
}

func TestNetwork(t *testing.T) {
	for _, test := range []struct {
		summary  string
		links    map[string]string // name to carrier, "" for a file that is missing
		addedAt  time.Duration     // when an address comes; negative for never
		want     string
		wantTime time.Duration
	}{
		{summary: "no card", want: "there is no network card, or no driver for it", wantTime: time.Minute},
		{summary: "not plugged in", links: map[string]string{"eth0": "0\n"}, addedAt: -1},
		{summary: "down", links: map[string]string{"eth0": ""}, addedAt: -1},
		{summary: "with an address", links: map[string]string{"eth0": "1\n"}},
		{summary: "with an address later", links: map[string]string{"eth0": "1\n", "eth1": "0\n"},
			addedAt: 20 * time.Second, wantTime: 20 * time.Second},
		{summary: "without an address", links: map[string]string{"eth0": "1\n"}, addedAt: -1,
			want: "no network card has an address; networkctl(1) shows why", wantTime: time.Minute},
	} {
		sys := t.TempDir()
		for link, carrier := range test.links {
			if err := os.MkdirAll(filepath.Join(sys, link, "device"), 0o755); err != nil {
				t.Fatal(err)
			}
			if carrier == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(sys, link, "carrier"), []byte(carrier), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(filepath.Join(sys, "lo"), 0o755); err != nil {
			t.Fatal(err)
		}

		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			addresses := func(string) (int, error) {
				if test.addedAt >= 0 && time.Since(start) >= test.addedAt {
					return 1, nil
				}
				return 0, nil
			}
			err := health.Network(sys, addresses, time.Minute).Run(t.Context())
			if (err == nil) != (test.want == "") || err != nil && err.Error() != test.want {
				t.Errorf("%s: got %v, want %q", test.summary, err, test.want)
			}
			if took := time.Since(start); took != test.wantTime {
				t.Errorf("%s: took %s, want %s", test.summary, took, test.wantTime)
			}
		})
	}
}
