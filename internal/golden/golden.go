// Package golden holds what programs print against files in testdata, so that a
// change of words is one change. "go test -update" rewrites the files; the diff
// is to be read.
package golden

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// Check fails t if got is not the content of testdata/NAME.
func Check(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s, -want +got:\n%s\nrun the test with -update if that is meant", file, diff)
	}
}

// Messages is a file of messages, a line each, as "KEY: MESSAGE". Keys hold no
// colon. Use NewMessages.
type Messages struct {
	path string
	want map[string]string
	keys []string // those checked, in order
	got  map[string]string
}

// NewMessages reads testdata/NAME. At the end of t it writes the file if -update
// is given; else it fails t for messages in the file that nothing has checked.
func NewMessages(t *testing.T, name string) *Messages {
	t.Helper()
	m := &Messages{path: filepath.Join("testdata", name), want: map[string]string{}, got: map[string]string{}}
	if path, err := filepath.Abs(m.path); err != nil {
		t.Fatal(err)
	} else {
		m.path = path // tests change the directory
	}

	content, err := os.ReadFile(m.path)
	if err != nil && !*update {
		t.Fatalf("%v: run the test with -update", err)
	}
	for line := range strings.Lines(string(content)) {
		key, message, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		m.want[key] = message
	}

	t.Cleanup(func() { m.finish(t) })
	return m
}

// Check fails t if message is not the one that the file has for key. It must not
// run in parallel with another call.
func (m *Messages) Check(t *testing.T, key, message string) {
	t.Helper()
	if strings.Contains(message, "\n") || strings.Contains(key, ":") || m.got[key] != "" {
		t.Fatalf("want one line and a key of its own without a colon, got %q for %q", message, key)
	}

	m.keys = append(m.keys, key)
	m.got[key] = message
	if want := m.want[key]; message != want && !*update {
		t.Errorf("got  %s\nwant %s", message, want)
	}
}

func (m *Messages) finish(t *testing.T) {
	if run := flag.Lookup("test.run"); run.Value.String() != "" && !*update {
		return // only some of the tests have run
	}

	if !*update {
		for key := range m.want {
			if !slices.Contains(m.keys, key) {
				t.Errorf("%s: no test has %q", m.path, key)
			}
		}
		return
	}

	var text strings.Builder
	for _, key := range m.keys {
		fmt.Fprintf(&text, "%s: %s\n", key, m.got[key])
	}
	if err := os.WriteFile(m.path, []byte(text.String()), 0o644); err != nil {
		t.Error(err)
	}
}
