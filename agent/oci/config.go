package oci

import (
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Config is what an image says of how it wants to be run; config.md of the OCI
// image specification.
type Config struct {
	Env        []string `json:",omitempty"` // KEY=VALUE
	User       string   `json:",omitempty"` // see User
	WorkingDir string   `json:",omitempty"`
	Entrypoint []string `json:",omitempty"`
	Cmd        []string `json:",omitempty"`
	Volumes    []string `json:",omitempty"` // absolute paths, sorted
	Health     string   `json:",omitempty"` // command for sh -c, of Docker's HEALTHCHECK
}

// newConfig takes over what is sound; an image may say anything.
func newConfig(file *v1.ConfigFile) Config {
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
	if h := c.Healthcheck; h != nil && len(h.Test) > 1 {
		switch h.Test[0] {
		case "CMD-SHELL":
			config.Health = h.Test[1]
		case "CMD":
			config.Health = quote(h.Test[1:])
		}
	}
	return config
}

func isPath(p string) bool { return strings.HasPrefix(p, "/") && !strings.Contains(p, "\x00") }

// quote writes words so that sh(1) reads them back.
func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
