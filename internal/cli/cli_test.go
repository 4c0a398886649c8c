package cli

import (
	"bytes"
	"errors"
	"testing"

	"github.com/spf13/cobra"
)

func TestRun(t *testing.T) {
	for _, test := range []struct {
		summary string
		want    []string // of Args
		args    []string
		work    error
		status  int
		stderr  string
	}{
		{summary: "done", args: []string{"verb"}, status: 0},
		{summary: "failed", args: []string{"verb"}, work: errors.New("cannot work"), status: 1,
			stderr: "program: error: cannot work\n"},
		{summary: "usage", args: []string{"verb"}, work: Usage(errors.New("cannot use file")), status: 2,
			stderr: "program: error: cannot use file\n"},
		{summary: "passed on", args: []string{"verb"}, work: &StatusError{Status: 7, Err: errors.New("quiet"), Quiet: true},
			status: 7},
		{summary: "unknown verb", args: []string{"vreb"}, status: 2,
			stderr: "program: error: unknown command \"vreb\" for \"program\"\n\nDid you mean this?\n\tverb\n\n"},
		{summary: "unknown flag", args: []string{"verb", "--flag"}, status: 2,
			stderr: "program: error: unknown flag: --flag (see 'program verb --help')\n"},
		{summary: "missing argument", want: []string{"IMAGE", "FILE"}, args: []string{"verb", "a"}, status: 2,
			stderr: "program: error: missing argument: want IMAGE FILE (see 'program verb --help')\n"},
		{summary: "extra argument", want: []string{"IMAGE"}, args: []string{"verb", "a", "b"}, status: 2,
			stderr: "program: error: unexpected argument \"b\": want IMAGE (see 'program verb --help')\n"},
		{summary: "no argument wanted", args: []string{"verb", "a"}, status: 2,
			stderr: "program: error: unexpected argument \"a\": want none (see 'program verb --help')\n"},
		{summary: "open end", want: []string{"COMMAND..."}, args: []string{"verb", "a", "b"}, status: 0},
		{summary: "open end, none", want: []string{"COMMAND..."}, args: []string{"verb"}, status: 2,
			stderr: "program: error: missing argument: want COMMAND... (see 'program verb --help')\n"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			root := &cobra.Command{Use: "program"}
			root.AddCommand(&cobra.Command{
				Use:  "verb",
				Args: Args(test.want...),
				RunE: func(*cobra.Command, []string) error { return test.work },
			})
			var stderr bytes.Buffer
			status := Run(t.Context(), root, test.args, &stderr)
			if status != test.status || stderr.String() != test.stderr {
				t.Errorf("got status %d and\n%q\nwant %d and\n%q", status, stderr.String(), test.status, test.stderr)
			}
		})
	}
}
