package shellwords

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestSplit has the answers of Python 3's shlex.split.
func TestSplit(t *testing.T) {
	tests := []struct {
		line string
		want []string
		err  error
	}{
		{"", nil, nil},
		{" \t\r\n", nil, nil},
		{"a b  c", []string{"a", "b", "c"}, nil},
		{`"Mona the Octocat"`, []string{"Mona the Octocat"}, nil},
		{`"Hello World"`, []string{"Hello World"}, nil},
		{`sh -c 'echo "Hello World"'`, []string{"sh", "-c", `echo "Hello World"`}, nil},
		{`sh -c 'echo '\''it'\'''`, []string{"sh", "-c", "echo 'it'"}, nil},
		{`pwsh -command ". '/__w/_temp/x.ps1'"`, []string{"pwsh", "-command", ". '/__w/_temp/x.ps1'"}, nil},
		{`'' ""a "" `, []string{"", "a", ""}, nil},
		{`a#b # c`, []string{"a#b", "#", "c"}, nil},
		{`$HOME ${A} $(b) *`, []string{"$HOME", "${A}", "$(b)", "*"}, nil},
		{`a\ b \"c \\`, []string{"a b", `"c`, `\`}, nil},
		{`"\$\"\\\a'"`, []string{`\$"\\a'`}, nil},
		{`'\'`, []string{`\`}, nil},
		{`x"y z"'w '`, []string{"xy zw "}, nil},
		{"\u00a0\u2003", []string{"\u00a0\u2003"}, nil},
		{`a;b|c&&d`, []string{"a;b|c&&d"}, nil},
		{`'a`, nil, ErrQuote},
		{`a "b`, nil, ErrQuote},
		{`"\"`, nil, ErrQuote},
		{`"\`, nil, ErrQuote},
		{`a\`, nil, ErrEscape},
	}
	for _, tt := range tests {
		if got, err := Split(tt.line); !errors.Is(err, tt.err) || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("Split(%q) is %q, %v; want %q, %v", tt.line, got, err, tt.want, tt.err)
		}
	}
}

// FuzzSplit quotes what came out, as a shell takes it, and splits it again.
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
