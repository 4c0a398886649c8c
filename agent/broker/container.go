package broker

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// container is a guest with what the processes in it have in common.
type container struct {
	id    string // for clients, lower-case hex
	guest Guest
	user  oci.User
	env   map[string]string
	dir   string // working directory of its own process

	// These confine its processes, beyond what confines all guests.
	drop            []string // capabilities
	noNewPrivileges bool
	rlimits         []guestapi.Rlimit

	mu      sync.Mutex // held while the guest is being stopped
	stopped bool
}

// newContainer starts the guest of a member, joins it to the job's network and
// shows it what it is to see. If that fails, no guest is left.
func (j *job) newContainer(ctx context.Context, m *member) (_ *container, err error) {
	user, err := m.user()
	if err != nil {
		return nil, err
	}
	spec, err := j.guestSpec(m)
	if err != nil {
		return nil, err
	}
	binder := binder{settings: j.settings, work: j.work, volumes: j.volumes, user: int(user.UID), tools: j.tools()}
	binds, err := binder.open(m.spec.show, m.spec.Mounts)
	if err != nil {
		return nil, err
	}
	defer closeBinds(binds)

	g, err := j.guests.start(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Stop())
		}
	}()

	if err := j.network.Join(g.Leader(), m.address); err != nil {
		return nil, err
	}
	c := &container{
		id: newID(), guest: g, user: user,
		env:  j.settings.withAuthorities(m.environment(user.Home)),
		dir:  cmp.Or(m.spec.Dir, m.spec.options.Workdir, m.root.config.WorkingDir, "/"),
		drop: m.spec.options.CapDrop, noNewPrivileges: m.spec.options.NoNewPrivileges, rlimits: m.rlimits(),
	}
	// A volume gets its content from one guest alone, and from others when that has.
	if slices.ContainsFunc(binds, func(b guest.Bind) bool { return b.Fill }) {
		j.filling.Lock()
		defer j.filling.Unlock()
	}
	if err := g.Configure(ctx, binds, j.guestConfig(m, c)); err != nil {
		return nil, err
	}
	return c, nil
}

// process returns a process as one of the container's.
func (c *container) process(argv []string, env map[string]string, dir string) guestapi.Process {
	return guestapi.Process{
		Argv: argv, Env: environ(env), Dir: dir,
		UID: c.user.UID, GID: c.user.GID, Groups: c.user.Groups,
		DropCapabilities: c.drop, NoNewPrivileges: c.noNewPrivileges, Rlimits: c.rlimits,
	}
}

// exec runs a process in the container's own environment and directory.
func (c *container) exec(ctx context.Context, argv []string, streams wire.Streams) (int, error) {
	return c.guest.Exec(ctx, c.process(argv, c.env, c.dir), streams)
}

// stop removes the guest, once: a step and the end of its job may both call it.
// It may be called again if it failed.
func (c *container) stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil
	}
	err := c.guest.Stop()
	c.stopped = err == nil
	return err
}

// guestSpec returns the part of a member that its guest is started with.
func (j *job) guestSpec(m *member) (guest.Spec, error) {
	o := m.spec.options
	spec := guest.Spec{
		ID: newMachineName(), Tree: m.root.tree, TreeOwner: m.root.owner, Boot: m.root.hasInit,
		Limits: guest.Limits{
			Memory: o.Memory, Pids: o.PidsLimit, CPUs: o.CPUs, CPUWeight: o.CPUWeight, CPUSet: o.CPUSet,
		},
	}
	for _, u := range o.Ulimits {
		if u.Resource == unix.RLIMIT_MEMLOCK { // the others are as high as guests may have them
			spec.Memlock = u.Hard
		}
	}
	if err := j.checkOptions(m); err != nil {
		return spec, err
	}
	for _, d := range o.Devices {
		if !slices.Contains(j.settings.Devices, d.Host) {
			return spec, wire.Unsupported("device %s is not allowed: it is not in RUNNER_NSPAWN_DEVICES of config.env", d.Host)
		}
		if workroot.CheckTarget(d.Guest) != nil || !strings.HasPrefix(d.Guest, "/dev/") {
			return spec, wire.Unsupported("device %s cannot appear as %q: that is not beneath /dev", d.Host, d.Guest)
		}
		spec.Devices = append(spec.Devices, guest.Device{Source: d.Host, Target: d.Guest})
	}
	return spec, nil
}

