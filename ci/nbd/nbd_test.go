package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// memory is a disk in memory that notes its requests.
type memory struct {
	mu       sync.Mutex
	content  []byte
	requests []string
	broken   bool
}

func (m *memory) Size() int64 { return int64(len(m.content)) }

func (m *memory) ReadAt(p []byte, offset int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(p, m.content[offset:]), nil
}

func (m *memory) Apply(r Request) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return errors.New("broken")
	}
	m.requests = append(m.requests, fmt.Sprintf("%d %d+%d fua=%v", r.Kind, r.Offset, r.Length, r.FUA))
	switch r.Kind {
	case Write:
		copy(m.content[r.Offset:], r.Data)
	case Zero, Trim:
		clear(m.content[r.Offset : r.Offset+r.Length])
	}
	return nil
}

func serve(t *testing.T, device Device) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "nbd")
	s, err := Serve(socket, device)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return socket
}

func tool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skipf("no client to test with: %v; install the package qemu-utils", err)
	}
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// qemuIO has a client of QEMU run commands, qemu-io(1), in turn.
func qemuIO(t *testing.T, socket string, commands ...string) (string, error) {
	args := []string{"qemu-io", "-f", "raw", "-t", "writeback", "nbd+unix:///disk?socket=" + socket}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return tool(t, args...)
}

// TestRequests: each change that a client makes reaches the device as it is, flushes
// and FUA too.
func TestRequests(t *testing.T) {
	m := &memory{content: make([]byte, 1<<20)}
	out, err := qemuIO(t, serve(t, m), "write -P 65 512 1024", "flush", "write -f -P 66 4096 512",
		"write -z 512 512", "discard 8192 4096", "read -v 512 1024", "flush")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	want := make([]byte, 1<<20)
	copy(want[1024:], bytes.Repeat([]byte{65}, 512))
	copy(want[4096:], bytes.Repeat([]byte{66}, 512))
	if !bytes.Equal(m.content, want) {
		t.Error("the content differs from what was written")
	}
	if !strings.Contains(out, "00000400:  41 41") || !strings.Contains(out, "00000200:  00 00") {
		t.Errorf("the client read\n%s", out)
	}

	// The client flushes once more when it ends.
	got := m.requests
	wanted := []string{"1 512+1024 fua=false", "4 0+0 fua=false", "1 4096+512 fua=true", "2 512+512 fua=false",
		"3 8192+4096 fua=false", "4 0+0 fua=false"}
	if len(got) < len(wanted) || !cmp.Equal(got[:len(wanted)], wanted) {
		t.Errorf("requests: %s", cmp.Diff(wanted, got))
	}
}

// TestManyRequests copies a file with many requests under way, and compares it.
func TestManyRequests(t *testing.T) {
	m := &memory{content: make([]byte, 8<<20)}
	socket := serve(t, m)
	file := filepath.Join(t.TempDir(), "file")
	content := make([]byte, len(m.content))
	for i := range content {
		content[i] = byte(i>>9) + byte(i)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	url := "nbd+unix:///disk?socket=" + socket

	if out, err := tool(t, "qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", file, url); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.mu.Lock()
	equal := bytes.Equal(m.content, content)
	m.mu.Unlock()
	if !equal {
		t.Error("the content differs from the file's")
	}
	if out, err := tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", file, url); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	m.mu.Lock()
	m.content[5<<20] ^= 1
	m.mu.Unlock()
	if out, err := tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", file, url); err == nil {
		t.Errorf("a client finds another content equal: %s", out)
	}
}

// TestErrors: a device that fails, and a request beyond its end.
func TestErrors(t *testing.T) {
	m := &memory{content: make([]byte, 1<<20)}
	socket := serve(t, m)
	if out, _ := qemuIO(t, socket, "write 2M 512"); !strings.Contains(out, "Input/output error") &&
		!strings.Contains(out, "beyond") {
		t.Errorf("a write beyond the end: %s", out)
	}
	m.mu.Lock()
	m.broken = true
	m.mu.Unlock()
	if out, _ := qemuIO(t, socket, "write 0 512"); !strings.Contains(out, "write failed: Input/output error") {
		t.Errorf("a write to a broken device: %s", out)
	}
}

// TestAnswered: a flush that comes before the answer to a write does not promise
// the write.
func TestAnswered(t *testing.T) {
	s := &Server{device: &memory{content: make([]byte, 1<<20)}}
	requests := make(chan call, 2)
	var in bytes.Buffer
	for _, command := range []uint16{commandWrite, commandFlush} {
		length := uint32(0)
		if command == commandWrite {
			length = SectorSize
		}
		if err := writeAll(&in, uint32(magicRequest), uint16(0), command, uint64(1), uint64(0), length,
			make([]byte, length)); err != nil {
			t.Fatal(err)
		}
	}

	stop := make(chan struct{})
	defer close(stop)
	ended := make(chan error, 1)
	go func() { ended <- s.receive(&in, requests, stop) }()
	write := <-requests
	flush := <-requests // read before the write is answered
	if write.Kind != Write || flush.Kind != Flush || flush.Answered != 0 {
		t.Errorf("got %+v and %+v, want a flush of nothing", write.Request, flush.Request)
	}
	if err := <-ended; err == nil {
		t.Error("the end of the connection is no error")
	}
}
