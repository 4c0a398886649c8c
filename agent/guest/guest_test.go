package guest

import (
	"strings"
	"testing"
)

func TestArgv(t *testing.T) {
	const common = "systemd-nspawn --quiet --keep-unit --register=no --settings=no --directory=/jobs/j-1/root " +
		"--machine=j-1 --hostname=j-1 --private-users=655360:65536 --private-users-ownership=off --private-network " +
		"--link-journal=no --timezone=off --resolv-conf=off --console=pipe --suppress-sync=yes " +
		"--bind-ro=/usr/local/bin/runner-shim:/run/runner/runner-shim --bind=/jobs/j-1/socket:/run/runner/host " +
		"--bind=/jobs/j-1/share:/run/runner/share "
	const agent, socket = "/run/runner/runner-shim guest-init ", "/run/runner/host/agent.sock"
	for _, test := range []struct {
		spec   Spec
		limits Limits
		want   string
	}{
		{Spec{}, Limits{}, "--as-pid2 " + agent + socket},
		{Spec{Boot: true}, Limits{Pids: 4096}, "--rlimit=NPROC=4096 " + agent + "-become-init " + socket},
		{Spec{Devices: []Device{{"/dev/kvm", "/dev/a:b"}}}, Limits{},
			`--bind=/dev/kvm:/dev/a\:b --as-pid2 ` + agent + socket},
	} {
		test.spec.ID = "j-1"
		g := &Guest{
			manager: &Manager{Agent: "/usr/local/bin/runner-shim", Limits: test.limits},
			idRange: 2,
			dir:     "/jobs/j-1",
			spec:    test.spec,
		}
		if got := strings.Join(g.argv(), " "); got != common+test.want {
			t.Errorf("got  %s\nwant %s", got, common+test.want)
		}
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
