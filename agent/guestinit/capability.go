package guestinit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// dropCapabilities drops capabilities, by their names without CAP_ or all of
// them by ALL, from the calling thread and from all programs it executes.
func dropCapabilities(drop []string) error {
	last, err := capability.LastCap()
	if err != nil {
		return fmt.Errorf("cannot drop capabilities: %w", err)
	}

	// All that the kernel knows: ALL includes those newer than this program.
	all := slices.Contains(drop, "ALL")
	for c := capability.Cap(0); c <= last; c++ {
		name := strings.ToUpper(c.String())
		if !all && !slices.Contains(drop, name) {
			continue
		}
		if err := capability.DropBound(c); err != nil {
			return fmt.Errorf("cannot drop capability %s: %w", name, err)
		}
	}

	if err := clearInheritable(); err != nil {
		return fmt.Errorf("cannot drop capabilities: %w", err)
	}
	return nil
}

// clearInheritable empties the sets from which root would regain at execve(2)
// capabilities that are not in the bounding set, capabilities(7).
func clearInheritable() error {
	if err := capability.ResetAmbient(); err != nil {
		return err
	}

	// Not by the library, which clears only those it knows and needs /proc.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	return unix.Capset(&header, &data[0])
}
