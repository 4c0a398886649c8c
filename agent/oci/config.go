package oci

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Config is how an image asks to be run; config.md of the OCI image
// specification. The image chose all of it, within the bounds noted here.
type Config struct {
	Env        []string `json:",omitempty"` // KEY=VALUE, KEY not empty, without NUL
	User       string   `json:",omitempty"` // as FindUser takes it
	WorkingDir string   `json:",omitempty"` // absolute, or empty
	Entrypoint []string `json:",omitempty"` // program and first arguments
	Cmd        []string `json:",omitempty"` // further arguments, unless others are given
	Volumes    []string `json:",omitempty"` // absolute paths, sorted
	Shell      []string `json:",omitempty"` // program and arguments before a command, from SHELL; or empty
	Health     *Health  `json:",omitempty"` // HEALTHCHECK; nil for none
}

// Health is how an image finds out whether its program can be used. A zero duration
// or number leaves it to the one who asks.
type Health struct {
	Test  []string // program and arguments; with Shell a command of one string
	Shell bool     `json:",omitempty"`

	Interval      time.Duration `json:",omitempty"` // durations are not negative and at most a day
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"` // to 1000
}

// newConfig returns the sound part of a configuration, which can have anything
// in it.
func newConfig(file *v1.ConfigFile, startInterval time.Duration) Config {
	c := file.Config
	config := Config{User: c.User, Entrypoint: c.Entrypoint, Cmd: c.Cmd}
	for _, e := range c.Env {
		if name, _, ok := strings.Cut(e, "="); ok && name != "" && !strings.Contains(e, "\x00") {
			config.Env = append(config.Env, e)
		}
	}

	if isPath(c.WorkingDir) {
		config.WorkingDir = c.WorkingDir
	}
	for volume := range c.Volumes {
		if isPath(volume) {
			config.Volumes = append(config.Volumes, volume)
		}
	}
	slices.Sort(config.Volumes)

	if isSound(c.Shell) {
		config.Shell = c.Shell
	}
	config.Health = newHealth(c.Healthcheck, startInterval)
	return config
}

// newHealth returns the sound part of a HEALTHCHECK, nil if nothing is left.
func newHealth(c *v1.HealthConfig, startInterval time.Duration) *Health {
	if c == nil || len(c.Test) < 2 || !isSound(c.Test) {
		return nil
	}
	h := &Health{
		Interval: soundDuration(c.Interval), Timeout: soundDuration(c.Timeout),
		StartPeriod: soundDuration(c.StartPeriod), StartInterval: soundDuration(startInterval),
		Retries: min(max(c.Retries, 0), 1000),
	}

	switch c.Test[0] {
	case "CMD-SHELL":
		h.Shell, h.Test = true, c.Test[1:2]
	case "CMD":
		h.Test = c.Test[1:]
	default: // NONE, for example
		return nil
	}
	return h
}

// startIntervalOf returns a member of HEALTHCHECK that is younger than the library's
// type of it.
func startIntervalOf(raw []byte) time.Duration {
	var file struct {
		Config struct {
			Healthcheck struct{ StartInterval time.Duration }
		}
	}
	if json.Unmarshal(raw, &file) != nil {
		return 0 // it is of no other use to the image
	}
	return file.Config.Healthcheck.StartInterval
}

func soundDuration(d time.Duration) time.Duration { return min(max(d, 0), 24*time.Hour) }

// isSound reports whether words can be passed to a program.
func isSound(words []string) bool {
	return !strings.Contains(strings.Join(words, ""), "\x00")
}

func isPath(p string) bool { return strings.HasPrefix(p, "/") && !strings.Contains(p, "\x00") }
