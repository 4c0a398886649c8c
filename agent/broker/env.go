package broker

import (
	"slices"
	"strings"
)

// parseEnviron returns the environment of KEY=VALUE entries, as OCI images have
// them.
func parseEnviron(entries []string) map[string]string {
	env := map[string]string{}
	for _, entry := range entries {
		key, value, _ := strings.Cut(entry, "=")
		env[key] = value
	}
	return env
}

// environ returns an environment as KEY=VALUE, sorted. It leaves out what
// execve(2) cannot carry: a name that is empty or has '=', and NUL bytes.
func environ(env map[string]string) []string {
	var list []string
	for key, value := range env {
		if key == "" || strings.ContainsAny(key, "=\x00") || strings.Contains(value, "\x00") {
			continue
		}
		list = append(list, key+"="+value)
	}
	slices.Sort(list)
	return list
}
