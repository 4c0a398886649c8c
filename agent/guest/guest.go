// Package guest starts and ends systemd-nspawn guests. A guest has a tree as
// its root, under a layer of its own that is thrown away, user ids that are
// nobody's on the host, a network of its own, and nothing of the host but what
// is bound into it.
//
// A guest is made in two steps, so that one may wait, already started, for a
// job: Start gives one that is like any other of its tree; Attach makes it the
// one that a container asks for.
package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

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

	mu    sync.Mutex
	slots [MaxGuests]bool
	maps  map[idMap]*os.File
}

// Guest is a running guest.
type Guest struct {
	host   *Manager
	spec   Spec
	slot   int
	dir    string // everything of this guest on the host's disk
	cgroup string
	leader int           // process id of the agent in it, as the host sees it
	exited chan struct{} // closed when nspawn has ended
	output *tail
}

// Start starts a guest and waits until its agent answers. When it fails, or ctx
// ends, nothing is left behind.
func (h *Manager) Start(ctx context.Context, spec Spec) (*Guest, error) {
	slot, err := h.takeSlot()
	if err != nil {
		return nil, err
	}
	g := &Guest{host: h, spec: spec, slot: slot, dir: filepath.Join(h.JobsDir, spec.ID),
		cgroup: filepath.Join(h.Cgroup, spec.ID), exited: make(chan struct{}), output: &tail{limit: 4096}}
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
	return g.waitReady(ctx)
}

// makeRoot lays out the guest's directory and mounts its root.
func (g *Guest) makeRoot() error {
	base := rangeBase(g.slot)
	for _, d := range []struct {
		name  string
		owner int
	}{{"", 0}, {"low", 0}, {"upper", base}, {"work", 0}, {"root", 0}, {"socket", base}, {"bind", 0}, {"share", 0}, {"empty", 0}} {
		path := filepath.Join(g.dir, d.name)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		if err := os.Lchown(path, d.owner, d.owner); err != nil {
			return err
		}
	}
	tree, err := os.Open(g.spec.Tree)
	if err != nil {
		return err
	}
	defer tree.Close()
	ids, err := g.host.userNamespace(treeMap(base, g.spec.TreeOwner))
	if err != nil {
		return err
	}
	if err := cloneMount(tree, filepath.Join(g.dir, "low"), unix.MOUNT_ATTR_RDONLY, ids); err != nil {
		return err
	}
	// Volatile: nothing in the upper layer has to survive a crash, so fsync(2)
	// in the guest need not wait for the disk.
	options := fmt.Sprintf("volatile,lowerdir=%[1]s/low,upperdir=%[1]s/upper,workdir=%[1]s/work", g.dir)
	if err := unix.Mount("overlay", filepath.Join(g.dir, "root"), "overlay", 0, options); err != nil {
		return fmt.Errorf("cannot mount root: %w", err)
	}
	return g.makeUsr(base)
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

// Leader gives the process id of the guest's agent, as the host sees it.
func (g *Guest) Leader() int { return g.leader }

// ID gives the guest's machine name.
func (g *Guest) ID() string { return g.spec.ID }

// Output gives the end of what nspawn and the guest's init system printed.
func (g *Guest) Output() string { return g.output.String() }

// Exited is closed when the guest has ended, by itself or by Stop.
func (g *Guest) Exited() <-chan struct{} { return g.exited }

// Kill ends every process of the guest, and leaves the rest to Stop.
func (g *Guest) Kill() {
	_ = os.WriteFile(filepath.Join(g.cgroup, "cgroup.kill"), []byte("1"), 0)
}

// Stop ends every process of the guest and removes all traces of it. It may be
// called again if it failed.
func (g *Guest) Stop() error {
	if err := killCgroup(g.cgroup); err != nil {
		return err
	}
	<-g.exited
	if err := removeDir(g.dir); err != nil {
		return err
	}
	g.host.mu.Lock()
	defer g.host.mu.Unlock()
	g.host.slots[g.slot] = false
	return nil
}

func (h *Manager) takeSlot() (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, taken := range h.slots {
		if !taken {
			h.slots[i] = true
			return i, nil
		}
	}
	return 0, fmt.Errorf("cannot start guest: %d are running already", MaxGuests)
}
