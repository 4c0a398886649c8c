// Package progress reports on long work: a live line on a terminal, plain lines
// in a log, or JSON objects for programs.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Mode is the form of a report.
type Mode int

const (
	// Plain prints one line when a stage begins and one when it ends.
	Plain Mode = iota
	// Terminal prints one line a stage, and on it what the stage is doing.
	Terminal
	// JSON prints one object a line for each begin and end.
	JSON
)

// DetectMode returns Terminal if f is a terminal that can move its cursor, else
// Plain.
func DetectMode(f *os.File) Mode {
	if term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		return Terminal
	}
	return Plain
}

// Reporter reports stages one after the other.
type Reporter struct {
	mode  Mode
	now   func() time.Time
	width int // columns of the terminal
	start time.Time

	mu sync.Mutex // held while w is written to and a stage changes
	w  io.Writer
}

// New returns a reporter that writes to w.
func New(w io.Writer, mode Mode) *Reporter {
	r := &Reporter{w: w, mode: mode, now: time.Now, width: 80}

	if f, ok := w.(*os.File); ok && mode == Terminal {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 { // 0 is not known
			r.width = width
		}
	}

	r.start = r.now()
	return r
}

// event is what JSON mode prints.
type event struct {
	Stage   string  `json:"stage"`
	Event   string  `json:"event"` // "begin", "done" or "failed"
	Seconds float64 `json:"seconds,omitempty"`
	Note    string  `json:"note,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// Stage is one part of the work. It lasts until Done or Fail, one of which must
// be called once.
type Stage struct {
	r     *Reporter
	name  string
	start time.Time
	line  []byte        // the unfinished last line of tool output
	shown string        // the last whole line
	ended chan struct{} // closed by Done and Fail
}

// Stage begins a stage.
func (r *Reporter) Stage(name string) *Stage {
	s := &Stage{r: r, name: name, start: r.now(), ended: make(chan struct{})}

	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.mode {
	case Plain:
		fmt.Fprintf(r.w, "[begin]  %s\n", name)
	case Terminal:
		r.live(s)
		go s.tick()
	case JSON:
		r.event(event{Stage: name, Event: "begin"})
	}
	return s
}

// Writer returns the writer for the output of the stage's tools. A terminal shows
// the last line of it while the stage lasts. Other modes drop it, since the error
// of a tool that fails quotes the end of its output.
func (s *Stage) Writer() io.Writer { return s }

// Write takes output of tools, as Writer describes.
func (s *Stage) Write(p []byte) (int, error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()

	s.line = append(s.line, p...)
	lines := strings.Split(string(s.line), "\n")
	s.line = []byte(lines[len(lines)-1])
	if s.r.mode == Terminal && len(lines) > 1 {
		s.shown = strings.TrimSpace(lines[len(lines)-2])
		s.r.live(s)
	}
	return len(p), nil
}

// tick redraws the line every second, so that time passes while tools are silent.
func (s *Stage) tick() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-s.ended:
			return
		case <-ticker.C:
		}
		s.r.mu.Lock()
		select {
		case <-s.ended: // while we waited for the lock
		default:
			s.r.live(s)
		}
		s.r.mu.Unlock()
	}
}

// Done ends the stage as a success. The note stands behind its name; it may be
// empty.
func (s *Stage) Done(note string) {
	s.end(event{Stage: s.name, Event: "done", Note: note}, "[done]  ", note)
}

// Fail ends the stage as a failure. Only JSON mode prints the error: the caller
// reports it.
func (s *Stage) Fail(err error) {
	s.end(event{Stage: s.name, Event: "failed", Error: err.Error()}, "[failed]", "")
}

func (s *Stage) end(e event, mark, note string) {
	r := s.r
	elapsed := r.now().Sub(s.start)
	r.mu.Lock()
	defer r.mu.Unlock()
	close(s.ended)

	if r.mode == JSON {
		e.Seconds = elapsed.Seconds()
		r.event(e)
		return
	}

	if r.mode == Terminal {
		fmt.Fprint(r.w, "\r\x1b[K")
	}
	line := fmt.Sprintf("%s %-18s %6.1fs  %s", mark, s.name, elapsed.Seconds(), note)
	fmt.Fprintln(r.w, strings.TrimRight(line, " "))
}

// Summary ends the report with the time since New.
func (r *Reporter) Summary() {
	r.mu.Lock()
	defer r.mu.Unlock()
	elapsed := r.now().Sub(r.start).Seconds()
	if r.mode == JSON {
		r.event(event{Stage: "total", Event: "done", Seconds: elapsed})
		return
	}
	fmt.Fprintf(r.w, "[total]  %-18s %6.1fs\n", "", elapsed)
}

// live draws the line of a stage under way, cut to the width of the terminal.
func (r *Reporter) live(s *Stage) {
	text := []rune(fmt.Sprintf("[%5.1fs] %s  %s", r.now().Sub(s.start).Seconds(), s.name, printable(s.shown)))
	if len(text) >= r.width {
		text = text[:max(0, r.width-1)]
	}
	fmt.Fprintf(r.w, "\r\x1b[K%s", string(text))
}

// printable drops what would move the cursor.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, s)
}

func (r *Reporter) event(e event) {
	// An event holds strings and a finite number: it always marshals.
	line, _ := json.Marshal(e)
	fmt.Fprintf(r.w, "%s\n", line)
}
