package dist

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// State is what is known of copies. Everybody may read it.
type State struct {
	Schema int `json:"schema"` // 1
	// Current is the version of the copy that came online last; empty for the
	// image's.
	Current string `json:"current,omitempty"`
	// Trial is the version that runs at the next start, until it has been online or
	// failed.
	Trial *Trial `json:"trial,omitempty"`
	// Failed lists versions that did not come online; they are tried on request
	// alone.
	Failed []Failure `json:"failed,omitempty"`
	// Copies describes the copies that were added, and releases that only the image
	// has.
	Copies []Copy `json:"copies,omitempty"`
	// Checked is when a newer release was looked for last, successfully.
	Checked time.Time `json:"checked,omitzero"`
}

// Trial is a version that has not been online yet.
type Trial struct {
	Version string    `json:"version"`
	Since   time.Time `json:"since"`
	Starts  int       `json:"starts"` // of runner.service with it
}

// Failure is a version that did not come online.
type Failure struct {
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
	Reason  string    `json:"reason"`
}

// Copy describes a version of the actions runner.
type Copy struct {
	Version   string    `json:"version"`
	From      string    `json:"from,omitempty"`     // where its archive is from
	Published time.Time `json:"published,omitzero"` // by GitHub; zero if not known
}

const (
	stateName   = "state.json"
	stateSchema = 1
	maxFailures = 20 // that are kept
	// maxStarts is how often runner.service may start with a version that has not
	// been online: a renewal that would judge it can have been interrupted.
	maxStarts = 5
)

// LoadState reads the state of a directory of copies. A missing one is empty.
func LoadState(dir string) (*State, error) {
	data, err := os.ReadFile(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return &State{Schema: stateSchema}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read state of the actions runner: %w", err)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("cannot read state of the actions runner: %s: %w; remove the file", stateName, err)
	}
	if s.Schema != stateSchema {
		return nil, fmt.Errorf("cannot read state of the actions runner: %s has schema %d, this agent knows %d; "+
			"remove the file", stateName, s.Schema, stateSchema)
	}
	return &s, nil
}

func (s *State) save(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write state of the actions runner: %w", err)
	}
	return atomicfile.Write(filepath.Join(dir, stateName), append(data, '\n'), 0o644)
}

// try makes a version the trial, also one that failed before.
func (s *State) try(version string, now time.Time) {
	s.forgive(version)
	s.Trial = &Trial{Version: version, Since: now.UTC().Truncate(time.Second)}
}

// prove makes the trial current.
func (s *State) prove() { s.Current, s.Trial = s.Trial.Version, nil }

// fail moves the trial to the versions that failed.
func (s *State) fail(reason string, now time.Time) {
	s.forgive(s.Trial.Version)
	s.Failed = append(s.Failed,
		Failure{Version: s.Trial.Version, Time: now.UTC().Truncate(time.Second), Reason: reason})
	if n := len(s.Failed) - maxFailures; n > 0 {
		s.Failed = s.Failed[n:]
	}
	s.Trial = nil
}

func (s *State) forgive(version string) {
	s.Failed = slices.DeleteFunc(s.Failed, func(f Failure) bool { return f.Version == version })
}

// failure returns why a version failed, or nil.
func (s *State) failure(version string) *Failure {
	for i := range s.Failed {
		if s.Failed[i].Version == version {
			return &s.Failed[i]
		}
	}
	return nil
}

// describe notes what is known of a version.
func (s *State) describe(c Copy) {
	s.Copies = slices.DeleteFunc(s.Copies, func(old Copy) bool { return old.Version == c.Version })
	s.Copies = append(s.Copies, c)
}

// Copy returns what is known of a version: its number alone if nothing else is.
func (s *State) Copy(version string) Copy {
	for _, c := range s.Copies {
		if c.Version == version {
			return c
		}
	}
	return Copy{Version: version}
}
