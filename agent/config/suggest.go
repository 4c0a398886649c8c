package config

import (
	"maps"
	"slices"
	"strings"
)

// suggestion names the known key nearest to key.
func suggestion(key string) string {
	known := slices.Sorted(maps.Keys(settings))
	best, bestDistance := "", len(key)
	for _, k := range known {
		if d := distance(strings.ToUpper(key), k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if bestDistance <= 4 {
		return "did you mean " + best + "?"
	}
	return "the keys are " + strings.Join(known, ", ")
}

// distance is Levenshtein's: how many letters to insert, delete or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
