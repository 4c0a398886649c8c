package state_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/agent/register"
	"github.com/mkappliance/mkappliance/agent/state"
	"github.com/mkappliance/mkappliance/agent/upgrade"
)

// TestFormats reads files of a version to come: after a rollback this one has to.
// Unknown fields are ignored, unless the schema is another; that is an error
// with the fix.
func TestFormats(t *testing.T) {
	upgrades := func(root string) (string, error) {
		s, err := upgrade.LoadState(root)
		if err != nil {
			return "", err
		}
		return s.Floor + " " + s.Pending.Version + " " + s.Failed[0].Reason, nil
	}
	for _, test := range []struct {
		summary, file, content string
		load                   func(root string) (string, error)
		want                   string // or the error
	}{
		{summary: "upgrades", file: "state.json", load: upgrades, want: "1.1.0 2.0.0 no network",
			content: `{"schema":1,"more":{"a":1},"floor":"1.1.0","pending":{"version":"2.0.0","more":[1],"boot":"x"},` +
				`"failed":[{"version":"1.5.0","reason":"no network","more":null}]}`},
		{summary: "upgrades, newer schema", file: "state.json", load: upgrades, content: `{"schema":2,"floor":7}`,
			want: "cannot read state of upgrades: state.json has schema 2, this agent knows 1; remove the file"},
		{summary: "status", file: "status.json",
			content: `{"state":"busy","more":1,"job":"build","drain":{"since":"2026-11-24T08:00:00Z","more":1},"jobs":7}`,
			load: func(root string) (string, error) {
				s, err := control.LoadStatus(root)
				return fmt.Sprint(s.State, " ", s.Jobs, s.Drain.Since.Year()), err
			}, want: "busy 7 2026"},
		{summary: "marker", file: "installed", content: `{"schema":1,"name":"rack-4","more":1}`,
			load: func(root string) (string, error) {
				var m register.Marker
				data, err := os.ReadFile(filepath.Join(root, "installed"))
				if err == nil {
					err = json.Unmarshal(data, &m)
				}
				return m.Name, err
			}, want: "rack-4"},
		{summary: "reset", file: state.RequestFile, content: `{"schema":1,"keep_config":true,"keep_more":true}`,
			load: func(root string) (string, error) {
				r, err := state.Asked(root)
				return fmt.Sprint(r.KeepConfig), err
			}, want: "true"},
		{summary: "reset, newer schema", file: state.RequestFile, content: `{"schema":2,"time":7}`,
			load: func(root string) (string, error) {
				_, err := state.Asked(root)
				return "", err
			}, want: "cannot read /var/lib/runner/reset.json: it has schema 2, this agent knows 1; " +
				"run 'runner-agent reset' again"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, test.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := test.load(root)
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestNoStrictDecoder: nothing in the agent refuses fields that it does not know.
func TestNoStrictDecoder(t *testing.T) {
	files := 0
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "DisallowUnknownFields") {
			t.Errorf("%s refuses fields of a newer version", path)
		}
		return err
	})
	if err != nil || files < 50 {
		t.Errorf("read %d files: %v", files, err)
	}
}
