package upgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mkappliance/mkappliance/agent/disk"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/release"
)

// State is what outlives an upgrade.
type State struct {
	Schema int `json:"schema"` // 1
	// Floor is the oldest version that may be installed, and FloorBy the version
	// that set it; both empty if each may be.
	Floor   string `json:"floor,omitempty"`
	FloorBy string `json:"floor_by,omitempty"`
	// Pending is the version that was installed last, until it has booted well or
	// failed to.
	Pending *Pending `json:"pending,omitempty"`
	// Failed lists versions that did not boot; they are installed on request alone.
	Failed []Failure `json:"failed,omitempty"`
}

// Pending is a version that is installed and not yet proven.
type Pending struct {
	Version string    `json:"version"`
	From    string    `json:"from"` // the version that installed it
	Time    time.Time `json:"time"`
	Boot    string    `json:"boot"`            // id of the boot that installed it
	Floor   string    `json:"floor,omitempty"` // holds once the version has booted well
}

// Failure is a version that the boot loader gave up.
type Failure struct {
	Version string    `json:"version"`
	Time    time.Time `json:"time"` // when it was noticed
	Reason  string    `json:"reason"`
}

const (
	stateName   = "state.json"
	stateSchema = 1
	maxFailures = 20 // that are kept
)

// LoadState reads the state of a directory. A missing one is empty.
func LoadState(dir string) (*State, error) {
	data, err := os.ReadFile(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return &State{Schema: stateSchema}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read state of upgrades: %w", err)
	}
	// The schema first: another may have fields of other types.
	var head struct{ Schema int }
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("cannot read state of upgrades: %s: %w; remove the file", stateName, err)
	}
	if head.Schema != stateSchema {
		return nil, fmt.Errorf("cannot read state of upgrades: %s has schema %d, this agent knows %d; remove the file",
			stateName, head.Schema, stateSchema)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("cannot read state of upgrades: %s: %w; remove the file", stateName, err)
	}
	return &s, nil
}

func (s *State) save(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write state of upgrades: %w", err)
	}
	return atomicfile.Write(filepath.Join(dir, stateName), append(data, '\n'), 0o644)
}

// settle notes how the boots since the last upgrade ended, which the names of the
// UKIs show. note is what the pending version's health check left, or empty. It
// reports whether s changed.
func (s *State) settle(h Host, ukis []disk.UKI, note string, now time.Time) bool {
	p := s.Pending
	if p == nil {
		return false
	}

	uki := find(ukis, p.Version)
	switch {
	case uki == nil: // the upgrade was interrupted, or the file removed
		s.Pending = nil
	case p.Version == h.Version && !uki.Counted:
		s.Pending = nil
		if p.Floor != "" && (s.Floor == "" || release.Compare(p.Floor, s.Floor) > 0) {
			s.Floor, s.FloorBy = p.Floor, p.Version
		}
	case p.Version != h.Version && uki.Failed():
		reason := "it did not boot well"
		if note != "" {
			reason = note
		}
		s.fail(now, reason+", and the boot loader went back to "+h.Version)
	case p.Version != h.Version && uki.Left == tries && p.Boot != h.Boot:
		// Otherwise a scheduled upgrade would reboot for ever.
		s.fail(now, "the boot loader did not start it; bootctl(1) shows which entry is its default")
	default:
		return false
	}
	return true
}

// fail moves the pending version to those that failed.
func (s *State) fail(now time.Time, reason string) {
	s.Failed = append(s.Failed, Failure{Version: s.Pending.Version, Time: now.UTC().Truncate(time.Second), Reason: reason})
	if n := len(s.Failed) - maxFailures; n > 0 {
		s.Failed = s.Failed[n:]
	}
	s.Pending = nil
}

// failed reports whether a version did not boot before.
func (s *State) failed(version string) bool {
	for _, f := range s.Failed {
		if f.Version == version {
			return true
		}
	}
	return false
}

func find(ukis []disk.UKI, version string) *disk.UKI {
	for i := range ukis {
		if ukis[i].Version == version {
			return &ukis[i]
		}
	}
	return nil
}
