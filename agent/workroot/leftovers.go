package workroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// RemoveLeftovers removes what earlier jobs left beneath the work root: tools, and the
// workspaces of all repositories. What begins with an underscore is otherwise
// the runner's own, which empties _temp and _actions itself. The job's own
// workspace stays, emptied: the runner stands in it.
func RemoveLeftovers(workRoot, workspace string) error {
	keep, err := filepath.Rel(workRoot, workspace)
	if err != nil || !filepath.IsLocal(keep) {
		keep = ""
	}
	root, err := os.OpenRoot(workRoot)
	if err != nil {
		return fmt.Errorf("cannot wipe work root: %w", err)
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return fmt.Errorf("cannot wipe work root: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, "_") && name != "_tool" {
			continue
		}
		if err := removeBeneath(root, name, keep); err != nil {
			return fmt.Errorf("cannot wipe work root: %w", err)
		}
	}
	return nil
}

// removeBeneath removes name, or only what is in it if it is keep or on the way to
// it. A root follows no link out of it, and removes links themselves.
func removeBeneath(root *os.Root, name, keep string) error {
	if name != keep && name != "_tool" && !strings.HasPrefix(keep, name+"/") {
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
