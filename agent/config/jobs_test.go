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

// TestContainers: the host has no docker.
func TestContainers(t *testing.T) {
	tests := []struct {
		file string
		want config.Containers
		err  string
	}{
		{file: "", want: config.ContainersHook},
		{file: "RUNNER_JOBS=container", want: config.ContainersHook},
		{file: "RUNNER_JOBS=host", want: config.ContainersHook},
		{file: "RUNNER_REQUIRE_JOB_CONTAINER=false", want: config.ContainersHook},
		{file: "RUNNER_CONTAINERS=hook", want: config.ContainersHook},
		{file: "RUNNER_CONTAINERS=docker", want: config.ContainersDocker},
		{file: "RUNNER_CONTAINERS=docker\nRUNNER_JOBS=container", want: config.ContainersDocker},
		{file: "RUNNER_JOBS=host\nRUNNER_CONTAINERS=docker", err: "config.env:2: RUNNER_CONTAINERS=docker contradicts " +
			"RUNNER_JOBS=host: the host has no docker; remove the line with RUNNER_CONTAINERS"},
		{file: "RUNNER_CONTAINERS=podman", err: "config.env:1: RUNNER_CONTAINERS is neither docker nor hook; " +
			"write one of them"},
	}
	for _, tt := range tests {
		c, _, err := config.Parse("config.env", []byte(tt.file))
		if tt.err != "" {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%q: got %v, want %s", tt.file, err, tt.err)
			}
			if _, err := config.FromEnviron(strings.Fields(tt.file)); err == nil {
				t.Errorf("%q is accepted in the environment", tt.file)
			}
			continue
		}
		if err != nil || c.Containers != tt.want {
			t.Errorf("%q: got %v, %v, want %s", tt.file, c, err, tt.want)
		}
		if c, err := config.FromEnviron(strings.Fields(tt.file)); err != nil || c.Containers != tt.want {
			t.Errorf("%q in the environment: got %v, %v", tt.file, c, err)
		}
	}
}
