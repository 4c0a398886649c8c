package miniworker

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSplitDotNet has the examples of Environment.GetCommandLineArgs in the
// documentation of .NET, and what the worker writes.
func TestSplitDotNet(t *testing.T) {
	for _, test := range []struct {
		line string
		want []string
	}{
		{line: "", want: nil},
		{line: "  a \t b  ", want: []string{"a", "b"}},
		{line: `"a b" c`, want: []string{"a b", "c"}},
		{line: `a"b c"d`, want: []string{"ab cd"}},
		{line: `"" x`, want: []string{"", "x"}},
		{line: `a\\b d"e f"g h`, want: []string{`a\\b`, "de fg", "h"}},
		{line: `a\\\"b c d`, want: []string{`a\"b`, "c", "d"}},
		{line: `a\\\\"b c" d e`, want: []string{`a\\b c`, "d", "e"}},
		{line: `"a""b"`, want: []string{`a"b`}},
		{line: `'a b'`, want: []string{"'a", "b'"}},
		{line: `-v "/w":"/__w":ro`, want: []string{"-v", "/w:/__w:ro"}},
		{line: "-e " + escape(`A=it is "so" \`), want: []string{"-e", `A=it is "so" \`}},
		{line: "-e " + escape(`A=\"`), want: []string{"-e", `A=\"`}},
	} {
		if diff := cmp.Diff(test.want, splitDotNet(test.line)); diff != "" {
			t.Errorf("%s\n-want +got:\n%s", test.line, diff)
		}
	}
}
