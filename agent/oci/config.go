package oci

import (
	"slices"
	"strings"

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
	Health     string   `json:",omitempty"` // command for /bin/sh -c, from HEALTHCHECK; or empty
}

// newConfig returns the sound part of a configuration, which can have anything
// in it.
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

// quote quotes words for sh(1).
func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
