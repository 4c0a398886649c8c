package config

import (
	"strings"
	"testing"
	"time"
)

func TestWindow(t *testing.T) {
	for _, test := range []struct{ window, inside, outside string }{
		{"02:00-05:00", "Mon 02:00, Sun 04:59", "Mon 01:59, Mon 05:00, Mon 23:00"},
		{"22:00-04:00", "Mon 22:00, Mon 03:59, Mon 00:00", "Mon 04:00, Mon 21:59"},
		{"Sat,Sun 02:00-05:00", "Sat 02:00, Sun 04:59", "Mon 02:00, Fri 02:00, Sat 05:00"},
		{"Sat 22:00-04:00", "Sat 22:00, Sun 03:59", "Sat 03:59, Sun 22:00, Sun 04:00"},
		{"Sun 22:00-04:00", "Sun 23:00, Mon 01:00", "Sun 01:00, Mon 23:00"},
	} {
		w, err := parseWindow(test.window)
		if err != nil {
			t.Fatal(err)
		}
		for times, want := range map[string]bool{test.inside: true, test.outside: false} {
			for text := range strings.SplitSeq(times, ", ") {
				day, clock, _ := strings.Cut(text, " ")
				hour, err := time.Parse("15:04", clock)
				if err != nil {
					t.Fatal(err)
				}
				// 2026-11-22 is a Sunday.
				date := 22 + strings.Index("SunMonTueWedThuFriSat", day)/3
				at := time.Date(2026, 11, date, hour.Hour(), hour.Minute(), 0, 0, time.UTC)
				if w.Contains(at) != want {
					t.Errorf("%s contains %s: got %v", test.window, text, !want)
				}
			}
		}
	}
	if !(Window{}).Contains(time.Now()) {
		t.Error("no window is not all of the time")
	}
}

func TestUpgradeSettings(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"RUNNER_UPGRADE_SOURCE=https://updates.example.com/runner", ""},
		{"RUNNER_UPGRADE_SOURCE=/run/usb", ""},
		{"RUNNER_UPGRADE_SOURCE=updates.example.com", "RUNNER_UPGRADE_SOURCE is neither an http or https URL"},
		{"RUNNER_UPGRADE_SOURCE=/run/../usb", "RUNNER_UPGRADE_SOURCE is neither"},
		{"RUNNER_UPGRADE_SOURCE=https://user:secret@example.com/", "RUNNER_UPGRADE_SOURCE is neither"},
		{"RUNNER_UPGRADE_CHANNEL=beta", ""},
		{"RUNNER_UPGRADE_ACTIONS_RUNNER=source", ""},
		{"RUNNER_UPGRADE_ACTIONS_RUNNER=yes", "RUNNER_UPGRADE_ACTIONS_RUNNER is not github, source or off"},
		{"RUNNER_UPGRADE_CHANNEL=Beta!", "RUNNER_UPGRADE_CHANNEL is not a name of lower-case letters"},
		{"RUNNER_UPGRADE_WINDOW='Sat,Sun 02:00-05:00'", ""},
		{"RUNNER_UPGRADE_WINDOW='Saturday 02:00-05:00'", `RUNNER_UPGRADE_WINDOW has "Saturday" where a day should be`},
		{"RUNNER_UPGRADE_WINDOW=2-5", "RUNNER_UPGRADE_WINDOW is not a time of the day"},
		{"RUNNER_UPGRADE_WINDOW=02:00-02:00", "RUNNER_UPGRADE_WINDOW is not a time of the day"},
	} {
		_, _, err := Parse("config.env", []byte(test.line+"\n"))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v", test.line, err)
		}
	}
}

// TestRenewal: the actions runner is renewed where GitHub asks for it.
func TestRenewal(t *testing.T) {
	tests := []struct {
		summary, file string
		want          Renewal
	}{
		{summary: "no runner", want: RenewOff},
		{summary: "github.com", file: "RUNNER_GITHUB_URL=https://github.com/acme", want: RenewGitHub},
		{summary: "data residency", file: "RUNNER_GITHUB_URL=https://acme.ghe.com/acme", want: RenewGitHub},
		{summary: "enterprise server", file: "RUNNER_GITHUB_URL=https://ghe.com.example/acme", want: RenewOff},
		{summary: "enterprise server, asked for",
			file: "RUNNER_GITHUB_URL=https://github.example/acme\nRUNNER_UPGRADE_ACTIONS_RUNNER=source",
			want: RenewSource},
		{summary: "off", file: "RUNNER_GITHUB_URL=https://github.com/acme\nRUNNER_UPGRADE_ACTIONS_RUNNER=off",
			want: RenewOff},
		{summary: "an actions runner of one's own",
			file: "RUNNER_GITHUB_URL=https://github.com/acme\nRUNNER_ACTIONS_RUNNER_DIR=/srv/runner",
			want: RenewOff},
	}
	for _, tt := range tests {
		c, _, err := Parse("config.env", []byte(tt.file))
		if err != nil {
			t.Fatalf("%s: %v", tt.summary, err)
		}
		if got := c.Renewal(); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.summary, got, tt.want)
		}
	}
}
