package supervise

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Deadline returns the day on which GitHub stops to serve a version of the
// actions runner, as a text announces it: "Runner Version 2.332.0 will no longer
// be able to run jobs on May 20, 2026". The last announcement counts. It is the
// zero time without one.
//
// The text may be a job's, so the day is for people to see, and no decision may
// rest on it. Days that cannot be right are ignored.
func Deadline(text, version string, now time.Time) time.Time {
	var last time.Time
	for _, found := range deadlinePattern.FindAllStringSubmatch(text, -1) {
		day, err := parseDay(found[2])
		if err == nil && found[1] == version && day.Sub(now).Abs() < maxNotice {
			last = day
		}
	}
	return last
}

var deadlinePattern = regexp.MustCompile(`(?i:runner version) v?([0-9][0-9A-Za-z.+-]{0,63}) ` +
	`will no longer be able to run jobs on ([A-Z][a-z]{2,8} [0-9]{1,2}, [0-9]{4}|[0-9]{4}-[0-9]{2}-[0-9]{2})\b`)

// maxNotice is more than lies between a deadline and its announcement.
const maxNotice = 400 * 24 * time.Hour

func parseDay(text string) (time.Time, error) {
	var day time.Time
	var err error
	for _, form := range []string{"January 2, 2006", "Jan 2, 2006", time.DateOnly} {
		if day, err = time.Parse(form, text); err == nil {
			return day, nil
		}
	}
	return time.Time{}, err
}

// maxLogsRead is how much of the logs of workers FindDeadline reads, in bytes:
// as much as the broker keeps.
const maxLogsRead = 64 << 20

// FindDeadline returns the deadline that the newest log of a worker announces.
// The directory of these logs is the broker's; an error is that of reading it.
func FindDeadline(dir, version string, now time.Time) (time.Time, error) {
	tree, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	defer tree.Close()
	entries, err := fs.ReadDir(tree.FS(), ".")
	if err != nil {
		return time.Time{}, err
	}

	// Their names contain the time, so that the newest is the greatest.
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(b.Name(), a.Name()) })
	left := int64(maxLogsRead)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !strings.HasPrefix(e.Name(), "Worker_") {
			continue
		}
		if left -= info.Size(); left < 0 {
			break
		}
		if day := logDeadline(tree, e.Name(), version, now); !day.IsZero() {
			return day, nil
		}
	}
	return time.Time{}, nil
}

// logDeadline returns the deadline that a log announces. One that was removed
// meanwhile announces none.
func logDeadline(tree *os.Root, name, version string, now time.Time) time.Time {
	f, err := tree.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return time.Time{}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLogsRead))
	if err != nil {
		return time.Time{}
	}
	return Deadline(string(data), version, now)
}