// checkOptions refuses what not every job or guest can have.
func (j *job) checkOptions(m *member) error {
	o := m.spec.options
	if o.ReadOnly && m.root.hasInit {
		return wire.Unsupported("%soptions: option --read-only is not supported for a guest that boots systemd; remove it",
			m.place)
	}
	if j.worker == nil && slices.ContainsFunc(o.AddHosts, func(h dockeropts.HostEntry) bool { return h.Gateway }) {
		return wire.Unsupported("%soptions: option --add-host: host-gateway is not supported where steps run on the host, "+
			"which guests cannot reach; write an address, or make it a service of the job", m.place)
	}
	return nil
}

// guestConfig returns what makes the guest of a member its container.
func (j *job) guestConfig(m *member, c *container) guestapi.Config {
	hostname := cmp.Or(m.spec.options.Hostname, c.guest.ID())
	config := guestapi.Config{
		Hostname: hostname, Domainname: m.spec.options.Domainname,
		Files: map[string]string{
			"/etc/hosts":       j.hostsFile(m, hostname),
			"/etc/hostname":    hostname + "\n",
			"/etc/resolv.conf": j.resolvConf(m.spec.options),
		},
		Sysctls: m.spec.options.Sysctls, ReadOnlyRoot: m.spec.options.ReadOnly,
		Dirs:    slices.Clone(m.root.config.Volumes),
		CACerts: j.settings.CACerts,
	}
	maps.Copy(config.Files, m.spec.files)

	if m.spec.makeDir {
		config.Dirs = append(config.Dirs, c.dir)
	}
	for _, mount := range m.spec.Mounts {
		if mount.Scratch {
			config.Dirs = append(config.Dirs, mount.Target)
		}
	}

	for _, t := range m.spec.options.Tmpfs {
		config.Tmpfs = append(config.Tmpfs, guestapi.Tmpfs{Target: t.Path, Flags: t.Flags(), Options: t.Data()})
	}
	if size := m.spec.options.ShmSize; size > 0 {
		config.Tmpfs = append(config.Tmpfs, guestapi.Tmpfs{
			Target: "/dev/shm", Flags: []string{"nosuid", "nodev"}, Options: fmt.Sprintf("mode=1777,size=%d", size),
		})
	}
	return config
}

// hostsFile returns hosts(5) for a member: itself, the job's other containers,
// and what its options add.
func (j *job) hostsFile(m *member, hostname string) string {
	own := []string{m.address.String()}
	if domain := m.spec.options.Domainname; domain != "" {
		own = append(own, hostname+"."+domain)
	}

	j.mu.Lock()
	lines := append([][]string{append(own, hostname)}, j.hosts...)
	j.mu.Unlock()
	for _, h := range m.spec.options.AddHosts {
		address := h.Address
		if h.Gateway {
			address = j.worker.member.address.String() // checkOptions has made sure of it
		}
		lines = append(lines, []string{address, h.Name})
	}
	return guestapi.Hosts(lines...)
}

// resolvConf returns resolv.conf(5) with the host's own name servers, or those of
// the options.
func (j *job) resolvConf(o dockeropts.Options) string {
	var b strings.Builder
	if len(o.DNS) > 0 {
		for _, address := range o.DNS {
			fmt.Fprintf(&b, "nameserver %s\n", address)
		}
	} else {
		for _, r := range j.settings.Resolvers {
			fmt.Fprintf(&b, "nameserver %s\n", r)
		}
	}
	if len(o.DNSSearch) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(o.DNSSearch, " "))
	}
	if len(o.DNSOptions) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(o.DNSOptions, " "))
	}
	return b.String()
}

func newID() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails, crypto/rand
	return hex.EncodeToString(raw[:])
}

// newMachineName returns the name of a new guest, which is short enough for an
// interface name, IFNAMSIZ.
func newMachineName() string { return "j-" + newID()[:8] }
