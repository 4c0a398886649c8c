package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/broker"
	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

// brokerCgroup is what DelegateSubgroup= of runner-guestd.service says.
const brokerCgroup = "broker"

type brokerOptions struct {
	socket, configFile, base, jobsDir, imagesDir, workRoot, externals string
	uid, gid                                                          int
}

func newBrokerCommand() *cobra.Command {
	var o brokerOptions
	c := &cobra.Command{
		Use:   "broker",
		Short: "Start and end guests for the unprivileged runner",
		Long: `Start and end guests for the unprivileged runner. It runs as root, on the socket
that systemd hands over, and takes every host path and limit from config.env and
from its flags, never from a request. When it ends, so do the guests.

Exit status:
  0  it was asked to stop
  1  it could not listen, or could not sweep what an earlier broker left
  2  the command line or config.env is wrong`,
		Example: `  # what runner-guestd.service runs
  runner-agent broker
  # by hand, beside the appliance's own
  runner-agent broker --socket /run/test.sock --base /srv/tree --jobs-dir /srv/jobs`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.StringVar(&o.socket, "socket", "", "listen on the unix socket `PATH` (default: the one systemd hands over)")
	f.StringVar(&o.configFile, "config", layout.ConfigFile, "read settings from `FILE`, if it exists")
	f.StringVar(&o.base, "base", "", "guest base `TREE` (default: RUNNER_NSPAWN_BASE_ROOTFS)")
	f.StringVar(&o.jobsDir, "jobs-dir", layout.Jobs, "`DIR` for what guests write")
	f.StringVar(&o.imagesDir, "images-dir", layout.OCIImages, "`DIR` for pulled images")
	f.StringVar(&o.workRoot, "work-root", layout.Work, "the runner's work `DIR`")
	f.StringVar(&o.externals, "externals", layout.BakedActionsRunner+"/externals", "`DIR` with the runner's node.js builds")
	f.IntVar(&o.uid, "runner-uid", layout.RunnerUID, "user `ID` of the runner")
	f.IntVar(&o.gid, "runner-gid", layout.RunnerGID, "group `ID` of the runner")
	return c
}

func (o *brokerOptions) run(c *cobra.Command) error {
	if err := enterPrivateMounts(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
	cfg, err := o.config(log)
	if err != nil {
		return cli.Usage(err)
	}
	host, err := o.host(cfg)
	if err != nil {
		return err
	}
	store := o.store(cfg)
	if err := errors.Join(host.Sweep(), store.Sweep()); err != nil {
		return err
	}
	listener, err := o.listen()
	if err != nil {
		return err
	}
	net, err := o.network(c.Context(), cfg, log)
	if err != nil {
		return err
	}
	server := broker.NewServer(o.settings(cfg), broker.NewParts(host, net, store), log)
	return errors.Join(server.Serve(c.Context(), listener), net.Close())
}

// config reads config.env. Before cloud-init has written it, the defaults hold.
func (o *brokerOptions) config(log *slog.Logger) (*config.Config, error) {
	if _, err := os.Stat(o.configFile); errors.Is(err, fs.ErrNotExist) {
		return config.FromEnviron(nil)
	}
	cfg, warnings, err := config.Load(o.configFile)
	for _, w := range warnings {
		log.Warn(w)
	}
	return cfg, err
}

// host says how guests are run here.
func (o *brokerOptions) host(cfg *config.Config) (*guest.Manager, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find the agent for guests: %w", err)
	}
	agent := filepath.Join(filepath.Dir(self), "runner-shim")
	if _, err := os.Stat(agent); err != nil {
		return nil, fmt.Errorf("cannot find the agent for guests: %w; it belongs beside runner-agent", err)
	}
	parent, err := guest.FindCgroup(brokerCgroup)
	if err != nil {
		return nil, err
	}
	limits := guest.Limits{Memory: cfg.Guests.Memory, Pids: cfg.Guests.Pids, CPUs: cfg.Guests.CPUs}
	if limits.Memory == 0 {
		if limits.Memory, err = defaultMemory(); err != nil {
			return nil, err
		}
	}
	return &guest.Manager{Agent: agent, JobsDir: o.jobsDir, ReadyTimeout: cfg.ReadyTimeout, Limits: limits,
		Cgroup: filepath.Join(parent, "guests-"+o.instance())}, nil
}

// instance tells brokers with different directories apart, so that they do not
// sweep each other's guests.
func (o *brokerOptions) instance() string {
	sum := sha256.Sum256([]byte(o.jobsDir))
	return hex.EncodeToString(sum[:4])
}

// defaultMemory leaves the host an eighth of its memory, sysinfo(2).
func defaultMemory() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("cannot find the size of the memory: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit) / 8 * 7, nil
}

// network says how guests are connected here.
func (o *brokerOptions) network(ctx context.Context, cfg *config.Config, log *slog.Logger) (*network.Manager, error) {
	net := &network.Manager{Subnet: cfg.Guests.Subnet, Allow: cfg.Guests.Allow, Resolvers: network.Resolvers(),
		Prefix: "rg" + o.instance()[:4], Executor: run.Local{}, Log: log}
	if net.Subnet.IsValid() {
		err := net.Setup(ctx)
		if errors.Is(err, network.ErrOverlap) {
			err = fmt.Errorf("%w; choose another RUNNER_GUEST_SUBNET in config.env", err)
		}
		return net, err
	}
	var overlaps error
	for _, subnet := range subnets() {
		net.Subnet = subnet
		err := net.Setup(ctx)
		if err == nil || !errors.Is(err, network.ErrOverlap) {
			return net, err
		}
		overlaps = errors.Join(overlaps, err)
	}
	return nil, fmt.Errorf("%w; set RUNNER_GUEST_SUBNET in config.env", overlaps)
}

// subnets are what guests get if config.env does not say, the first that the
// host does not use itself.
func subnets() []netip.Prefix {
	var list []netip.Prefix
	for _, second := range []byte{29, 30, 28, 27} {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, second, 0, 0}), 16))
	}
	return append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213, 0, 0}), 16))
}

