package guest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

// User ids. A guest has 65536, which the host sees as a range that is disjoint
// from that of every other guest.
const (
	rangeSize  = 65536
	firstRange = 524288
	// FirstUID is the first user id of the host that a guest's user may have.
	FirstUID = firstRange
	// MaxGuests is how many ranges there are.
	MaxGuests = 16
	// SubordinateBase is added to the user ids of a guest on disk, except for
	// the job's own user: the host has no user of that number, nor does a
	// guest.
	SubordinateBase = 1 << 30
)

// rangeBase returns the host's number of user 0 in range i, from 0 to
// MaxGuests-1.
func rangeBase(i int) int { return firstRange + i*rangeSize }

// idMap is the map of a user namespace for both users and groups, in the order
// of uid_map, user_namespaces(7).
type idMap [5]syscall.SysProcIDMap

// treeMap returns a map that shows the files of a tree, which belong to owner
// and the users after it on disk, as the guest's.
func treeMap(base, owner int) idMap {
	return idMap{{ContainerID: owner, HostID: base, Size: rangeSize}}
}

// workMap returns a map that shows files of the host's user owner as those of
// user in the guest, so that files a job writes belong to the runner on disk,
// and the guest's other users as subordinate ones, so that chown works.
//
// The guest of a worker and those of its job's containers show one directory with
// different users as owner: layout.WorkerUID and root, say. Each has to know all
// that the other writes, or not even its root may touch it, so these two change
// places: a file of the worker's root belongs to WorkerUID in the container.
func workMap(base, owner, user int) idMap {
	m := idMap{{ContainerID: owner, HostID: base + user, Size: 1}}
	if user != layout.WorkerUID {
		m[1] = syscall.SysProcIDMap{ContainerID: SubordinateBase + user, HostID: base + layout.WorkerUID, Size: 1}
	}

	// All others have their own number on disk.
	first, second := min(user, layout.WorkerUID), max(user, layout.WorkerUID)
	for i, others := range [...]struct{ from, to int }{
		{0, first}, {first + 1, second}, {second + 1, rangeSize},
	} {
		m[2+i] = syscall.SysProcIDMap{
			ContainerID: SubordinateBase + others.from, HostID: base + others.from, Size: max(0, others.to-others.from),
		}
	}
	return m
}

// maxMaps bounds the user namespaces that are kept. Most jobs need two or three of
// each range of ids; a workflow can name a new user in each of its steps.
const maxMaps = 4 * MaxGuests

// userNamespace returns a user namespace that exists only for its map:
// mount_setattr(2) takes the map of an id-mapped mount from one. Making one takes a
// process, so they are kept. The caller closes the file.
func (m *Manager) userNamespace(ids idMap) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ns := m.maps[ids]
	if ns == nil {
		var err error
		if ns, err = newUserNamespace(ids); err != nil {
			return nil, fmt.Errorf("cannot make user namespace: %w", err)
		}
		m.keep(ids, ns)
	}

	fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open user namespace: %w", err)
	}
	return os.NewFile(uintptr(fd), ns.Name()), nil
}

// keep keeps a user namespace, in the place of some other if there are many. The
// caller holds mu.
func (m *Manager) keep(ids idMap, ns *os.File) {
	if m.maps == nil {
		m.maps = map[idMap]*os.File{}
	}
	for old, kept := range m.maps {
		if len(m.maps) < maxMaps {
			break
		}
		_ = kept.Close()
		delete(m.maps, old)
	}
	m.maps[ids] = ns
}

func newUserNamespace(m idMap) (*os.File, error) {
	extents := slices.DeleteFunc(m[:], func(e syscall.SysProcIDMap) bool { return e.Size == 0 })

	// The process runs until its standard input closes; the open file keeps the
	// namespace after that.
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cat, err := run.Start(context.Background(), run.Cmd{
		Args:  []string{"/bin/cat"},
		Stdin: read,
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: extents,
			GidMappings: extents,
		},
	})
	_ = read.Close()
	if err != nil {
		_ = write.Close()
		return nil, err
	}

	ns, err := os.Open("/proc/" + strconv.Itoa(cat.Pid()) + "/ns/user")
	_ = write.Close()
	_ = cat.Wait()
	return ns, err
}
