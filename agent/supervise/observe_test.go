package supervise

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHasWorker(t *testing.T) {
	worker := filepath.Join(t.TempDir(), "Runner.Worker.real")
	program, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(worker, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if hasWorker(os.Getpid()) {
		t.Error("has one before it is started")
	}

	cmd := exec.Command(worker, "30")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !hasWorker(os.Getpid()) {
		t.Error("does not see it")
	}
	if hasWorker(os.Getppid()) {
		t.Error("takes it for another process's")
	}
	_ = cmd.Process.Kill()
	for deadline := time.Now().Add(10 * time.Second); hasWorker(os.Getpid()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("sees one that has ended and was not waited for")
		}
	}
	_ = cmd.Wait()
}

func TestIsWorkerOf(t *testing.T) {
	tests := []struct {
		summary, stat string
		want          bool
	}{
		{summary: "relay", stat: "12 (Runner.Worker) S 7 12 12", want: true},
		{summary: "real worker", stat: "12 (Runner.Worker.r) R 7 12 12", want: true},
		{summary: "another's", stat: "12 (Runner.Worker) S 8 12 12"},
		{summary: "ended", stat: "12 (Runner.Worker) Z 7 12 12"},
		{summary: "another program", stat: "12 (node) S 7 12 12"},
		{summary: "a name that reads like more", stat: "12 (x (Runner.Worker) S 7) S 7 12"},
		{summary: "cut off", stat: "12 (Runner.Worker"},
		{summary: "empty"},
	}
	for _, tt := range tests {
		if got := isWorkerOf([]byte(tt.stat), 7); got != tt.want {
			t.Errorf("%s: got %t", tt.summary, got)
		}
	}
}

// Lines as actions/runner 2.336.0 writes them.
const (
	logReceived = "[2026-11-24 08:22:24Z INFO BrokerMessageListener] Message '5' received.\n"
	logBusy     = "[2026-11-24 08:22:24Z INFO BrokerMessageListener] Received job status event. JobState: Busy\n"
	logOnline   = "[2026-11-24 08:22:26Z INFO BrokerMessageListener] Received job status event. JobState: Online\n"
	logSkipped  = "[2026-11-24 08:22:24Z INFO Runner] Skipping message Job. Not found\n"
	logFailed   = "[2026-11-24 08:22:24Z ERR  Runner] Caught exception from acquiring job message: x\n"
	logOther    = "[2026-11-24 08:22:24Z INFO Terminal] WRITE LINE: Message '5' received.\n"
)

func TestPendingMessage(t *testing.T) {
	tests := []struct {
		summary string
		log     []string
		want    bool // one is pending
	}{
		{summary: "nothing yet", log: []string{logOther}},
		{summary: "received", log: []string{logReceived}, want: true},
		{summary: "acquired, not started", log: []string{logReceived, logBusy, logOther}, want: true},
		{summary: "job over", log: []string{logReceived, logBusy, logOnline}},
		{summary: "next one", log: []string{logReceived, logBusy, logOnline, logReceived}, want: true},
		{summary: "skipped", log: []string{logReceived, logSkipped}},
		{summary: "not acquired", log: []string{logReceived, logFailed}},
		{summary: "long ago", log: []string{logReceived, strings.Repeat(logOther, logTail/len(logOther)+1)}},
	}
	for _, tt := range tests {
		diag := t.TempDir()
		for name, text := range map[string]string{
			"Runner_20261124-082220-utc.log": strings.Join(tt.log, ""),
			"Runner_20261123-082220-utc.log": logReceived,
			"Worker_20261125-082220-utc.log": logReceived,
		} {
			if err := os.WriteFile(filepath.Join(diag, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := pendingMessage(diag); (got != "") != tt.want {
			t.Errorf("%s: got %q", tt.summary, got)
		}
	}
	if got := pendingMessage(filepath.Join(t.TempDir(), "none")); got != "" {
		t.Errorf("no log: got %q", got)
	}
}

// TestPendingMessagesDiffer: also where the log is longer than what is read.
func TestPendingMessagesDiffer(t *testing.T) {
	diag := t.TempDir()
	path := filepath.Join(diag, "Runner_20261124-082220-utc.log")
	text := strings.Repeat(logOther, logTail/len(logOther)+1)
	var seen []string
	for range 3 {
		text += logReceived
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, pendingMessage(diag))
		text += logOther
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := pendingMessage(diag); got != seen[len(seen)-1] {
			t.Errorf("one message is %q and then %q", seen[len(seen)-1], got)
		}
	}
	if seen[0] == seen[1] || seen[1] == seen[2] {
		t.Errorf("messages are %q", seen)
	}
}
