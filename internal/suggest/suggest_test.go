package suggest

import "testing"

func TestClosest(t *testing.T) {
	known := []string{"packages", "overlays", "package"}
	for _, test := range []struct {
		summary string
		word    string
		limit   int
		want    string
	}{
		{summary: "one letter missing", word: "pakages", limit: 2, want: "packages"},
		{summary: "the word itself", word: "packages", limit: 0, want: "packages"},
		{summary: "another case, the closer of two", word: "Package", limit: 1, want: "package"},
		{summary: "prefix of two", word: "packag", limit: 2, want: "package"},
		{summary: "too far", word: "mirror", limit: 2, want: ""},
		{summary: "nothing", word: "", limit: 2, want: ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if got := Closest(test.word, known, test.limit); got != test.want {
				t.Errorf("%q within %d: got %q, want %q", test.word, test.limit, got, test.want)
			}
		})
	}
}
