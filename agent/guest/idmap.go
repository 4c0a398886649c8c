package guest

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// Numbers of users. A guest has 65536 of them, which the host sees as a range
// of its own, disjoint from every other guest's.
const (
	rangeSize  = 65536
	firstRange = 524288
	// MaxGuests is how many ranges there are.
	MaxGuests = 16
	// SubordinateBase is where files of a guest's other users end up on disk:
	// the guest's user N owns them as SubordinateBase + N, which is nobody on
	// the host and not a user of any guest.
	SubordinateBase = 1 << 30
)

// rangeBase gives the host's number of the guest user 0 in a slot.
func rangeBase(slot int) int { return firstRange + slot*rangeSize }

// treeMap shows the files of a tree, owned by 0 and up on disk, as the guest's.
func treeMap(base int) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: base, Size: rangeSize}}
}

// workMap shows files of the host's user owner as the guest root's, and the
// other way round, so that what guest root writes belongs to the runner on
// disk; and the guest's other users as subordinate ones, so that chown works.
func workMap(base, owner int) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{
		{ContainerID: owner, HostID: base, Size: 1},
		{ContainerID: SubordinateBase + 1, HostID: base + 1, Size: rangeSize - 1},
	}
}

// userNamespace makes a user namespace that exists only for its map, as
// mount_setattr(2) wants one for an id-mapped mount.
func userNamespace(uids, gids []syscall.SysProcIDMap) (*os.File, error) {
	// The process lives until its standard input closes; the namespace lives
	// on in the file.
	cmd := exec.Command("/bin/cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make user namespace: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot make user namespace: %w", err)
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
	_ = stdin.Close()
	_ = cmd.Wait()
	if err != nil {
		return nil, fmt.Errorf("cannot make user namespace: %w", err)
	}
	return ns, nil
}
