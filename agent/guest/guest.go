// Package guest starts and stops systemd-nspawn guests. A guest has a tree as
// its root, below a layer of its own that is removed with it, user ids that no
// user of the host has, a network of its own, and nothing of the host but what
// is bound into it.
//
// A guest is made in two steps, so that one may wait, already started, for a
// job: Start starts one that is like any other of its tree; Configure makes it
// the one that a container asks for.
package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/tail"
)

// outputLimit is how much of the output of nspawn and the guest's init system is
// kept for messages, in bytes.
const outputLimit = 4096

// Spec describes a guest to start.
type Spec struct {
	ID   string // short, unique among the guests that run: its machine name
	Tree string // the directory that is its root, never written
	// TreeOwner is the user who owns on disk what is root's in the tree; the
	// tree's user N is TreeOwner + N there.
	TreeOwner int
	// Boot has the tree's own init system run as process 1.
	Boot    bool
	Devices []Device
	Limits  Limits // its own, within those of all guests
	Memlock uint64 // bytes that a process may lock in memory, math.MaxUint64 for all; 0: as on the host
}

// Device is a device node of the host to show in a guest.
type Device struct{ Source, Target string }

// Manager holds what all guests of a broker have in common.
type Manager struct {
	Agent        string        // static runner-shim binary, put into each guest
	JobsDir      string        // where guests keep what they write, root's alone
	Cgroup       string        // cgroup2 directory to make the guests' cgroups in
	ReadyTimeout time.Duration // how long a guest may take to answer
	Limits       Limits        // of all guests together
	Log          *slog.Logger

	mu       sync.Mutex
	idRanges [MaxGuests]bool // which are taken
	maps     map[idMap]*os.File
}

// Guest is a running guest.
type Guest struct {
	manager *Manager
	spec    Spec
	idRange int    // index of its range of user ids
	dir     string // everything of this guest on the host's disk
	cgroup  string
	leader  int           // process id of the agent in it, as the host sees it
	exited  chan struct{} // closed when nspawn has ended
	ended   chan struct{} // closed when nspawn or the agent has ended
	end     sync.Once     // closes ended
	output  *tail.Buffer
}

// Start starts a guest and waits until its agent answers. When it fails, or ctx
// ends, nothing is left behind.
func (m *Manager) Start(ctx context.Context, spec Spec) (*Guest, error) {
	idRange, err := m.takeIDRange()
	if err != nil {
		return nil, err
	}

	g := &Guest{
		manager: m, spec: spec, idRange: idRange,
		dir: filepath.Join(m.JobsDir, spec.ID), cgroup: filepath.Join(m.Cgroup, spec.ID),
		exited: make(chan struct{}), ended: make(chan struct{}), output: &tail.Buffer{Limit: outputLimit},
	}
	if err := g.start(ctx); err != nil {
		err = fmt.Errorf("cannot start guest: %w", err)
		return nil, errors.Join(err, g.Stop())
	}
	return g, nil
}

func (g *Guest) start(ctx context.Context) error {
	for _, step := range []func() error{g.makeRoot, g.makeShare, g.spawn} {
		if err := step(); err != nil {
			close(g.exited)
			return err
		}
	}
	if err := g.waitReady(ctx); err != nil {
		return err
	}
	return g.watch(g.leader)
}

// makeRoot makes the guest's directory and mounts its root:
//
//	low     the tree, read-only, with the guest's ids
//	upper   what the guest writes; work is overlayfs's own
//	root    both of them together, the guest's root
//	socket  where the guest agent listens, the guest's to write
//	bind    where directories of the host are put together
//	share   what of them appears in the guest
//	empty   what covers hidden directories
//
// The guest's own root owns what it must write, root of the host the rest: a
// guest cannot exchange a directory that the broker will open.
func (g *Guest) makeRoot() error {
	base := rangeBase(g.idRange)
	for _, d := range []struct {
		name  string
		owner int
	}{
		{name: ""}, {name: "low"}, {name: "upper", owner: base}, {name: "work"}, {name: "root"},
		{name: "socket", owner: base}, {name: "bind"}, {name: "share"}, {name: "empty"},
	} {
		path := filepath.Join(g.dir, d.name)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		if err := os.Lchown(path, d.owner, d.owner); err != nil {
			return err
		}
	}

	if err := g.mountLow(base); err != nil {
		return err
	}
	// Volatile: nothing in the upper layer has to survive a crash, so fsync(2)
	// in the guest need not wait for the disk.
	options := fmt.Sprintf("volatile,lowerdir=%[1]s/low,upperdir=%[1]s/upper,workdir=%[1]s/work", g.dir)
	if err := unix.Mount("overlay", filepath.Join(g.dir, "root"), "overlay", 0, options); err != nil {
		return fmt.Errorf("cannot mount root: %w", err)
	}
	if err := checkRoot(filepath.Join(g.dir, "root")); err != nil {
		return err
	}
	return g.makeUsr(base)
}

// mountLow mounts a read-only clone of the tree in which its ids are the
// guest's, beginning with base.
func (g *Guest) mountLow(base int) error {
	tree, err := os.Open(g.spec.Tree)
	if err != nil {
		return err
	}
	defer tree.Close()

	ids, err := g.manager.userNamespace(treeMap(base, g.spec.TreeOwner))
	if err != nil {
		return err
	}
	defer ids.Close()
	return cloneMount(tree, filepath.Join(g.dir, "low"), unix.MOUNT_ATTR_RDONLY, ids)
}

// makeUsr makes the one directory that nspawn takes for a sign of an operating
// system, in trees that consist of a single program.
func (g *Guest) makeUsr(base int) error {
	usr := filepath.Join(g.dir, "root", "usr")
	if err := os.Mkdir(usr, 0o755); errors.Is(err, os.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Lchown(usr, base, base)
}

// Leader returns the process id of the guest's agent, as the host sees it.
func (g *Guest) Leader() int { return g.leader }

// Owns reports whether a user id of the host is that of a user of the guest.
func (g *Guest) Owns(uid uint32) bool {
	base := uint32(rangeBase(g.idRange))
	return uid >= base && uid-base < rangeSize
}

// ID returns the guest's machine name.
func (g *Guest) ID() string { return g.spec.ID }

// Exited is closed when nothing can run in the guest any more: it has ended, by
// itself or by Stop, or is about to.
func (g *Guest) Exited() <-chan struct{} { return g.ended }

// markEnded has Exited closed and ends every process of the guest.
func (g *Guest) markEnded() {
	g.end.Do(func() { close(g.ended) })
	g.Kill()
}

// Kill ends every process of the guest, and leaves the rest to Stop.
func (g *Guest) Kill() {
	_ = os.WriteFile(filepath.Join(g.cgroup, "cgroup.kill"), []byte("1"), 0)
}

// Stop ends every process of the guest and removes all traces of it. It may be
// called again if it failed. Files that cannot be removed are logged, and left to
// the next Sweep: they keep no other guest from starting.
func (g *Guest) Stop() error {
	if err := killCgroup(g.cgroup); err != nil {
		return err
	}
	<-g.exited
	g.manager.logLeft(removeDir(g.dir))
	g.manager.mu.Lock()
	defer g.manager.mu.Unlock()
	g.manager.idRanges[g.idRange] = false
	return nil
}

// takeIDRange returns the index of a range of user ids that no guest has.
func (m *Manager) takeIDRange() (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, taken := range m.idRanges {
		if !taken {
			m.idRanges[i] = true
			return i, nil
		}
	}
	return 0, fmt.Errorf("cannot start guest: %d are running already", MaxGuests)
}
