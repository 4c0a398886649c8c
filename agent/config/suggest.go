package config

import (
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/internal/suggest"
)

// suggestion names the known key nearest to key.
func (c *Config) suggestion(key string) string {
	var keys []string
	for _, s := range c.settings() {
		keys = append(keys, s.key)
	}
	slices.Sort(keys)

	if best := suggest.Closest(strings.ToUpper(key), keys, min(4, len(key)-1)); best != "" {
		return "did you mean " + best + "?"
	}
	return "the keys are " + strings.Join(keys, ", ")
}
