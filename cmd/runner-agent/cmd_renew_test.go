package main

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/agent/dist"
)

// TestRenewalIsDue: a schedule asks once a day, within the window, and at once if the
// runner takes no jobs or an earlier renewal was interrupted.
func TestRenewalIsDue(t *testing.T) {
	now := time.Now()
	checked := func(ago time.Duration) string {
		return fmt.Sprintf(`{"schema": 1, "checked": %q}`, now.Add(-ago).UTC().Format(time.RFC3339))
	}
	const online = "RUNNER_GITHUB_URL=https://github.com/acme\n"
	closed := fmt.Sprintf("%sRUNNER_UPGRADE_WINDOW=%s-%s\n", online,
		now.Add(2*time.Hour).Format("15:04"), now.Add(3*time.Hour).Format("15:04"))

	for _, test := range []struct {
		summary, config, state string
		status                 control.State
		want                   bool
	}{
		{summary: "off", config: online + "RUNNER_UPGRADE_ACTIONS_RUNNER=off\n", status: control.Deprecated},
		{summary: "never asked", config: online, want: true},
		{summary: "asked an hour ago", config: online, state: checked(time.Hour)},
		{summary: "asked a day ago", config: online, state: checked(24 * time.Hour), want: true},
		{summary: "outside of the window", config: closed, state: checked(24 * time.Hour)},
		{summary: "interrupted", config: closed, state: `{"schema": 1, "trial": {"version": "2.338.0"}}`, want: true},
		{summary: "GitHub serves it no longer", config: closed, state: checked(time.Hour), status: control.Deprecated,
			want: true},
		{summary: "broken state", config: closed, state: "{", want: true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			o := renewOptions{controlDir: t.TempDir(), store: dist.Store{Dir: t.TempDir()}}
			if test.state != "" {
				writeFile(t, filepath.Join(o.store.Dir, "state.json"), test.state)
			}
			if test.status != "" {
				if err := control.SaveStatus(o.controlDir, control.Status{State: test.status}); err != nil {
					t.Fatal(err)
				}
			}
			cfg, _, err := config.Parse("config.env", []byte(test.config))
			if err != nil {
				t.Fatal(err)
			}
			if got := o.due(t.Context(), cfg); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}
