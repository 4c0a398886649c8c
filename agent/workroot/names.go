package workroot

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// hiddenDirs returns the directories beneath the work root that no guest sees:
// where the runner reads the hook's answers, which a job must not forge, where it
// keeps its own new version, and from where it takes the workspace of a
// repository's next job.
func hiddenDirs() []string {
	return []string{tempDir + "/_runner_hook_responses", updateDir, pipelineDir}
}

// HiddenBeneath returns the hidden directories that lie in the directory name of
// the work root, relative to it.
func HiddenBeneath(name string) []string {
	var names []string
	for _, hidden := range hiddenDirs() {
		if rel, err := filepath.Rel(name, hidden); err == nil && filepath.IsLocal(rel) && rel != "." {
			names = append(names, rel)
		}
	}
	return names
}

// CheckVisible refuses a name beneath the work root that guests must not see.
func CheckVisible(name string) error {
	name = filepath.Clean(name)
	for _, hidden := range hiddenDirs() {
		if name == hidden || strings.HasPrefix(name, hidden+"/") {
			return fmt.Errorf("%s belongs to the runner", name)
		}
	}
	return nil
}

// CheckTarget refuses a path in a guest at which nothing can be shown.
func CheckTarget(target string) error {
	if !path.IsAbs(target) || path.Clean(target) != target || target == "/" {
		return errors.New("the target is not a clean absolute path")
	}
	return nil
}
