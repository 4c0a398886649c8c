package shellwords

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSplit wants the words that the reference returned for the lines of a file,
// which TestShellWords of ci/guests compares with it and writes with -update.
func TestSplit(t *testing.T) {
	data, err := os.ReadFile("testdata/lines.json")
	if err != nil {
		t.Fatal(err)
	}
	var tests []struct {
		Line  string
		Words []string // nil for an error
	}
	if err := json.Unmarshal(data, &tests); err != nil {
		t.Fatal(err)
	}
	if len(tests) < 50 {
		t.Fatalf("there are %d lines only", len(tests))
	}

	for _, tt := range tests {
		got, err := Split(tt.Line)
		if (err != nil) != (tt.Words == nil) {
			t.Errorf("Split(%q) fails with %v, want %q", tt.Line, err, tt.Words)
		}
		if diff := cmp.Diff(tt.Words, append(tt.Words[:0:0], got...)); diff != "" {
			t.Errorf("Split(%q), -want +got:\n%s", tt.Line, diff)
		}
	}
}

func TestSplitError(t *testing.T) {
	tests := []struct {
		line string
		want error
	}{
		{line: `'a`, want: ErrQuote},
		{line: `a "b`, want: ErrQuote},
		{line: `"\"`, want: ErrQuote},
		{line: `"\`, want: ErrQuote},
		{line: `$'\'`, want: ErrQuote},
		{line: `a\`, want: ErrEscape},
	}
	for _, tt := range tests {
		if _, err := Split(tt.line); !errors.Is(err, tt.want) {
			t.Errorf("Split(%q) fails with %v, want %v", tt.line, err, tt.want)
		}
	}
}

// FuzzSplit quotes the words that Split returns for a shell, and splits them again.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"a b", `"a b" 'c'`, `\`, `"\"`, "''", `$'\x41\u00e9\cA'`, "a \\\n b", `$"a"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Split(line)
		if err != nil {
			return
		}
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		if again, err := Split(strings.Join(quoted, " ")); err != nil || !slices.Equal(again, words) {
			t.Errorf("Split(%q) is %q, but quoted %q, %v", line, words, again, err)
		}
	})
}
