package workroot

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// hiddenDirs are directories beneath the work root that no guest sees: where the
// runner reads the hook's answers, which a job must not forge, and where it
// keeps its own new version.
var hiddenDirs = []string{"_temp/_runner_hook_responses", "_update"}

// HiddenBeneath gives the hidden directories that lie in the directory work.
func HiddenBeneath(work string) []string {
	var names []string
	for _, h := range hiddenDirs {
		if name, err := filepath.Rel(work, h); err == nil && filepath.IsLocal(name) && name != "." {
			names = append(names, name)
		}
	}
	return names
}

// CheckHidden refuses a path beneath the work root that is hidden.
func CheckHidden(name string) error {
	name = filepath.Clean(name)
	for _, h := range hiddenDirs {
		if name == h || strings.HasPrefix(name, h+"/") {
			return fmt.Errorf("%s is the runner's own", name)
		}
	}
	return nil
}

// CheckTarget refuses what a request cannot name as a place in a guest.
func CheckTarget(target string) error {
	if !path.IsAbs(target) || path.Clean(target) != target || target == "/" {
		return errors.New("the target is not a clean absolute path")
	}
	return nil
}
