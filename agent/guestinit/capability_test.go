package guestinit

import (
	"os"
	"runtime"
	"testing"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

func TestDropCapabilities(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("dropping capabilities needs CAP_SETPCAP")
	}
	last, err := capability.LastCap()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary string
		drop    []string
		dropped func(capability.Cap) bool
	}{
		{summary: "none", dropped: func(capability.Cap) bool { return false }},
		{
			summary: "two",
			drop:    []string{"NET_RAW", "CHECKPOINT_RESTORE"},
			dropped: func(c capability.Cap) bool {
				return c == capability.CAP_NET_RAW || c == capability.CAP_CHECKPOINT_RESTORE
			},
		},
		{summary: "all", drop: []string{"ALL"}, dropped: func(capability.Cap) bool { return true }},
	} {
		t.Run(test.summary, func(t *testing.T) {
			runtime.LockOSThread() // for good: the thread ends with the test
			var before []bool
			for c := capability.Cap(0); c <= last; c++ {
				before = append(before, hasBound(t, c))
			}

			if err := dropCapabilities(test.drop); err != nil {
				t.Fatal(err)
			}
			for c := capability.Cap(0); c <= last; c++ {
				if got, want := hasBound(t, c), before[c] && !test.dropped(c); got != want {
					t.Errorf("%s is in the bounding set: %v, want %v", c, got, want)
				}
			}
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				t.Fatal(err)
			}
			if data[0].Inheritable != 0 || data[1].Inheritable != 0 {
				t.Errorf("inheritable are %x", data)
			}
		})
	}
}

func hasBound(t *testing.T, c capability.Cap) bool {
	t.Helper()
	ok, err := capability.GetBound(c)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}
