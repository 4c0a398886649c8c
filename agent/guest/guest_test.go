package guest

import (
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/golden"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// TestArgv compares the command of each kind of guest with a golden file, one
// argument a line.
func TestArgv(t *testing.T) {
	for _, test := range []struct {
		summary string
		spec    Spec
		limits  Limits
	}{
		{summary: "container"},
		{summary: "base", spec: Spec{Boot: true}, limits: Limits{Pids: 4096}},
		{summary: "device", spec: Spec{Devices: []Device{{Source: "/dev/kvm", Target: "/dev/a:b"}}}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			test.spec.ID = "j-1"
			g := &Guest{
				manager: &Manager{Agent: "/usr/local/bin/runner-shim", Limits: test.limits},
				idRange: 2,
				dir:     "/jobs/j-1",
				spec:    test.spec,
			}
			golden.Check(t, "argv-"+test.summary+".txt", strings.Join(g.argv(), "\n")+"\n")
		})
	}
}

// TestWorkMap: the owner on disk is the job's user in the guest; no number of
// either side is mapped twice, and all of the guest's are.
func TestWorkMap(t *testing.T) {
	for _, user := range []int{0, 1, 1001, 65535} {
		m := workMap(655360, 900, user)
		if m[0].ContainerID != 900 || m[0].HostID != 655360+user {
			t.Errorf("user %d: the owner is mapped to %d", user, m[0].HostID)
		}
		seen := map[int]bool{}
		for _, e := range m {
			for i := range e.Size {
				if seen[e.HostID+i] {
					t.Errorf("user %d: %d is mapped twice", user, e.HostID+i)
				}
				seen[e.HostID+i] = true
			}
		}
		if len(seen) != rangeSize {
			t.Errorf("user %d: %d ids are mapped, want %d", user, len(seen), rangeSize)
		}
	}
}

// TestWorkMapsAgree: the guest of a worker and one of a container know each file
// that the other can write, and no other number of the host.
func TestWorkMapsAgree(t *testing.T) {
	onDisk := func(user int) map[int]bool {
		known := map[int]bool{}
		for _, e := range workMap(655360, 900, user) {
			for i := range e.Size {
				known[e.ContainerID+i] = true
			}
		}
		return known
	}
	for _, user := range []int{0, 1, 999, 1000, 65535} {
		worker, container := onDisk(layout.WorkerUID), onDisk(user)
		if len(worker) != rangeSize || len(container) != rangeSize {
			t.Errorf("user %d: %d and %d numbers are known, want %d each", user, len(worker), len(container), rangeSize)
		}
		for id := range container {
			// The number on disk that no user of the worker's guest has.
			if !worker[id] {
				t.Errorf("user %d: %d on disk is not known in the worker's guest", user, id)
			}
		}
	}
}

func TestRangesAreDisjoint(t *testing.T) {
	for i := range MaxGuests {
		first, last := rangeBase(i), rangeBase(i)+rangeSize-1
		if i > 0 && first <= rangeBase(i-1)+rangeSize-1 {
			t.Errorf("range %d begins at %d, within the one before", i, first)
		}
		if last >= SubordinateBase {
			t.Errorf("range %d ends at %d, among the numbers for files", i, last)
		}
	}
}
