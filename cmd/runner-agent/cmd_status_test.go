package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/upgrade"
)

func TestDescribeUpgrade(t *testing.T) {
	s := &upgrade.State{Pending: &upgrade.Pending{Version: "1.2.0", From: "1.1.0"},
		Failed: []upgrade.Failure{{Version: "1.1.5", Time: time.Unix(0, 0).UTC(), Reason: "it did not boot well"}}}
	failed := "version 1.1.5 failed, noted 1970-01-01T00:00:00Z: it did not boot well"
	for _, test := range []struct{ running, want string }{
		{"1.1.0", "version 1.2.0 is installed, and starts with the next boot"},
		{"1.2.0", "version 1.2.0 was installed by 1.1.0, and has not been noted as good"},
	} {
		if diff := cmp.Diff([]string{test.want, failed}, describeUpgrade(s, test.running)); diff != "" {
			t.Errorf("version %s runs (-want +got):\n%s", test.running, diff)
		}
	}
}
