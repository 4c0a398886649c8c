package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/internal/suggest"
)

// suggestion names the known key nearest to key.
func suggestion(key string) string {
	known := slices.Sorted(maps.Keys(settings))
	if best := suggest.Closest(strings.ToUpper(key), known, min(4, len(key)-1)); best != "" {
		return "did you mean " + best + "?"
	}
	return "the keys are " + strings.Join(known, ", ")
}
