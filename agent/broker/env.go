package broker

import (
	"maps"
	"slices"
	"strings"
)

// DefaultPath is PATH in a guest whose image does not set one.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// mergeEnv joins environments; later ones win.
func mergeEnv(envs ...map[string]string) map[string]string {
	merged := map[string]string{}
	for _, env := range envs {
		maps.Copy(merged, env)
	}
	return merged
}

// parseEnviron is the environment of KEY=VALUE entries, as images have them.
func parseEnviron(entries []string) map[string]string {
	env := map[string]string{}
	for _, entry := range entries {
		key, value, _ := strings.Cut(entry, "=")
		env[key] = value
	}
	return env
}

// environ gives an environment as KEY=VALUE, sorted. What execve(2) could not
// carry is left out: a name that is empty or has '=', and NUL bytes.
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
