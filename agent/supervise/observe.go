package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// workerName begins the name of a worker's process: the relay's, and that of the
// real worker where the relay became it. The kernel keeps 15 bytes.
const workerName = "Runner.Worker"

// hasWorker reports whether a process has a child that is a worker, proc(5). It
// needs no option of the kernel, and sees only processes of the same user.
func hasWorker(parent int) bool {
	dir, err := os.Open("/proc")
	if err != nil {
		return false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return false
	}

	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", name, "stat"))
		if err == nil && isWorkerOf(stat, parent) {
			return true
		}
	}
	return false
}

// isWorkerOf reports whether stat, /proc/PID/stat, is of a worker and child of
// parent that runs: "PID (NAME) STATE PPID ...". A name can contain anything.
func isWorkerOf(stat []byte, parent int) bool {
	from, to := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if from < 0 || to < from || !bytes.HasPrefix(stat[from+1:to], []byte(workerName)) {
		return false
	}
	fields := strings.Fields(string(stat[to+1:]))
	if len(fields) < 2 || fields[0] == "Z" || fields[0] == "X" {
		return false
	}
	ppid, err := strconv.Atoi(fields[1])
	return err == nil && ppid == parent
}

// Lines of the listener's log, of actions/runner 2.336.0: BrokerMessageListener.cs
// and MessageListener.cs for the first, Runner.cs for the second, and
// BrokerMessageListener.cs for the last, at the end of a job.
var (
	messageReceived = regexp.MustCompile(`(?m)^\[\S+ \S+ INFO \w*MessageListener\] Message '\d+' received`)
	messageDropped  = regexp.MustCompile(`(?m)^\[\S+ \S+ (INFO|ERR ) Runner\] ` +
		`(Skipping message Job|Skip message deletion|Caught exception from acquiring job message)`)
	jobOver = regexp.MustCompile(`(?m)^\[\S+ \S+ INFO \w*MessageListener\] ` +
		`Received job status event\. JobState: Online`)
)

// logTail is how much of the listener's log is read, in bytes. A listener that
// waits writes a few lines in a minute.
const logTail = 64 << 10

// pendingMessage names the last message that the listener has read, if it was not
// dropped and its job, if it is one, is not over, by the newest log in diag. It
// returns "" without one. Messages of other kinds count too: nothing shows when
// they are done with.
func pendingMessage(diag string) string {
	name, from, log, err := newestLog(diag)
	if err != nil {
		return "" // nothing can be known; the window is a few round trips
	}
	received := lastMatch(messageReceived, log)
	if received <= max(lastMatch(messageDropped, log), lastMatch(jobOver, log)) {
		return ""
	}
	return fmt.Sprintf("%s:%d", name, from+int64(received))
}

// newestLog returns the name of the newest log of a listener, and its end, from
// an offset on. Names contain the time of their start.
func newestLog(diag string) (name string, from int64, end []byte, err error) {
	names, err := filepath.Glob(filepath.Join(diag, "Runner_*-utc.log"))
	if err != nil || len(names) == 0 {
		return "", 0, nil, errors.Join(os.ErrNotExist, err)
	}
	name = names[len(names)-1] // Glob sorts
	f, err := os.Open(name)
	if err != nil {
		return "", 0, nil, err
	}
	defer f.Close()

	st, err := f.Stat()
	if err != nil {
		return "", 0, nil, err
	}
	from = max(0, st.Size()-logTail)
	end, err = io.ReadAll(io.NewSectionReader(f, from, logTail))
	return name, from, end, err
}

// lastMatch returns where the last match of a pattern begins, or -1.
func lastMatch(pattern *regexp.Regexp, text []byte) int {
	all := pattern.FindAllIndex(text, -1)
	if len(all) == 0 {
		return -1
	}
	return all[len(all)-1][0]
}
