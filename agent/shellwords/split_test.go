package shellwords

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSplit wants the results of Python 3's shlex.split.
func TestSplit(t *testing.T) {
	tests := []struct {
		line string
		want []string
		err  error
	}{
		{line: ""},
		{line: " \t\r\n"},
		{line: "a b  c", want: []string{"a", "b", "c"}},
		{line: `"Mona the Octocat"`, want: []string{"Mona the Octocat"}},
		{line: `"Hello World"`, want: []string{"Hello World"}},
		{line: `sh -c 'echo "Hello World"'`, want: []string{"sh", "-c", `echo "Hello World"`}},
		{line: `sh -c 'echo '\''it'\'''`, want: []string{"sh", "-c", "echo 'it'"}},
		{line: `pwsh -command ". '/__w/_temp/x.ps1'"`, want: []string{"pwsh", "-command", ". '/__w/_temp/x.ps1'"}},
		{line: `'' ""a "" `, want: []string{"", "a", ""}},
		{line: `a#b # c`, want: []string{"a#b", "#", "c"}},
		{line: `$HOME ${A} $(b) *`, want: []string{"$HOME", "${A}", "$(b)", "*"}},
		{line: `a\ b \"c \\`, want: []string{"a b", `"c`, `\`}},
		{line: `"\$\"\\\a'"`, want: []string{`\$"\\a'`}},
		{line: `'\'`, want: []string{`\`}},
		{line: `x"y z"'w '`, want: []string{"xy zw "}},
		{line: "\u00a0\u2003", want: []string{"\u00a0\u2003"}},
		{line: `a;b|c&&d`, want: []string{"a;b|c&&d"}},
		{line: `'a`, err: ErrQuote},
		{line: `a "b`, err: ErrQuote},
		{line: `"\"`, err: ErrQuote},
		{line: `"\`, err: ErrQuote},
		{line: `a\`, err: ErrEscape},
	}
	for _, tt := range tests {
		got, err := Split(tt.line)
		if !errors.Is(err, tt.err) {
			t.Errorf("Split(%q) fails with %v, want %v", tt.line, err, tt.err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("Split(%q), -want +got:\n%s", tt.line, diff)
		}
	}
}

// FuzzSplit quotes the words that Split returns for a shell, and splits them again.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"a b", `"a b" 'c'`, `\`, `"\"`, "''"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Split(line)
		if err != nil {
			return
		}
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'"'"'`)+"'")
		}
		if again, err := Split(strings.Join(quoted, " ")); err != nil || !slices.Equal(again, words) {
			t.Errorf("Split(%q) is %q, but quoted %q, %v", line, words, again, err)
		}
	})
}
