package upgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// A note is the reason why a version may not have booted well, written by that
// version for the one to which the boot loader then goes back.

const noteName = "note.json"

type note struct {
	Version string `json:"version"`
	Reason  string `json:"reason"`
}

// WriteNote writes the note of a version, in place of the one before.
func WriteNote(dir, version, reason string) error {
	data, err := json.Marshal(note{version, reason})
	if err != nil {
		return fmt.Errorf("cannot write note: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot write note: %w", err)
	}
	return atomicfile.Write(filepath.Join(dir, noteName), append(data, '\n'), 0o644)
}

// RemoveNote removes the note: the version has booted well.
func RemoveNote(dir string) error {
	if err := os.Remove(filepath.Join(dir, noteName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove note: %w", err)
	}
	return nil
}

// readNote returns the reason in the note of a version, or "" without one.
func readNote(dir, version string) string {
	var n note
	data, err := os.ReadFile(filepath.Join(dir, noteName))
	if err != nil || json.Unmarshal(data, &n) != nil || n.Version != version {
		return ""
	}
	return n.Reason
}
