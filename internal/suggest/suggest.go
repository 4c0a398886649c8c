// Package suggest finds the word a user may have meant.
package suggest

// Closest returns the known word that is the fewest edits away from word, or ""
// if none is within limit edits. An edit inserts, deletes or changes one byte.
// The first in known wins a tie.
func Closest(word string, known []string, limit int) string {
	best, bestDistance := "", limit+1
	for _, k := range known {
		if d := distance(word, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance returns the Levenshtein distance of a and b, in bytes.
func distance(a, b string) int {
	// row[j] is the distance of the part of a seen so far to b[:j].
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
