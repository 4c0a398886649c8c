package upgrade

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mkappliance/mkappliance/agent/disk"
)

// Machine is the appliance's disk.
type Machine interface {
	// OpenDisk opens the disk, and locks it.
	OpenDisk() (*disk.Disk, error)
	// MountESP mounts its ESP, and returns what unmounts it.
	MountESP(d *disk.Disk) (*disk.ESP, func() error, error)
}

// Outcome is how an upgrade ended.
type Outcome struct {
	Running string `json:"running"` // version
	// Version is the one that was found; empty if none is newer.
	Version  string `json:"version,omitempty"`
	Severity string `json:"severity,omitempty"`
	// Installed reports that the next boot starts Version.
	Installed bool          `json:"installed"`
	Stats     *Stats        `json:"blocks,omitempty"` // nil if nothing was written
	Took      time.Duration `json:"-"`
	Seconds   float64       `json:"seconds,omitempty"` // Took
	Failed    []Failure     `json:"failed,omitempty"`  // versions that did not boot
}

// Run finds a version, as Find does, and installs it, unless checkOnly is set.
func (u *Upgrader) Run(ctx context.Context, m Machine, version string, checkOnly bool) (Outcome, error) {
	o := Outcome{Running: u.Host.Version}
	err := u.with(m, func(d *disk.Disk, esp *disk.ESP, s *State) error {
		o.Failed = s.Failed
		return u.run(ctx, d, esp, s, version, checkOnly, &o)
	})
	return o, err
}

// Place is where a channel is.
type Place struct {
	Name string // URL or absolute path of the channel's directory
	Root string // that path if Name is none, but a name for messages
}

// RunFirst is Run with the first place that has a version to install. One that
// fails, or must not be installed from, is left for the next.
func (u *Upgrader) RunFirst(ctx context.Context, m Machine, places []Place, version string, checkOnly bool) (Outcome,
	error) {
	for i, p := range places {
		from := *u
		from.Source, from.Root = p.Name, p.Root
		opened, err := from.Open()
		if err != nil {
			return Outcome{}, err
		}

		outcome, err := opened.Run(ctx, m, version, checkOnly)
		if i == len(places)-1 || ctx.Err() != nil || err == nil && outcome.Version != "" {
			return outcome, err
		}
		if err != nil {
			fmt.Fprintf(u.Log, "nothing is installed from %s: %v\n", p.Name, err)
		}
	}
	return Outcome{}, errors.New("cannot upgrade: there is no source")
}

// Settle notes how the boots since the last upgrade ended.
func (u *Upgrader) Settle(m Machine) error {
	return u.with(m, func(*disk.Disk, *disk.ESP, *State) error { return nil })
}

// with opens the disk, mounts its ESP, and settles the state, before do.
func (u *Upgrader) with(m Machine, do func(*disk.Disk, *disk.ESP, *State) error) (err error) {
	d, err := m.OpenDisk()
	if err != nil {
		return err
	}
	defer d.Close()
	esp, unmount, err := m.MountESP(d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()

	s, err := u.settle(esp)
	if err != nil {
		return err
	}
	return do(d, esp, s)
}

func (u *Upgrader) run(ctx context.Context, d *disk.Disk, esp *disk.ESP, s *State, version string, checkOnly bool,
	o *Outcome) error {
	r, err := u.Find(ctx, s, version)
	if r == nil || err != nil {
		return err
	}
	o.Version, o.Severity = r.Version, string(r.Severity)
	if waiting(d, s, u.Host.Version) == r.Version {
		o.Installed = true
		return nil
	}
	if checkOnly {
		return nil
	}

	fmt.Fprintf(u.Log, "installing version %s, this is %s\n", r.Version, u.Host.Version)
	start := time.Now()
	stats, err := u.Install(ctx, d, esp, s, r)
	o.Took = time.Since(start)
	o.Seconds = o.Took.Seconds()
	if err != nil {
		return err
	}
	o.Installed, o.Stats = true, &stats
	fmt.Fprintf(u.Log, "installed version %s in %s: of %d blocks %d were in place and %d on this disk, %d came in %d "+
		"requests of together %.1f MB\n", r.Version, o.Took.Round(time.Second/10), stats.Blocks, stats.InPlace,
		stats.Copied, stats.Downloaded, stats.Requests, float64(stats.Bytes)/1e6)
	return nil
}

// waiting returns the version that is installed and was not booted yet, or "".
func waiting(d *disk.Disk, s *State, running string) string {
	p := s.Pending
	if p == nil || p.Version == running || d.Inactive().Version != p.Version {
		return ""
	}
	return p.Version
}
