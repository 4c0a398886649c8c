package broker

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// rootFS is the root file system that a container's guest starts from: that of
// an OCI image, or a tree that is baked into the appliance.
type rootFS struct {
	tree    string // directory on the host
	owner   int    // on disk, of what is root's in the tree
	hasInit bool   // runs an init system of its own
	config  oci.Config
	release func() // lets the tree be removed
}

// containerSpec is a container to be started, as root has decided.
type containerSpec struct {
	brokerapi.Container
	options dockeropts.Options // those of Container, parsed
	ports   []dockeropts.Port
	root    rootFS
	address netip.Addr
	hosts   [][]string        // of the job: address and names of each guest
	volumes string            // directory of the job's named volumes
	files   map[string]string // further ones to put into the guest: path, content
	makeDir bool              // as docker-create(1) does with the working directory
}

// newContainerSpec parses what a workflow says of a container in Docker's words.
// place is where in the workflow it says so, for errors; it may be empty.
func newContainerSpec(place string, c brokerapi.Container) (containerSpec, error) {
	if place != "" {
		place += ": "
	}
	spec := containerSpec{Container: c}

	var err error
	if spec.options, err = dockeropts.Parse(c.Options); err != nil {
		return spec, wire.Unsupported("%soptions: %w", place, err)
	}
	for _, text := range c.Ports {
		port, err := dockeropts.ParsePort(text)
		if err != nil {
			return spec, wire.Unsupported("%sports: %w", place, err)
		}
		spec.ports = append(spec.ports, port)
	}
	return spec, nil
}

// container is a guest with the user and environment of its processes.
type container struct {
	id    string
	guest Guest
	env   map[string]string
	user  user
	dir   string
	drop  []string // capabilities its processes do not have
}

// process asks for one of the container's.
func (c *container) process(argv []string, env map[string]string, dir string) guestapi.Process {
	return guestapi.Process{
		Argv: argv, Env: environ(env), Dir: dir,
		UID: c.user.uid, GID: c.user.gid, Groups: c.user.groups, DropCapabilities: c.drop,
	}
}

// user is one of a guest's.
type user struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// ociOwner owns on disk what is root's in a pulled image: nobody on the host.
const ociOwner = guest.SubordinateBase

func (s *Server) baseRoot() rootFS { return newBakedRoot(s.settings.Base) }

func newBakedRoot(tree string) rootFS {
	_, err := os.Lstat(filepath.Join(tree, "sbin/init"))
	return rootFS{tree: tree, hasInit: err == nil, release: func() {}}
}

// findRoot finds the baked tree or pulls the OCI image that a container names.
func (s *Server) findRoot(ctx context.Context, c brokerapi.Container, report progress) (rootFS, error) {
	name := strings.TrimPrefix(c.Image, "docker://")
	if tree, ok := s.settings.Images[name]; ok {
		return newBakedRoot(tree), nil
	}
	var credentials *oci.Credentials
	if c.Credentials != nil {
		credentials = (*oci.Credentials)(c.Credentials)
	}
	pulled, err := s.parts.Images.Pull(ctx, name, credentials, func(line string) { report("%s", line) })
	if err != nil {
		return rootFS{}, err
	}
	return newOCIRoot(pulled), nil
}

func newOCIRoot(i Image) rootFS {
	return rootFS{tree: i.Tree, owner: ociOwner, config: i.Config, release: i.Release}
}

// findOrBuildRoot is findRoot for an OCI image that may have to be built first.
func (s *Server) findOrBuildRoot(ctx context.Context, client *caller, r brokerapi.ContainerRequest) (rootFS, error) {
	if r.Build == nil {
		return s.findRoot(ctx, r.Container, progressOf(client.Conn))
	}
	return s.build(ctx, client, *r.Build)
}

// argv is the container's own process: what the workflow says, or the image;
// an entrypoint of the workflow's makes the image's command void, as in
// docker-run(1).
func (c *containerSpec) argv() []string {
	entrypoint, args := c.root.config.Entrypoint, c.root.config.Cmd
	if c.options.Entrypoint != nil {
		entrypoint, args = nil, nil
		if *c.options.Entrypoint != "" {
			entrypoint = []string{*c.options.Entrypoint}
		}
	}
	if len(c.Entrypoint) > 0 {
		entrypoint, args = c.Entrypoint, nil
	}
	if len(c.Args) > 0 {
		args = c.Args
	}
	return slices.Concat(entrypoint, args)
}

// environment merges what the image, the options and the workflow say.
func (c *containerSpec) environment(home string) map[string]string {
	env := mergeEnv(map[string]string{"HOME": home}, parseEnviron(c.root.config.Env), c.options.Env, c.Env)
	if env["PATH"] == "" {
		env["PATH"] = DefaultPath
	}
	return env
}

