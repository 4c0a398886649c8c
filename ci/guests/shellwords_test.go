package guests

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/shellwords"
	"github.com/mkappliance/mkappliance/internal/golden"
)

// shellLines is the file that the unit test of agent/shellwords reads.
const shellLines = "../../agent/shellwords/testdata/lines.json"

// shellLine is a command line with the words that the reference makes of it.
type shellLine struct {
	Line  string   `json:"line"`
	Words []string `json:"words"` // nil for an error
}

// TestShellWords compares how command lines are split with the package from npm
// that GitHub's reference hooks use: 200,000 random lines, and those of shellLines,
// which it writes with -update.
func TestShellWords(t *testing.T) {
	if os.Getenv("MKAPPLIANCE_TEST_BASE") == "" {
		t.Skip("npm needs a network: run it through 'make test'")
	}
	recorded := readShellLines(t)
	lines := make([]string, 0, 200_000+len(recorded))
	for _, l := range recorded {
		lines = append(lines, l.Line)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for len(lines) < cap(lines) {
		lines = append(lines, randomLine(random))
	}

	want := splitByPeer(t, lines)
	for i := range recorded {
		recorded[i].Words = want[i]
	}
	golden.Check(t, "../"+shellLines, renderShellLines(t, recorded))

	failed, words := 0, 0
	for i, line := range lines {
		got, err := shellwords.Split(line)
		if err == nil && got == nil {
			got = []string{}
		}
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Fatalf("Split(%q) fails with %v, -want +got:\n%s", line, err, diff)
		}
		if err != nil {
			failed++
		}
		words += len(got)
	}
	// Lines that are nothing but errors, or empty, would compare nothing.
	if failed > len(lines)*3/4 || words < len(lines)/2 {
		t.Errorf("of %d lines %d fail, and the others have %d words", len(lines), failed, words)
	}
}

// randomLine returns a line in which quotes, escapes and what follows them are as
// frequent as letters.
func randomLine(r *rand.Rand) string {
	parts := []string{
		"a", "E", "0", "7", "f", "x", "u", "U", "c", "n", "?", "$", "'", `"`, `\`, " ", "\n", "\t", "\r", "#", "é", "😀",
		"$'", `$"`, "\\\n", `\x`, `\u`, `\c`, `'`, `"`, " ", "-", "=", "\u2028", "\u00a0",
	}
	var b strings.Builder
	for range 1 + r.IntN(14) {
		b.WriteString(parts[r.IntN(len(parts))])
	}
	return b.String()
}

// splitByPeer returns the words of each line, nil for one with an error.
func splitByPeer(t *testing.T, lines []string) [][]string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/shlex")); err != nil {
		t.Fatal(err)
	}
	npm := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}

	input, err := json.Marshal(lines)
	if err != nil {
		t.Fatal(err)
	}
	node := exec.CommandContext(t.Context(), "node", "split.js")
	node.Dir, node.Stdin, node.Stderr = dir, bytes.NewReader(input), os.Stderr
	out, err := node.Output()
	if err != nil {
		t.Fatalf("node: %v", err)
	}
	var words [][]string
	if err := json.Unmarshal(out, &words); err != nil || len(words) != len(lines) {
		t.Fatalf("the peer answers for %d of %d lines: %v", len(words), len(lines), err)
	}
	return words
}

func readShellLines(t *testing.T) []shellLine {
	t.Helper()
	data, err := os.ReadFile(shellLines)
	if err != nil {
		t.Fatal(err)
	}
	var lines []shellLine
	if err := json.Unmarshal(data, &lines); err != nil {
		t.Fatal(err)
	}
	return lines
}

// renderShellLines writes one entry a line, for diffs.
func renderShellLines(t *testing.T, lines []shellLine) string {
	t.Helper()
	var entries []string
	for _, l := range lines {
		var entry bytes.Buffer
		encoder := json.NewEncoder(&entry)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(l); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, strings.TrimSpace(entry.String()))
	}
	return "[\n" + strings.Join(entries, ",\n") + "\n]\n"
}
