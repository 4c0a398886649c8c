package broker

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/agent/workroot"
)

// Bounds of the logs of workers that are kept: of one file and of all in bytes,
// of their age, and of how many files one job may leave, and all together.
const (
	maxLogSize  = 8 << 20
	maxLogsSize = 64 << 20
	maxLogAge   = 14 * 24 * time.Hour
	maxLogs     = 4
	maxAllLogs  = 1000
)

// logKeeper keeps the logs of a worker.
type logKeeper struct {
	from workroot.Root // where the job wrote them, and anything else
	to   string        // root's directory; "" to keep none
	job  string        // id of the job, of which the names of its logs have a part
	log  *slog.Logger
}

// logPattern is what the worker calls its log, keptPattern what it is called where
// it is kept: a job chooses the names of its files, and must not replace another's.
var (
	logPattern  = regexp.MustCompile(`^Worker_[0-9]{8}-[0-9]{6}-utc\.log$`)
	keptPattern = regexp.MustCompile(`^Worker_[0-9]{8}-[0-9]{6}-utc-[0-9a-f]{8}\.log$`)
)

func (k logKeeper) keptName(name string) string {
	return fmt.Sprintf("%s-%s.log", strings.TrimSuffix(name, ".log"), k.job[:8])
}

// keep copies the logs, and removes older ones until the bounds hold. A log that
// cannot be kept does not keep the job from its end.
func (k logKeeper) keep() {
	if k.to == "" {
		return
	}
	if err := k.copyAndPrune(); err != nil {
		k.log.Warn("cannot keep the log of a worker", "error", err)
	}
}

func (k logKeeper) copyAndPrune() error {
	if err := os.MkdirAll(k.to, 0o750); err != nil {
		return err
	}
	to, err := os.OpenRoot(k.to)
	if err != nil {
		return err
	}
	defer to.Close()

	names, err := logNames(k.from)
	for _, name := range names {
		err = errors.Join(err, k.copy(to, name))
	}
	return errors.Join(err, prune(to))
}

// logNames returns the names of the newest logs in a directory.
func logNames(source workroot.Root) ([]string, error) {
	dir, err := os.Open(source.Path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()

	// A job may have left any number of files.
	var names []string
	for {
		some, err := dir.Readdirnames(1024)
		for _, name := range some {
			if logPattern.MatchString(name) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		names = names[max(0, len(names)-maxLogs):]
		if errors.Is(err, io.EOF) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// copy copies the end of a log.
func (k logKeeper) copy(to *os.Root, name string) error {
	in, err := k.from.OpenFile(name)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if _, err := in.Seek(max(0, info.Size()-maxLogSize), io.SeekStart); err != nil {
		return err
	}

	out, err := to.OpenFile(k.keptName(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, maxLogSize))
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("cannot copy %s: %w", name, err)
	}
	return nil
}

// prune removes the oldest logs.
func prune(dir *os.Root) error {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return err
	}
	var logs []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && keptPattern.MatchString(e.Name()) {
			logs = append(logs, info)
		}
	}
	slices.SortFunc(logs, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })

	var size int64
	for i, log := range logs {
		size += log.Size()
		if i >= maxAllLogs || size > maxLogsSize || time.Since(log.ModTime()) > maxLogAge {
			err = errors.Join(err, dir.Remove(log.Name()))
		}
	}
	return err
}
