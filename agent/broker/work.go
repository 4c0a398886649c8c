package broker

import (
	"path/filepath"

	"github.com/mkappliance/mkappliance/agent/workroot"
)

// workDir is the work directory that a job's requests speak of: that of the
// runner, or the job's own if its worker runs in a guest.
type workDir struct {
	workroot.Root
	// shown is its path in requests: what the hook of the job calls it.
	shown string
}

// workDir returns that of a runner on the host, where both paths are one.
func (s Settings) workDir() workDir { return workDir{Root: s.root(s.WorkRoot), shown: s.WorkRoot} }

// name returns the name beneath the work directory that a path in a request has,
// and reports whether it has one. It looks at the text alone.
func (w workDir) name(path string) (name string, beneath bool) {
	return workroot.Root{Path: w.shown}.Name(path)
}

// onHost returns the path on the host of a path in a request, or "" if that is not
// beneath the work directory.
func (w workDir) onHost(path string) string {
	if name, beneath := w.name(path); beneath {
		return filepath.Join(w.Path, name)
	}
	return ""
}
