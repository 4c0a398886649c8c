package run

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestLocal(t *testing.T) {
	for _, test := range []struct {
		summary string
		args    []string
		stdin   string
		stdout  string
		err     string
	}{{
		summary: "output is captured",
		args:    []string{"cat"}, stdin: "hello", stdout: "hello",
	}, {
		summary: "exit status and the end of standard error are in the error",
		args:    []string{"sh", "-c", "echo one >&2; echo two >&2; exit 7"},
		err:     "sh failed with status 7: one\ntwo",
	}, {
		summary: "a signal counts as 128 plus its number",
		args:    []string{"sh", "-c", "kill -KILL $$"},
		err:     "sh failed with status 137",
	}, {
		summary: "a missing tool is named",
		args:    []string{"/nonexistent/tool"},
		err:     "cannot run tool: fork/exec /nonexistent/tool: no such file or directory",
	}, {
		summary: "no arguments",
		err:     "cannot run command: empty argument vector",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			out, err := Output(t.Context(), Local{}, Cmd{Args: test.args, Stdin: strings.NewReader(test.stdin)})
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != test.err || string(out) != test.stdout {
				t.Errorf("got output %q, error %q; want %q, %q", out, got, test.stdout, test.err)
			}
		})
	}
}

func TestLocalCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()

	start := time.Now()
	err := Local{}.Exec(ctx, Cmd{Args: []string{"sleep", "60"}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a deadline error", err)
	}
	if time.Since(start) > 30*time.Second {
		t.Error("the tool was not stopped")
	}
}
