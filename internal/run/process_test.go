package run

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStart(t *testing.T) {
	p, err := Start(t.Context(), Cmd{Args: []string{"sh", "-c", "exit 7"}, KillWithParent: true})
	if err != nil {
		t.Fatal(err)
	}

	var exit *ExitError
	if err := p.Wait(); !errors.As(err, &exit) || err.Error() != "sh failed with status 7" || p.Status() != 7 {
		t.Errorf("got %v, status %d; want status 7", err, p.Status())
	}
	if err := p.Signal(os.Interrupt); err != nil {
		t.Errorf("a signal after the end: %v", err)
	}
}

func TestStartNothing(t *testing.T) {
	_, err := Start(t.Context(), Cmd{Args: []string{"/no/such"}})
	if want := "fork/exec /no/such: no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestKillWithParent looks at the attributes: only the death of the test would
// show the effect. The caller's own attributes stay as they are.
func TestKillWithParent(t *testing.T) {
	given := &syscall.SysProcAttr{Setpgid: true}
	got := Cmd{Args: []string{"true"}, SysProcAttr: given, KillWithParent: true}.command(t.Context()).SysProcAttr
	if got.Pdeathsig != syscall.SIGKILL || !got.Setpgid {
		t.Errorf("got %+v", got)
	}
	if given.Pdeathsig != 0 {
		t.Errorf("the caller's attributes became %+v", given)
	}
}

// TestStop: a program that ignores SIGTERM is killed, at once or after a while.
func TestStop(t *testing.T) {
	for _, test := range []struct {
		summary string
		cmd     Cmd
	}{
		{summary: "killed after the wait", cmd: Cmd{WaitDelay: 10 * time.Millisecond}},
		{summary: "killed at once", cmd: Cmd{Kill: true, WaitDelay: -1}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			output, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer output.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()

			test.cmd.Args = []string{"sh", "-c", "trap '' TERM; echo ready; exec sleep 60"}
			test.cmd.Stdout = write
			p, err := Start(ctx, test.cmd)
			if err != nil {
				t.Fatal(err)
			}
			_ = write.Close()
			if _, err := output.Read(make([]byte, 16)); err != nil {
				t.Fatal(err)
			}

			cancel()
			if err := p.Wait(); !errors.Is(err, context.Canceled) || p.Status() != 128+int(syscall.SIGKILL) {
				t.Errorf("got %v, status %d", err, p.Status())
			}
		})
	}
}

func TestExtraFiles(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if _, err := write.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()

	out, err := Output(t.Context(), Local{}, Cmd{Args: []string{"sh", "-c", "cat <&3"}, ExtraFiles: []*os.File{read}})
	if err != nil || strings.TrimSpace(string(out)) != "hello" {
		t.Errorf("got %q, %v", out, err)
	}
}
