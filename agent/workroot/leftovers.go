package workroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// toolDir is where the runner keeps the tools that jobs install. Jobs see it, so
// an earlier job's must not reach a later one.
const toolDir = "_tool"

// RemoveLeftovers removes what earlier jobs left beneath the work root: tools,
// and the workspaces of all repositories. Other names that begin with an
// underscore are the runner's, which empties _temp and _actions itself.
//
// The job's own workspace, a path of the host, stays but is emptied: the runner
// has it as its working directory. A path outside of the root keeps nothing.
func (r Root) RemoveLeftovers(workspace string) error {
	keep, _ := r.Name(workspace)
	root, err := os.OpenRoot(r.Path)
	if err != nil {
		return fmt.Errorf("cannot remove what earlier jobs left: %w", err)
	}
	defer root.Close()

	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return fmt.Errorf("cannot remove what earlier jobs left: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "_") && e.Name() != toolDir {
			continue
		}
		if err := removeBeneath(root, e.Name(), keep); err != nil {
			return fmt.Errorf("cannot remove what earlier jobs left: %w", err)
		}
	}
	return nil
}

// removeBeneath removes name, or only its content if it is the tools, keep, or
// on the way to keep. An os.Root does not follow a link out of it, and removes
// links themselves.
func removeBeneath(root *os.Root, name, keep string) error {
	if name != keep && name != toolDir && !strings.HasPrefix(keep, name+"/") {
		return root.RemoveAll(name)
	}

	info, err := root.Lstat(name)
	if err != nil || !info.IsDir() {
		return errors.Join(err, root.RemoveAll(name))
	}

	entries, err := fs.ReadDir(root.FS(), name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := removeBeneath(root, path.Join(name, e.Name()), keep); err != nil {
			return err
		}
	}
	return nil
}