func (o *brokerOptions) store(cfg *config.Config) *oci.Store {
	return &oci.Store{Dir: o.imagesDir, MaxBytes: cfg.Guests.ImageCache, Insecure: cfg.Guests.Insecure, Owner: guest.SubordinateBase,
		Unpacker: []string{"unpack"}}
}

func (o *brokerOptions) settings(cfg *config.Config) broker.Settings {
	base := cfg.BaseRootfs
	if o.base != "" {
		base = o.base
	}
	s := broker.Settings{WorkRoot: o.workRoot, JobsDir: o.jobsDir, Resolvers: network.Resolvers(), InsecureRegistries: cfg.Guests.Insecure, Externals: o.externals, RunnerUID: o.uid, RunnerGID: o.gid, Base: base,
		Images: map[string]string{}, Devices: cfg.Guests.Devices, Spare: cfg.Guests.Spare, KeepWork: cfg.Guests.KeepWork,
		Limits: broker.JobLimits{Disk: cfg.Guests.Disk, Time: cfg.Guests.Timeout}}
	// The base tree is Debian 13, so these names are true.
	for _, name := range []string{"runner-base", "debian:13", "debian:13-slim", "debian:trixie", "debian:trixie-slim"} {
		s.Images[name] = base
	}
	maps.Copy(s.Images, cfg.Guests.Images)
	for _, b := range cfg.Bind {
		s.Bind = append(s.Bind, broker.HostBind(b))
	}
	for _, b := range cfg.BindRO {
		s.BindRO = append(s.BindRO, broker.HostBind(b))
	}
	return s
}

func (o *brokerOptions) listen() (net.Listener, error) {
	if o.socket == "" {
		listeners, err := activation.Listeners()
		if err != nil || len(listeners) != 1 {
			return nil, errors.Join(errors.New("cannot listen: systemd handed over no socket; give --socket"), err)
		}
		return listeners[0], nil
	}
	if err := os.Remove(o.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	l, err := net.Listen("unix", o.socket)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	if err := errors.Join(os.Chown(o.socket, 0, o.gid), os.Chmod(o.socket, 0o660)); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen: %w", err), l.Close())
	}
	return l, nil
}

// privateMark is set in the environment of a broker that has entered a mount
// namespace of its own.
const privateMark = "RUNNER_BROKER_PRIVATE_MOUNTS"

// enterPrivateMounts gives the process a mount namespace of its own, so that
// the mounts of guests vanish with it, however it ends. A thread alone can
// enter one, so the program is executed again from there.
func enterPrivateMounts() error {
	if os.Getenv(privateMark) != "" {
		return os.Unsetenv(privateMark)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot make a mount namespace: %w; the broker has to run as root", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("cannot make a mount namespace: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find own program: %w", err)
	}
	return fmt.Errorf("cannot start again: %w", unix.Exec(self, os.Args, append(os.Environ(), privateMark+"=1")))
}
