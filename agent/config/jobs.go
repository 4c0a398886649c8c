package config

import (
	"errors"
	"fmt"
)

// Jobs is where the jobs of an appliance run, and which are taken.
type Jobs string

// The values of Jobs.
const (
	JobsGuest     Jobs = "guest"     // each job in a guest of its own
	JobsContainer Jobs = "container" // only jobs with a container are taken
	JobsHost      Jobs = "host"      // steps outside containers run on the host, as user runner
)

// defaultJobs holds if config.env does not say.
const defaultJobs = JobsGuest

func parseJobs(v string) (Jobs, error) {
	switch jobs := Jobs(v); jobs {
	case JobsGuest, JobsContainer, JobsHost:
		return jobs, nil
	}
	return "", errors.New("is not guest, container or host; write one of them")
}

// replaceRequireContainer applies RUNNER_REQUIRE_JOB_CONTAINER, the key before
// RUNNER_JOBS. values holds all that was set, by key. The warning names the line
// that replaces the old one.
func (c *Config) replaceRequireContainer(values map[string]string) (warning string, err error) {
	old := values[keyRequireContainer]
	if old == "" {
		return "", nil
	}

	meaning := JobsHost
	if old == "true" {
		meaning = JobsContainer
	}
	if values[keyJobs] != "" && c.Jobs != meaning {
		return "", fmt.Errorf("%s=%s contradicts %s=%s; remove the line with %[1]s",
			keyRequireContainer, old, keyJobs, c.Jobs)
	}
	c.Jobs = meaning
	return fmt.Sprintf("%s is an old name; write %s=%s instead of the line", keyRequireContainer, keyJobs, meaning), nil
}

// Containers is how the worker of a job asks for the job's containers.
type Containers string

// The values of Containers.
const (
	ContainersDocker Containers = "docker" // by calls of docker, which runner-shim answers
	ContainersHook   Containers = "hook"   // by container hooks
)

func parseContainers(v string) (Containers, error) {
	switch containers := Containers(v); containers {
	case "", ContainersDocker, ContainersHook:
		return containers, nil
	}
	return "", errors.New("is neither docker nor hook; write one of them")
}

// settleContainers finds the default of RUNNER_CONTAINERS, and refuses docker on the
// host, which has none.
func (c *Config) settleContainers() error {
	switch {
	case c.Containers == "":
		c.Containers = ContainersHook
	case c.Containers == ContainersDocker && c.Jobs == JobsHost:
		return fmt.Errorf("%s=%s contradicts %s=%s: the host has no docker; remove the line with %[1]s",
			keyContainers, c.Containers, keyJobs, c.Jobs)
	}
	return nil
}
