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
func (u *Upgrader) Run(ctx context.Context, m Machine, version string, checkOnly bool) (o Outcome, err error) {
	o.Running = u.Host.Version
	d, err := m.OpenDisk()
	if err != nil {
		return o, err
	}
	defer d.Close()
	esp, unmount, err := m.MountESP(d)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, unmount()) }()

	s, err := u.Settle(esp)
	if err != nil {
		return o, err
	}
	o.Failed = s.Failed
	r, err := u.Find(ctx, s, version)
	if r == nil || err != nil {
		return o, err
	}
	o.Version, o.Severity = r.Version, string(r.Severity)
	if waiting(d, s, u.Host.Version) == r.Version {
		o.Installed = true
		return o, nil
	}
	if checkOnly {
		return o, nil
	}

	fmt.Fprintf(u.Log, "installing version %s, this is %s\n", r.Version, u.Host.Version)
	start := time.Now()
	stats, err := u.Install(ctx, d, esp, s, r)
	o.Took = time.Since(start)
	o.Seconds = o.Took.Seconds()
	if err != nil {
		return o, err
	}
	o.Installed, o.Stats = true, &stats
	fmt.Fprintf(u.Log, "installed version %s in %s: of %d blocks %d were in place and %d on this disk, %d came in %d "+
		"requests of together %.1f MB\n", r.Version, o.Took.Round(time.Second/10), stats.Blocks, stats.InPlace,
		stats.Copied, stats.Downloaded, stats.Requests, float64(stats.Bytes)/1e6)
	return o, nil
}

// waiting returns the version that is installed and was not booted yet, or "".
func waiting(d *disk.Disk, s *State, running string) string {
	p := s.Pending
	if p == nil || p.Version == running || d.Inactive().Version != p.Version {
		return ""
	}
	return p.Version
}
