package progress

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestReport(t *testing.T) {
	for _, test := range []struct {
		summary string
		mode    Mode
		want    string
	}{{
		summary: "plain lines",
		mode:    Plain,
		want: "[begin]  host tree\n[done]   host tree             3.0s  412 packages\n" +
			"[begin]  disk\n[failed] disk                  1.0s\n[total]                        7.0s\n",
	}, {
		summary: "one line a stage on a terminal, cut to its width, without control characters",
		mode:    Terminal,
		want: "\r\x1b[K[  0.0s] host tree  \r\x1b[K[  1.0s] host tree  I: unpackin" +
			"\r\x1b[K[done]   host tree             3.0s  412 packages\n" +
			"\r\x1b[K[  0.0s] disk  \r\x1b[K[failed] disk                  1.0s\n[total]                        7.0s\n",
	}, {
		summary: "JSON",
		mode:    JSON,
		want: `{"stage":"host tree","event":"begin"}` + "\n" +
			`{"stage":"host tree","event":"done","seconds":3,"note":"412 packages"}` + "\n" +
			`{"stage":"disk","event":"begin"}` + "\n" +
			`{"stage":"disk","event":"failed","seconds":1,"error":"no space"}` + "\n" +
			`{"stage":"total","event":"done","seconds":7}` + "\n",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			var out strings.Builder
			now := time.Unix(0, 0)
			r := New(&out, test.mode)
			r.now, r.start, r.width = func() time.Time { return now }, now, 32

			s := r.Stage("host tree")
			now = now.Add(time.Second)
			fmt.Fprint(s.Writer(), "I: \x1bunpacking everything\nI: half a li")
			now = now.Add(2 * time.Second)
			s.Done("412 packages")

			s = r.Stage("disk")
			now = now.Add(time.Second)
			s.Fail(errors.New("no space"))
			now = now.Add(3 * time.Second)
			r.Summary()

			if out.String() != test.want {
				t.Errorf("got\n%q\nwant\n%q", out.String(), test.want)
			}
		})
	}
}

func TestTimePassesWhileToolsAreSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		s := New(&out, Terminal).Stage("disk")
		fmt.Fprintln(s.Writer(), "copying")
		time.Sleep(2500 * time.Millisecond)
		s.Done("")
		time.Sleep(time.Minute) // nothing more is shown
		want := "\r\x1b[K[  0.0s] disk  \r\x1b[K[  0.0s] disk  copying\r\x1b[K[  1.0s] disk  copying" +
			"\r\x1b[K[  2.0s] disk  copying\r\x1b[K[done]   disk                  2.5s\n"
		if out.String() != want {
			t.Errorf("got\n%q\nwant\n%q", out.String(), want)
		}
	})
}
