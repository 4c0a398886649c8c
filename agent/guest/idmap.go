package guest

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
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

// idMap is the map of a user namespace, in the order of uid_map,
// user_namespaces(7), for users and groups alike.
type idMap [3]syscall.SysProcIDMap

// treeMap shows the files of a tree, owned by owner and up on disk, as the
// guest's.
func treeMap(base, owner int) idMap {
	return idMap{{ContainerID: owner, HostID: base, Size: rangeSize}}
}

// workMap shows files of the host's user owner as those of user in the guest,
// and the other way round, so that what a job writes belongs to the runner on
// disk; and the guest's other users as subordinate ones, so that chown works.
func workMap(base, owner, user int) idMap {
	return idMap{
		{ContainerID: owner, HostID: base + user, Size: 1},
		{ContainerID: SubordinateBase, HostID: base, Size: user},
		{ContainerID: SubordinateBase + user + 1, HostID: base + user + 1, Size: rangeSize - user - 1},
	}
}

// userNamespace gives a user namespace that exists only for its map, as
// mount_setattr(2) wants one for an id-mapped mount. There are few different
// ones, and making one takes a process, so they are kept.
func (h *Manager) userNamespace(m idMap) (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ns := h.maps[m]; ns != nil {
		return ns, nil
	}
	ns, err := newUserNamespace(m)
	if err != nil {
		return nil, fmt.Errorf("cannot make user namespace: %w", err)
	}
	if h.maps == nil {
		h.maps = map[idMap]*os.File{}
	}
	h.maps[m] = ns
	return ns, nil
}

func newUserNamespace(m idMap) (*os.File, error) {
	extents := slices.DeleteFunc(m[:], func(e syscall.SysProcIDMap) bool { return e.Size == 0 })
	// The process lives until its standard input closes; the namespace lives
	// on in the file.
	cmd := exec.Command("/bin/cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: extents, GidMappings: extents}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
	_ = stdin.Close()
	_ = cmd.Wait()
	return ns, err
}