// launch starts the guest of a container, joins it to the network and shows it
// what it is to see.
func (s *Server) launch(ctx context.Context, spec containerSpec, net Network) (_ *container, err error) {
	u, err := findUser(spec)
	if err != nil {
		return nil, err
	}
	guestSpec, err := s.guestSpec(spec)
	if err != nil {
		return nil, err
	}
	binds, err := binder{settings: s.settings, volumes: spec.volumes, user: int(u.uid)}.open(spec.Mounts)
	if err != nil {
		return nil, err
	}
	defer closeBinds(binds)
	g, err := s.takeGuest(ctx, guestSpec)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Stop())
		}
	}()
	if err := net.Join(g.Leader(), spec.address); err != nil {
		return nil, err
	}
	c := &container{id: newID(), guest: g, env: spec.environment(u.home), user: u, drop: spec.options.CapDrop,
		dir: cmp.Or(spec.Dir, spec.options.Workdir, spec.root.config.WorkingDir, "/")}
	if err := g.Configure(ctx, binds, s.guestConfig(spec, c)); err != nil {
		return nil, err
	}
	return c, nil
}

func findUser(spec containerSpec) (user, error) {
	u, err := oci.FindUser(spec.root.tree, cmp.Or(spec.options.User, spec.root.config.User))
	if err != nil {
		return user{}, err
	}
	return user{uid: u.UID, gid: u.GID, groups: u.Groups, home: u.Home}, nil
}

// guestSpec is the part of a container that its guest is started with.
func (s *Server) guestSpec(spec containerSpec) (guest.Spec, error) {
	o := spec.options
	g := guest.Spec{ID: machineName(newID()), Tree: spec.root.tree, TreeOwner: spec.root.owner, Boot: spec.root.hasInit,
		Limits: guest.Limits{Memory: o.Memory, Pids: o.PidsLimit, CPUs: o.CPUs}}
	for _, d := range o.Devices {
		if !slices.Contains(s.settings.Devices, d.Host) {
			return g, wire.Unsupported("device %s is not allowed: it is not in RUNNER_NSPAWN_DEVICES of config.env", d.Host)
		}
		if workroot.CheckTarget(d.Guest) != nil || !strings.HasPrefix(d.Guest, "/dev/") {
			return g, wire.Unsupported("device %s cannot appear as %q: that is not beneath /dev", d.Host, d.Guest)
		}
		g.Devices = append(g.Devices, guest.Device{Source: d.Host, Target: d.Guest})
	}
	return g, nil
}

// guestConfig is what the guest agent does before the first process.
func (s *Server) guestConfig(spec containerSpec, c *container) guestapi.Config {
	hostname := cmp.Or(spec.options.Hostname, c.guest.ID())
	hosts := append([][]string{{spec.address.String(), hostname}}, spec.hosts...)
	for _, h := range spec.options.AddHosts {
		hosts = append(hosts, []string{h.Address, h.Name})
	}
	config := guestapi.Config{
		Hostname: hostname,
		Files:    map[string]string{"/etc/hosts": guestapi.Hosts(hosts...), "/etc/hostname": hostname + "\n", "/etc/resolv.conf": s.resolvConf()},
		Dirs:     slices.Clone(spec.root.config.Volumes),
	}
	maps.Copy(config.Files, spec.files)
	if spec.makeDir {
		config.Dirs = append(config.Dirs, c.dir)
	}
	for _, m := range spec.Mounts {
		if m.Scratch {
			config.Dirs = append(config.Dirs, m.Target)
		}
	}
	for _, t := range spec.options.Tmpfs {
		config.Tmpfs = append(config.Tmpfs, guestapi.Tmpfs{Target: t.Path, Flags: t.Flags(), Options: t.Data()})
	}
	if size := spec.options.ShmSize; size > 0 {
		config.Tmpfs = append(config.Tmpfs, guestapi.Tmpfs{Target: "/dev/shm", Flags: []string{"nosuid", "nodev"}, Options: fmt.Sprintf("mode=1777,size=%d", size)})
	}
	return config
}

// resolvConf is resolv.conf(5) with the host's own name servers.
func (s *Server) resolvConf() string {
	var b strings.Builder
	for _, r := range s.settings.Resolvers {
		fmt.Fprintf(&b, "nameserver %s\n", r)
	}
	return b.String()
}

func (c *container) stop() error { return c.guest.Stop() }

func newID() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails, crypto/rand
	return hex.EncodeToString(raw[:])
}

// machineName is short enough for an interface name, IFNAMSIZ.
func machineName(id string) string { return "j-" + id[:8] }
