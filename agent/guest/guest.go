// Package guest starts and ends systemd-nspawn guests. A guest has the base
// tree as its root, under a layer of its own that is thrown away, user ids that
// are nobody's on the host, and nothing of the host but what is bound into it.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mkappliance/command"
)

// Bind is a directory of the host to show in a guest.
type Bind struct {
	Source   *os.File // opened by the caller, so that it cannot be exchanged
	Target   string   // absolute path in the guest
	ReadOnly bool
	// Owner, if not 0, is the host user whose files are guest root's; with 0
	// the tree is shown as it is on disk, to be read only.
	Owner int
}

// Spec describes a guest to start.
type Spec struct {
	ID    string // short, unique among the guests that run: its machine name
	Tree  string // the directory that is its root, never written
	Binds []Bind
}

// Host holds what all guests of a broker have in common.
type Host struct {
	Agent        string        // static runner-agent binary, put into each guest
	JobsDir      string        // where guests keep what they write, root's alone
	Cgroup       string        // cgroup2 directory to make the guests' cgroups in
	ReadyTimeout time.Duration // how long a guest may take to answer

	mu    sync.Mutex
	slots [MaxGuests]bool
}

// Where the guest finds the agent and the directory of its socket.
const (
	guestAgent  = "/run/runner/runner-agent"
	guestSocket = "/run/runner/host"
	socketName  = "agent.sock"
)

// Guest is a running guest.
type Guest struct {
	host   *Host
	spec   Spec
	slot   int
	dir    string // everything of this guest on the host's disk
	cgroup string
	exited chan struct{} // closed when nspawn has ended
	output *tail
}

// Start starts a guest and waits until its agent answers. When it fails, or ctx
// ends, nothing is left behind.
func (h *Host) Start(ctx context.Context, spec Spec) (*Guest, error) {
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
	if err := g.makeRoot(); err != nil {
		close(g.exited)
		return err
	}
	if err := g.makeBinds(); err != nil {
		close(g.exited)
		return err
	}
	if err := g.spawn(); err != nil {
		close(g.exited)
		return err
	}
	return g.waitReady(ctx)
}

// makeRoot lays out the guest's directory and mounts its root.
func (g *Guest) makeRoot() error {
	base := rangeBase(g.slot)
	for _, d := range []struct {
		name  string
		owner int
	}{{"", 0}, {"low", 0}, {"upper", base}, {"work", 0}, {"root", 0}, {"socket", base}, {"bind", 0}} {
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
	ids, err := userNamespace(treeMap(base), treeMap(base))
	if err != nil {
		return err
	}
	defer ids.Close()
	if err := cloneMount(tree, filepath.Join(g.dir, "low"), unix.MOUNT_ATTR_RDONLY, ids); err != nil {
		return err
	}
	// Volatile: nothing in the upper layer has to survive a crash, so fsync(2)
	// in the guest need not wait for the disk.
	options := fmt.Sprintf("volatile,lowerdir=%[1]s/low,upperdir=%[1]s/upper,workdir=%[1]s/work", g.dir)
	if err := unix.Mount("overlay", filepath.Join(g.dir, "root"), "overlay", 0, options); err != nil {
		return fmt.Errorf("cannot mount root: %w", err)
	}
	return g.makeMountPoints(base)
}

// makeMountPoints makes the directories that binds go onto, and those above, as
// the guest root's; nspawn would make them nobody's. No link of the tree leads
// out of it here.
func (g *Guest) makeMountPoints(base int) error {
	root, err := os.OpenRoot(filepath.Join(g.dir, "root"))
	if err != nil {
		return err
	}
	defer root.Close()
	for _, b := range g.spec.Binds {
		name := ""
		for part := range strings.SplitSeq(strings.TrimPrefix(b.Target, "/"), "/") {
			name = filepath.Join(name, part)
			if err := root.Mkdir(name, 0o755); errors.Is(err, fs.ErrExist) {
				continue
			} else if err != nil {
				return fmt.Errorf("cannot make mount point %s: %w", b.Target, err)
			}
			if err := root.Lchown(name, base, base); err != nil {
				return fmt.Errorf("cannot make mount point %s: %w", b.Target, err)
			}
		}
	}
	return nil
}

// makeBinds mounts each directory to be shown under a name of ours, with its
// ids mapped; nspawn binds it into the guest from there.
func (g *Guest) makeBinds() error {
	base := rangeBase(g.slot)
	maps := map[int]*os.File{}
	defer func() {
		for _, f := range maps {
			_ = f.Close()
		}
	}()
	for i, b := range g.spec.Binds {
		target := g.bindPath(i)
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
		attributes := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
		if b.ReadOnly {
			attributes |= unix.MOUNT_ATTR_RDONLY
		}
		if maps[b.Owner] == nil {
			m := treeMap(base)
			if b.Owner != 0 {
				m = workMap(base, b.Owner)
			}
			var err error
			if maps[b.Owner], err = userNamespace(m, m); err != nil {
				return err
			}
		}
		if err := cloneMount(b.Source, target, attributes, maps[b.Owner]); err != nil {
			return err
		}
	}
	return nil
}

func (g *Guest) bindPath(i int) string { return filepath.Join(g.dir, "bind", strconv.Itoa(i)) }

// argv is the systemd-nspawn(1) command of the guest.
func (g *Guest) argv() []string {
	argv := []string{"systemd-nspawn", "--quiet", "--boot", "--keep-unit", "--register=no", "--settings=no",
		"--directory=" + filepath.Join(g.dir, "root"), "--machine=" + g.spec.ID, "--hostname=" + g.spec.ID,
		fmt.Sprintf("--private-users=%d:%d", rangeBase(g.slot), rangeSize), "--private-users-ownership=off",
		"--private-network", "--link-journal=no", "--timezone=off", "--resolv-conf=off", "--console=pipe",
		"--suppress-sync=yes",
		"--bind-ro=" + escape(g.host.Agent) + ":" + guestAgent,
		"--bind=" + escape(filepath.Join(g.dir, "socket")) + ":" + guestSocket}
	for i, b := range g.spec.Binds {
		flag := "--bind="
		if b.ReadOnly {
			flag = "--bind-ro="
		}
		argv = append(argv, flag+escape(g.bindPath(i))+":"+escape(b.Target))
	}
	return argv
}

// escape protects colons in paths, as systemd-nspawn(1) --bind wants it.
func escape(path string) string { return strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(path) }

// spawn starts nspawn in the guest's cgroup.
func (g *Guest) spawn() error {
	if err := os.Mkdir(g.cgroup, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(g.cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	argv := g.argv()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"),
		// Guests see one cgroup tree, on hosts that still have two as well.
		"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",
		// No memory-backed /tmp of a tenth of the RAM: builds need more.
		"SYSTEMD_NSPAWN_TMPFS_TMP=0"}
	cmd.Stdout, cmd.Stderr = g.output, g.output
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	// A broker that is killed takes its guests along.
	return command.StartChild(cmd, func(error) {
		// A killed nspawn leaves the guest's processes running, and steps
		// waiting for them.
		_ = os.WriteFile(filepath.Join(g.cgroup, "cgroup.kill"), []byte("1"), 0)
		close(g.exited)
	})
}

// waitReady waits until the agent in the guest answers.
func (g *Guest) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, g.host.ReadyTimeout,
		fmt.Errorf("it was not ready after %v (RUNNER_NSPAWN_READY_TIMEOUT_S)", g.host.ReadyTimeout))
	defer cancel()
	for {
		if conn, err := g.Dial(); err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-g.exited:
			return fmt.Errorf("it ended at once: %s", g.output)
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), g.output)
		}
	}
}

