package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/config"
)

// TestJobs: the key that RUNNER_JOBS replaces keeps its meaning.
func TestJobs(t *testing.T) {
	const old = "RUNNER_REQUIRE_JOB_CONTAINER is an old name; write RUNNER_JOBS="
	tests := []struct {
		summary string
		file    string
		want    config.Jobs
		warning string
	}{
		{summary: "guest", file: "RUNNER_JOBS=guest", want: config.JobsGuest},
		{summary: "container", file: "RUNNER_JOBS=container", want: config.JobsContainer},
		{summary: "host", file: "RUNNER_JOBS=host", want: config.JobsHost},
		{summary: "required", file: "\nRUNNER_REQUIRE_JOB_CONTAINER=true", want: config.JobsContainer,
			warning: "config.env:2: " + old + "container instead of the line"},
		{summary: "not required", file: "RUNNER_REQUIRE_JOB_CONTAINER=false", want: config.JobsHost,
			warning: "config.env:1: " + old + "host instead of the line"},
		{summary: "both agree", file: "RUNNER_REQUIRE_JOB_CONTAINER=false\nRUNNER_JOBS=host", want: config.JobsHost,
			warning: "config.env:1: " + old + "host instead of the line"},
		{summary: "one of them empty", file: "RUNNER_REQUIRE_JOB_CONTAINER=false\nRUNNER_JOBS=", want: config.JobsHost,
			warning: "config.env:1: " + old + "host instead of the line"},
		{summary: "the other empty", file: "RUNNER_REQUIRE_JOB_CONTAINER=\nRUNNER_JOBS=guest", want: config.JobsGuest},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			c, warnings, err := config.Parse("config.env", []byte(tt.file))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.warning, strings.Join(warnings, "\n")); c.Jobs != tt.want || diff != "" {
				t.Errorf("jobs are %s, want %s; warnings -want +got:\n%s", c.Jobs, tt.want, diff)
			}

			c, err = config.FromEnviron(strings.Fields(tt.file))
			if err != nil || c.Jobs != tt.want {
				t.Errorf("of the environment: %v, %v", c, err)
			}
		})
	}
	if _, err := config.FromEnviron([]string{"RUNNER_JOBS=host", "RUNNER_REQUIRE_JOB_CONTAINER=true"}); err == nil {
		t.Error("accepts a contradiction in the environment")
	}
}
