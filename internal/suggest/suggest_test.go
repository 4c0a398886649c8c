package suggest

import "testing"

func TestClosest(t *testing.T) {
	known := []string{"packages", "overlays", "package"}
	for _, test := range []struct {
		word  string
		limit int
		want  string
	}{
		{"pakages", 2, "packages"},
		{"packages", 0, "packages"},
		{"Package", 1, "package"},
		{"packag", 2, "package"},
		{"mirror", 2, ""},
		{"", 2, ""},
	} {
		if got := Closest(test.word, known, test.limit); got != test.want {
			t.Errorf("%q within %d: got %q, want %q", test.word, test.limit, got, test.want)
		}
	}
}
