package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/ci/protocol"
)

// TestStopWorker: a worker that does not obey a message is signalled three times,
// the last time without a choice.
func TestStopWorker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	worker := "#!/bin/bash\ntrap 'echo SIGINT' INT\ntrap 'echo SIGTERM' TERM\ntouch ready\nwhile :; do sleep 0.1; done\n"
	if err := os.WriteFile(filepath.Join(dir, "Runner.Worker"), []byte(worker), 0o755); err != nil {
		t.Fatal(err)
	}
	j := &runningJob{message: "{}", stop: make(chan stopRequest, 2)}
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
				j.requestStop(stopRequest{protocol.CancelRequest, time.Second})
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()

	started := time.Now()
	status, output := j.runWorker(dir)
	if diff := cmp.Diff("SIGINT\nSIGTERM", output); diff != "" || status != 128+9 {
		t.Errorf("status %d, output (-want +got):\n%s", status, diff)
	}
	if took := time.Since(started); took < time.Second+afterInterrupt+afterTerminate {
		t.Errorf("it took %v", took)
	}
}
