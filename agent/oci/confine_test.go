package oci

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// unpackVerb is that of the external tests, whose TestMain this program has.
const unpackVerb = "unpack-a-layer"

// TestUnpackerIsConfined looks at an unpacking process that waits for its layer.
func TestUnpackerIsConfined(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("changing the owners of files needs root")
	}
	root := filepath.Join(t.TempDir(), "root")
	s := &Store{Owner: 1 << 20, Unpacker: []string{unpackVerb}}
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(root, s.Owner, s.Owner); err != nil {
		t.Fatal(err)
	}

	layer, end := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := s.runUnpacker(t.Context(), root, layer, 1)
		done <- err
	}()
	defer func() {
		_ = end.CloseWithError(io.EOF)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	// It is confined once it has left the host's file system.
	var pid string
	for deadline := time.Now().Add(10 * time.Second); pid == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("there is no process with the tree as its root directory and a filter")
		}
		links, err := filepath.Glob("/proc/[0-9]*/root")
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil && to == root && strings.Contains(statusOf(link), " Seccomp: 2 ") {
				pid = filepath.Base(filepath.Dir(link))
			}
		}
	}

	status := statusOf(filepath.Join("/proc", pid, "root"))
	id := "1048576"
	for _, want := range []string{
		"Uid: " + id + " " + id + " " + id + " " + id, "NoNewPrivs: 1", "Seccomp_filters: 1 ",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("the status lacks %q:\n%s", want, status)
		}
	}
	if score, err := os.ReadFile(fmt.Sprintf("/proc/%s/oom_score_adj", pid)); err != nil || string(score) != "500\n" {
		t.Errorf("the OOM score adjustment is %s, %v", score, err)
	}
}

// statusOf returns the status of a process, by its file root, with single blanks.
func statusOf(root string) string {
	status, _ := os.ReadFile(filepath.Join(filepath.Dir(root), "status")) // it may have ended
	return strings.Join(strings.Fields(string(status)), " ")
}
