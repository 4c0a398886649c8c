package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/agent/upgrade"
)

func TestDescribeUpgrade(t *testing.T) {
	s := &upgrade.State{Pending: &upgrade.Pending{Version: "1.2.0", From: "1.1.0"},
		Failed: []upgrade.Failure{{Version: "1.1.5", Time: time.Unix(0, 0).UTC(), Reason: "it did not boot well"}}}
	failed := "version 1.1.5 failed, noted 1970-01-01T00:00:00Z: it did not boot well"
	for _, test := range []struct{ running, want string }{
		{"1.1.0", "version 1.2.0 is installed, and starts with the next boot"},
		{"1.2.0", "version 1.2.0 was installed by 1.1.0, and has not been noted as good"},
	} {
		if diff := cmp.Diff([]string{test.want, failed}, describeUpgrade(s, test.running)); diff != "" {
			t.Errorf("version %s runs (-want +got):\n%s", test.running, diff)
		}
	}
}

// TestDescribeRunner: status shows which actions runner runs, and what became of
// others.
func TestDescribeRunner(t *testing.T) {
	const state = `{"schema": 1, "current": "2.337.0",
		"copies": [{"version": "2.337.0", "from": "GitHub", "published": "2026-11-10T20:00:00Z"}],
		"failed": [{"version": "2.338.0", "time": "2026-11-20T10:00:00Z", "reason": "GitHub does not serve it"}]}`
	for _, test := range []struct {
		summary, version, state string
		deadline                time.Time
		want                    []string
	}{
		{summary: "the image's", version: "2.336.0", want: []string{"actions runner  2.336.0 of the image\n"}},
		{summary: "not running", want: []string{"actions runner  2.336.0 of the image\n"}},
		{summary: "a copy", version: "2.337.0", state: state, deadline: time.Date(2026, 12, 20, 0, 0, 0, 0, time.UTC),
			want: []string{"actions runner  2.337.0 from GitHub, published 2026-11-10 (14 days ago), " +
				"served by GitHub until 2026-12-20 (26 days left)\n",
				"renewal         actions runner 2.338.0 failed, noted 2026-11-20T10:00:00Z: GitHub does not serve it\n"}},
		{summary: "a copy that does not run", state: state, want: []string{"actions runner  2.337.0 from GitHub, "}},
		{summary: "a trial", version: "2.336.0", state: `{"schema": 1, "trial": {"version": "2.339.0"}}`,
			want: []string{"renewal         actions runner 2.339.0 is installed, and has not been online\n"}},
		{summary: "broken state", version: "2.336.0", state: "{", want: []string{"actions runner  2.336.0 of the image\n"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			o := statusOptions{root: t.TempDir(), copies: t.TempDir()}
			writeFile(t, filepath.Join(o.root, "usr/lib/os-release"), "RUNNER_VERSION=2.336.0\n")
			if test.state != "" {
				writeFile(t, filepath.Join(o.copies, "state.json"), test.state)
			}
			now := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
			r := o.report(control.Status{RunnerVersion: test.version, RunnerDeadline: test.deadline}, now)
			var out bytes.Buffer
			if err := r.print(&out, now); err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("printed\n%swant %s", out.String(), want)
				}
			}
		})
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
