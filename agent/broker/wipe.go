package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"mkappliance/agent/api"
)

// wipe removes what earlier jobs left beneath the work root: tools, and the
// workspaces of all repositories. What begins with an underscore is otherwise
// the runner's own, which empties _temp and _actions itself. The job's own
// workspace stays, emptied: the runner stands in it.
func (s *Server) wipe(workspace string) error {
	root, err := os.OpenRoot(s.settings.WorkRoot)
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
		if err := wipeBeneath(root, name, workspace); err != nil {
			return fmt.Errorf("cannot wipe work root: %w", err)
		}
	}
	return nil
}

// wipeBeneath removes name, or only what is in it if it is keep or on the way to
// it. A root follows no link out of it, and removes links themselves.
func wipeBeneath(root *os.Root, name, keep string) error {
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
		if err := wipeBeneath(root, path.Join(name, e.Name()), keep); err != nil {
			return err
		}
	}
	return nil
}

// workspace gives the directory of a job's repository, relative to the work
// root, by the place where its container sees it; "" if it has none.
func (s *Server) workspace(c *api.Container) string {
	if c == nil {
		return ""
	}
	for _, m := range c.Mounts {
		below, inMount := strings.CutPrefix(c.Dir, m.Target+"/")
		source, err := filepath.Rel(s.settings.WorkRoot, m.Source)
		if inMount && err == nil && filepath.IsLocal(source) {
			return path.Join(source, below)
		}
	}
	return ""
}