// Dial connects to the agent in the guest. The guest could have put anything in
// the socket's place, so no link is followed.
func (g *Guest) Dial() (net.Conn, error) {
	dir, err := os.Open(filepath.Join(g.dir, "socket"))
	if err != nil {
		return nil, fmt.Errorf("cannot reach guest: %w", err)
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), socketName, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot reach guest: %w", err)
	}
	socket := os.NewFile(uintptr(fd), socketName)
	defer socket.Close()
	info, err := socket.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot reach guest: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return nil, errors.New("cannot reach guest: its socket is none")
	}
	conn, err := net.Dial("unix", "/proc/self/fd/"+strconv.Itoa(fd))
	if err != nil {
		return nil, fmt.Errorf("cannot reach guest: %w", err)
	}
	return conn, nil
}

// Exited is closed when the guest has ended, by itself or by Stop.
func (g *Guest) Exited() <-chan struct{} { return g.exited }

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

// removeDir deletes a guest's directory once nothing is mounted in it.
func removeDir(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove what a guest left: %w", err)
	}
	return nil
}

func (h *Host) takeSlot() (int, error) {
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

// Sweep removes what guests of an earlier broker left: processes, cgroups,
// mounts and directories. It also prepares the directories for new ones.
func (h *Host) Sweep() error {
	if err := os.MkdirAll(h.JobsDir, 0o700); err != nil {
		return fmt.Errorf("cannot make directory for guests: %w", err)
	}
	delegate(filepath.Dir(h.Cgroup))
	if err := os.Mkdir(h.Cgroup, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make cgroup for guests: %w", err)
	}
	delegate(h.Cgroup)
	groups, err := os.ReadDir(h.Cgroup)
	if err != nil {
		return fmt.Errorf("cannot sweep: %w", err)
	}
	for _, e := range groups {
		if e.IsDir() {
			err = errors.Join(err, killCgroup(filepath.Join(h.Cgroup, e.Name())))
		}
	}
	jobs, readErr := os.ReadDir(h.JobsDir)
	err = errors.Join(err, readErr)
	for _, e := range jobs {
		err = errors.Join(err, removeDir(filepath.Join(h.JobsDir, e.Name())))
	}
	return err
}

// tail keeps the end of what is written to it.
type tail struct {
	mu    sync.Mutex
	buf   []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-t.limit):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
