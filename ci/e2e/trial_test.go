//go:build upgrade

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTrial tests versions with mkappliance test-upgrade: one that works, and one
// whose health check fails.
func TestTrial(t *testing.T) {
	dir := os.Getenv("MKAPPLIANCE_TEST_UPGRADE")
	if dir == "" {
		t.Skip("MKAPPLIANCE_TEST_UPGRADE names no directory of ci/bake-upgrade: run it through 'make test-upgrade'")
	}
	const statusFailedTest = 3
	for _, test := range []struct {
		summary string
		args    []string
		status  int
		want    string // start of the report's error
		phases  int    // 0 for any: ssh may or may not see a boot that fails
	}{
		{summary: "a version that works", status: 0, phases: 6,
			args: []string{filepath.Join(dir, "channel/runner-amd64_0.2.0.manifest.json"),
				"--key", filepath.Join(dir, "release.key")}},
		{summary: "a version whose health check fails", status: statusFailedTest,
			args: []string{filepath.Join(dir, "broken"), "--no-rollback"},
			want: "version 0.3.0 was left again: "},
	} {
		t.Run(test.summary, func(t *testing.T) {
			args := append([]string{"test-upgrade", "--json", filepath.Join(dir, "old.img")}, test.args...)
			var stdout, stderr bytes.Buffer
			cmd := exec.CommandContext(t.Context(), "../../bin/mkappliance", args...)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			t.Logf("%s%s", stdout.String(), stderr.String())
			if got := cmd.ProcessState.ExitCode(); got != test.status {
				t.Errorf("got status %d, want %d", got, test.status)
			}

			var report struct {
				OK     bool
				Error  string
				From   string
				To     string
				Phases []struct{ Phase string }
				Broken *struct {
					Boots  int
					Reason string
				}
			}
			if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
				t.Fatal(err)
			}
			if report.OK != (test.status == 0) || !strings.HasPrefix(report.Error, test.want) || report.From != "0.1.0" ||
				test.phases != 0 && len(report.Phases) != test.phases {
				t.Errorf("got %+v", report)
			}
			if report.OK && (report.Broken == nil || report.Broken.Boots != 3 || report.Broken.Reason == "") {
				t.Errorf("the broken version: %+v", report.Broken)
			}
			if !report.OK && !strings.Contains(stderr.String(), "the end of the console:") {
				t.Error("no evidence was printed")
			}
		})
	}
}
