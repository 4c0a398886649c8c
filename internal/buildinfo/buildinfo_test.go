package buildinfo

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestRead(t *testing.T) {
	recorded := &debug.BuildInfo{
		Main: debug.Module{Version: "v1.4.0"},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "c0ffee"},
			{Key: "vcs.time", Value: "2026-01-02T03:04:05Z"},
		},
	}
	for _, test := range []struct {
		summary  string
		linked   Info
		recorded *debug.BuildInfo
		want     string
	}{
		{
			summary:  "make",
			linked:   Info{Version: "v1.5.0", Commit: "decade", Date: "2026-02-03T04:05:06Z"},
			recorded: recorded,
			want:     "v1.5.0 (commit decade, 2026-02-03T04:05:06Z, ",
		},
		{summary: "go install", recorded: recorded, want: "v1.4.0 (commit c0ffee, 2026-01-02T03:04:05Z, "},
		{summary: "neither", want: "unknown (commit unknown, unknown, "},
	} {
		t.Run(test.summary, func(t *testing.T) {
			want := test.want + runtime.Version() + ")"
			if got := read(test.linked, test.recorded).String(); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}
