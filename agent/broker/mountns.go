package broker

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/guest"
)

// privateMark is set in the environment of a broker that has entered a mount
// namespace of its own.
const privateMark = "RUNNER_BROKER_PRIVATE_MOUNTS"

// EnterPrivateMounts moves the process to a mount namespace of its own, so that
// the mounts of guests vanish with it, however it ends; cgroups of version 1 are
// not seen there. A thread alone can enter one, so it executes the program again
// from there, with the same arguments, and returns nil in the new one. It needs root.
func EnterPrivateMounts() error {
	if os.Getenv(privateMark) != "" {
		return os.Unsetenv(privateMark)
	}

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot make a mount namespace: %w; the broker has to run as root", err)
	}
	// Mounts of the host still arrive; those of guests do not reach the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("cannot make a mount namespace: %w", err)
	}

	if err := guest.UnifyCgroups(); err != nil {
		return err
	}

	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find own program: %w", err)
	}
	err = unix.Exec(self, os.Args, append(os.Environ(), privateMark+"=1"))
	return fmt.Errorf("cannot re-execute the broker in its own mount namespace: %w", err)
}
