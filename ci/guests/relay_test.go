package guests

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"
)

// messageWorker stands for the worker where a real relay passes on what a listener
// says: it takes one message of the listener, and becomes the script in it.
const messageWorker = `#!/usr/bin/python3
import json, os, struct, sys
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(3, size - len(data))
    return data
kind, size = struct.unpack("<ii", read(8))
message = json.loads(read(size).decode("utf-16-le"))
assert sys.argv[1:] == ["spawnclient", "3", "4"] and kind == 1
os.execvp("bash", ["bash", "-c", message["script"]])
`

// relayed is a job whose worker a listener has started as the image has it: the
// relay in the place of bin/Runner.Worker.
type relayed struct {
	*lab
	process *exec.Cmd
	pipe    *os.File // to the worker
	out     *markWriter
}

// relay starts a job whose steps are a script, with a service named db.
func (l *lab) relay(script, mark string) *relayed {
	l.Helper()
	body, err := json.Marshal(map[string]any{
		"jobDisplayName": "build", "script": script,
		"jobServiceContainers": map[string]any{"type": 2, "map": []any{map[string]any{
			"Key":   "db",
			"Value": map[string]any{"type": 2, "map": []any{map[string]any{"Key": "image", "Value": "debian:13"}}},
		}}},
	})
	if err != nil {
		l.Fatal(err)
	}
	return l.relayMessage([]byte(messageWorker), string(body), mark)
}

// relayMessage starts a job by its message, which a program that stands for the
// worker reads.
func (l *lab) relayMessage(worker []byte, message, mark string) *relayed {
	l.Helper()
	program := l.path("Runner.Worker")
	relay, err := os.ReadFile(l.path("runner-shim"))
	if err != nil {
		l.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(program, relay, 0o755),
		os.WriteFile(l.path("runner/bin/Runner.Worker"), worker, 0o755),
	); err != nil {
		l.Fatal(err)
	}
	toWorker, pipe, err := os.Pipe()
	if err != nil {
		l.Fatal(err)
	}
	unused, fromWorker, err := os.Pipe()
	if err != nil {
		l.Fatal(err)
	}

	// The relay knows one path of the broker's socket.
	id := strconv.Itoa(runnerID)
	cmd := exec.CommandContext(l.Context(), "unshare", "--mount", "sh", "-ec",
		`mount -t tmpfs tmpfs /run; mkdir /run/runner; ln -s "$1" /run/runner/guest.sock
		exec setpriv --reuid "$3" --regid "$3" --clear-groups "$2" spawnclient 3 4`,
		"sh", l.client.Socket, program, id)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "RUNNER_JOBS=guest", "HOME=/host", "GITHUB_ACTIONS=true"}
	out := &markWriter{mark: mark, seen: make(chan struct{})}
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{toWorker, fromWorker}, out, out
	if err := cmd.Start(); err != nil {
		l.Fatal(err)
	}
	for _, end := range []*os.File{toWorker, fromWorker, unused} {
		_ = end.Close()
	}
	if _, err := pipe.Write(frame(1, message)); err != nil {
		l.Fatal(err)
	}
	return &relayed{lab: l, process: cmd, pipe: pipe, out: out}
}

// frame is a message of the listener.
func frame(kind uint32, body string) []byte {
	units := utf16.Encode([]rune(body))
	data := binary.LittleEndian.AppendUint32(nil, kind)
	data = binary.LittleEndian.AppendUint32(data, uint32(2*len(units)))
	for _, u := range units {
		data = binary.LittleEndian.AppendUint16(data, u)
	}
	return data
}

// relayTime is how long a test waits for the end of a job.
const relayTime = time.Minute

// wait waits for the relay's end and returns its exit status, -1 after a signal.
func (r *relayed) wait() int {
	r.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.process.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(relayTime):
		r.Fatalf("the relay does not end:\n%s", &r.out.text)
	}
	_ = r.pipe.Close()
	return r.process.ProcessState.ExitCode()
}

// TestRelay runs jobs the whole way: listener's pipe, relay, broker, guest, hook.
func TestRelay(t *testing.T) {
	l := newLab(t)
	l.run("Job", (*lab).relayJob)
	l.run("Cancel", (*lab).relayCancel)
	l.run("Killed", func(l *lab) {
		l.relayEnds(func(r *relayed) { _ = r.process.Process.Kill() })
	})
	l.run("Listener", func(l *lab) {
		l.relayEnds(func(r *relayed) { _ = r.pipe.Close() })
	})
}

// relayJob: a service has the workflow's name, and the status comes back.
func (l *lab) relayJob() {
	prepare := payload("prepare_job", map[string]any{"services": []any{webServer("debian:13", "8000")}}, "")
	r := l.relay(hookScript+"hook "+quote(prepare)+` || exit 1
		curl -fsS -m 5 -o /dev/null http://db:8000/ && echo reached
		echo $HOME; exit 102`, "reached")
	if status := r.wait(); status != 102 || !strings.HasSuffix(r.out.text.String(), "reached\n/home/runner\n") {
		l.Errorf("got status %d:\n%s", status, &r.out.text)
	}
	if !strings.Contains(l.log(), `msg="job described" job=`) || !strings.Contains(l.log(), "name=build services=1") {
		l.Errorf("the journal does not name the job:\n%s", l.log())
	}
	l.noResidue()
}

// relayCancel: a later message reaches the worker, and so does a signal.
func (l *lab) relayCancel() {
	r := l.relay(`trap "exit 103" INT; echo ready; head -c 8 <&3 | od -An -tx1; echo ready2; sleep 60 & wait`, "ready2")
	if _, err := r.pipe.Write(frame(2, "")); err != nil {
		l.Fatal(err)
	}
	select {
	case <-r.out.seen:
	case <-time.After(20 * time.Second):
		l.Errorf("the message did not arrive:\n%s", &r.out.text)
	}
	_ = r.process.Process.Signal(syscall.SIGINT)
	if status := r.wait(); status != 103 || !bytes.Contains(r.out.text.Bytes(), []byte("02 00 00 00 00 00 00 00")) {
		l.Errorf("got status %d:\n%s", status, &r.out.text)
	}
	l.noResidue()
}

// relayEnds: nothing of a job is left whose relay or listener is gone.
func (l *lab) relayEnds(end func(*relayed)) {
	r := l.relay("echo ready; sleep 4321", "ready")
	select {
	case <-r.out.seen:
	case <-time.After(20 * time.Second):
		l.Fatalf("the job did not start:\n%s", &r.out.text)
	}
	end(r)
	l.Logf("the relay ended with %d", r.wait())
	l.eventually("the broker is done", func() bool { left, _ := os.ReadDir(l.path("jobs")); return len(left) == 0 })
	l.noResidue()
	l.noSleepers()
	next := l.relay("exit 100", "-")
	if status := next.wait(); status != 100 {
		l.Errorf("the next job ended with %d:\n%s", status, &next.out.text)
	}
}
