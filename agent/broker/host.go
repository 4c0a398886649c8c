package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/internal/run"
)

// Host is where a broker runs: what its command line says.
type Host struct {
	Socket    string // unix socket to listen on; empty for that which systemd hands over
	Base      string // directory of the guest base; empty for that of config.env
	JobsDir   string // for what guests write; root's alone
	ImagesDir string // for OCI images
	WorkRoot  string // the runner's work directory
	Externals string // directory of the runner's node.js builds

	ActionsRunner string // directory with bin and externals of the actions runner
	WorkerLogs    string // where the logs of workers are kept; root's alone
	Tools         string // directory of the image's tools; there need be none
	KeptTools     string // where tools stay that jobs add, if config.env has them stay; root's alone
	KeptVolumes   string // where the volumes are that config.env has outlive jobs; root's alone

	RunnerUID, RunnerGID int // who may ask, besides root
}

// Run is the broker's program. It removes what an earlier one left, sets up the
// network of guests and serves until ctx ends. Call EnterPrivateMounts before.
func (h Host) Run(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	guests, err := h.guests(cfg, log)
	if err != nil {
		return err
	}
	images := h.images(cfg)
	if err := errors.Join(guests.Sweep(), images.Sweep()); err != nil {
		return err
	}

	listener, err := h.listen()
	if err != nil {
		return err
	}
	networks, err := h.networks(ctx, cfg, log)
	if err != nil {
		return err
	}

	settings := h.settings(cfg)
	settings.Resolvers = networks.Resolvers
	server := NewServer(settings, NewParts(guests, networks, images), log)
	return errors.Join(server.Serve(ctx, listener), networks.Close(), guests.Close())
}

// settings returns the broker's settings without the name servers.
func (h Host) settings(cfg *config.Config) Settings {
	s := Settings{
		WorkRoot: h.WorkRoot, JobsDir: h.JobsDir, Externals: h.Externals,
		RunnerUID: h.RunnerUID, RunnerGID: h.RunnerGID,
		Base: h.Base, Images: map[string]string{},
		Devices: cfg.Guests.Devices, InsecureRegistries: cfg.Guests.Insecure,
		CACerts: string(cfg.CACerts.PEM),
		Volumes: VolumeSettings{Kept: h.KeptVolumes, Names: cfg.Guests.Volumes},
		Spare:   cfg.Guests.Spare, KeepWork: cfg.Guests.KeepWork,
		Limits: JobLimits{Disk: cfg.Guests.Disk, Time: cfg.Guests.Timeout},
	}
	if s.Base == "" {
		s.Base = cfg.BaseRootfs
	}
	s.Worker = WorkerSettings{
		ActionsRunner: h.ActionsRunner, Registration: cfg.ActionsRunnerDir, Logs: h.WorkerLogs,
		SetupInfo: setupInfo("/", s.Base), Docker: cfg.Containers == config.ContainersDocker,
	}
	s.Tools.Baked = h.Tools
	if cfg.Guests.KeepTools {
		s.Tools.Kept = h.KeptTools
	}

	// The guest base is Debian 13, so these names are true.
	for _, name := range []string{"runner-base", "debian:13", "debian:13-slim", "debian:trixie", "debian:trixie-slim"} {
		s.Images[name] = s.Base
	}
	maps.Copy(s.Images, cfg.Guests.Images)

	for _, b := range cfg.Bind {
		s.Bind = append(s.Bind, HostBind(b))
	}
	for _, b := range cfg.BindRO {
		s.BindRO = append(s.BindRO, HostBind(b))
	}
	return s
}

// delegateSubgroup is DelegateSubgroup= of runner-guestd.service.
const delegateSubgroup = "broker"

// guests returns what starts guests, with the limits of config.env.
func (h Host) guests(cfg *config.Config, log *slog.Logger) (*guest.Manager, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find the agent for guests: %w", err)
	}
	agent := filepath.Join(filepath.Dir(self), "runner-shim")
	if _, err := os.Stat(agent); err != nil {
		return nil, fmt.Errorf("cannot find the agent for guests: %w; it belongs beside runner-agent", err)
	}
	parent, err := guest.FindCgroup(delegateSubgroup)
	if err != nil {
		return nil, err
	}

	limits := guest.Limits{Memory: cfg.Guests.Memory, Pids: cfg.Guests.Pids, CPUs: cfg.Guests.CPUs}
	if limits.Memory == 0 {
		if limits.Memory, err = defaultMemory(); err != nil {
			return nil, err
		}
	}
	return &guest.Manager{
		Agent: agent, JobsDir: h.JobsDir, ReadyTimeout: cfg.ReadyTimeout, Limits: limits,
		Cgroup: filepath.Join(parent, "guests-"+h.instance()), Log: log,
	}, nil
}

// instance returns a name, in hexadecimal, that differs between brokers with
// different directories, so that they do not sweep each other's guests.
func (h Host) instance() string {
	sum := sha256.Sum256([]byte(h.JobsDir))
	return hex.EncodeToString(sum[:4])
}

// defaultMemory returns how many bytes all guests together may use if config.env
// does not say: an eighth of the memory is left to the host, sysinfo(2).
func defaultMemory() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("cannot find the size of the memory: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit) / 8 * 7, nil
}

// images returns the store of OCI images.
func (h Host) images(cfg *config.Config) *oci.Store {
	var github string
	if u, err := url.Parse(cfg.GitHubURL); err == nil {
		github = u.Hostname()
	}
	return &oci.Store{
		Dir: h.ImagesDir, MaxBytes: cfg.Guests.ImageCache,
		Insecure: cfg.Guests.Insecure, GitHub: github, Allow: cfg.Guests.Allow,
		Owner: ociOwner, Helper: []string{"images"}, Unpacker: []string{"unpack"},
	}
}

// networks sets up the network of guests.
func (h Host) networks(ctx context.Context, cfg *config.Config, log *slog.Logger) (*network.Manager, error) {
	m := &network.Manager{
		Allow: cfg.Guests.Allow, AllowHosts: cfg.Servers(), Resolvers: network.Resolvers(),
		Prefix: "rg" + h.instance()[:4], Executor: run.Local{}, Log: log,
	}
	return m, useSubnet(cfg.Guests.Subnet, func(subnet netip.Prefix) error {
		m.Subnet = subnet
		return m.Setup(ctx)
	})
}

// useSubnet calls setUp with the subnet that config.env names or, if it is not
// valid, with one after the other until the host does not use it itself.
func useSubnet(configured netip.Prefix, setUp func(netip.Prefix) error) error {
	if configured.IsValid() {
		err := setUp(configured)
		if errors.Is(err, network.ErrOverlap) {
			return fmt.Errorf("%w; choose another in RUNNER_GUEST_SUBNET", err)
		}
		return err
	}

	var overlaps error
	for _, subnet := range defaultSubnets() {
		err := setUp(subnet)
		if !errors.Is(err, network.ErrOverlap) {
			return err
		}
		overlaps = errors.Join(overlaps, err)
	}
	return fmt.Errorf("%w; set RUNNER_GUEST_SUBNET", overlaps)
}

// defaultSubnets returns private ranges that are seldom used, RFC 1918.
func defaultSubnets() []netip.Prefix {
	var list []netip.Prefix
	for _, second := range []byte{29, 30, 28, 27} {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, second, 0, 0}), 16))
	}
	return append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213, 0, 0}), 16))
}
