package supervise

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestDeadline(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	may20, may21 := time.Date(2026, 5, 20, 0, 0, 0, 0, time.UTC), time.Date(2026, 5, 21, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		summary, text string
		want          time.Time
	}{
		{summary: "as in a job's log",
			text: "##[warning]Runner Version 2.332.0 will no longer be able to run jobs on May 20, 2026.", want: may20},
		{summary: "other spellings", text: "runner version v2.332.0 will no longer be able to run jobs on 2026-05-20",
			want: may20},
		{summary: "the last counts", text: "Runner Version 2.332.0 will no longer be able to run jobs on May 20, 2026\n" +
			"Runner Version 2.332.0 will no longer be able to run jobs on May 21, 2026", want: may21},
		{summary: "another version", text: "Runner Version 2.331.0 will no longer be able to run jobs on May 20, 2026"},
		{summary: "no such day", text: "Runner Version 2.332.0 will no longer be able to run jobs on May 40, 2026"},
		{summary: "too far off", text: "Runner Version 2.332.0 will no longer be able to run jobs on May 20, 2036"},
		{summary: "something else", text: "Node 20 will no longer be able to run jobs on May 20, 2026"},
	}
	for _, tt := range tests {
		if got := Deadline(tt.text, "2.332.0", now); !got.Equal(tt.want) {
			t.Errorf("%s: got %s, want %s", tt.summary, got, tt.want)
		}
	}
}

// TestFindDeadline: the newest log that announces one counts.
func TestFindDeadline(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	const words = "Runner Version 2.332.0 will no longer be able to run jobs on May "
	for name, text := range map[string]string{
		"Worker_20260430-082220-utc.log": words + "20, 2026",
		"Worker_20260430-092220-utc.log": words + "21, 2026",
		"Worker_20260430-102220-utc.log": "nothing",
		"other":                          words + "22, 2026",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "Worker_20260430-112220-utc.log")); err != nil {
		t.Fatal(err)
	}
	got, err := FindDeadline(dir, "2.332.0", now)
	if want := time.Date(2026, 5, 21, 0, 0, 0, 0, time.UTC); err != nil || !got.Equal(want) {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	if got, err := FindDeadline(filepath.Join(dir, "none"), "2.332.0", now); err != nil || !got.IsZero() {
		t.Errorf("no directory: got %s, %v", got, err)
	}
}

// TestListenerAnnouncesDeadline: before a job, that is.
func TestListenerAnnouncesDeadline(t *testing.T) {
	s, _ := newSupervisor(t, "")
	day := time.Now().UTC().Truncate(24 * time.Hour).Add(20 * 24 * time.Hour)
	line := "Runner Version 2.336.0 will no longer be able to run jobs on " + day.Format("January 2, 2006") + "\n"
	const version = "Current runner version: '2.336.0'\n"
	const job = "2026-11-24 08:22:24Z: Running job: x\n"

	s.follow(readerOf(version, job, line), noWorker)
	if got, _ := s.state.current(); got.RunnerVersion != "2.336.0" || !got.RunnerDeadline.IsZero() {
		t.Errorf("after a job began: got %+v", got)
	}
	s.follow(readerOf(version, line), noWorker)
	if got, _ := s.state.current(); !got.RunnerDeadline.Equal(day) {
		t.Errorf("got %+v, want %s", got, day)
	}
}
