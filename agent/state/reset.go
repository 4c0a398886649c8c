package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/workroot"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// Step is what a reset does to one path.
type Step struct {
	Path string // absolute, in the system
	Fate Fate
}

// Plan returns the steps of a reset of the system whose root directory is root, in
// the order of their paths. keepConfig leaves config.env as it is.
func Plan(root string, keepConfig bool) ([]Step, error) {
	p := planner{root: root, keepConfig: keepConfig, table: Table()}
	if err := p.visit("/var"); err != nil {
		return nil, fmt.Errorf("cannot plan reset: %w", err)
	}
	return p.steps, nil
}

type planner struct {
	root       string
	keepConfig bool
	table      []Entry
	steps      []Step
}

// visit plans what is in a directory that holds paths of the table.
func (p *planner) visit(dir string) error {
	entries, err := os.ReadDir(filepath.Join(p.root, dir))
	if err != nil {
		return err
	}
	for _, child := range entries {
		path := filepath.Join(dir, child.Name())
		fate := Removed
		switch e := Find(p.table, path); {
		case path == RequestFile: // the last
			continue
		case e != nil:
			fate = e.Reset
		case child.IsDir() && IsParent(p.table, path):
			if err := p.visit(path); err != nil {
				return err
			}
			continue
		}
		if path == configDir && p.keepConfig {
			fate = Kept
		}
		p.steps = append(p.steps, Step{path, fate})
	}
	return nil
}

// Reset makes the reset that was asked for in the system whose root directory is
// root, and reports whether there was one. The request goes last, once everything
// else is durable.
func Reset(root string, log io.Writer) (bool, error) {
	request, err := Asked(root)
	if request == nil || err != nil {
		return false, err
	}
	steps, err := Plan(root, request.KeepConfig)
	if err != nil {
		return true, err
	}

	var failed error // one path that cannot be removed must not keep the others
	for _, s := range steps {
		if s.Fate == Kept {
			continue
		}
		fmt.Fprintf(log, "%s %s\n", s.Fate, s.Path)
		failed = errors.Join(failed, s.do(root))
	}
	if failed != nil {
		return true, fmt.Errorf("cannot reset: %w", failed)
	}
	return true, finish(root)
}

// finish removes the request.
func finish(root string) error {
	request := filepath.Join(root, RequestFile)
	dir, err := os.Open(filepath.Dir(request))
	if err != nil {
		return fmt.Errorf("cannot reset: %w", err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("cannot reset: %w", err)
	}
	if err := os.Remove(request); err != nil {
		return fmt.Errorf("cannot reset: %w", err)
	}
	return atomicfile.SyncDir(dir.Name())
}

func (s Step) do(root string) error {
	path := filepath.Join(root, s.Path)
	if s.Fate == Removed {
		return remove(path)
	}

	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().IsRegular():
		return os.Truncate(path, 0)
	case !info.IsDir():
		return remove(path)
	}
	children, err := os.ReadDir(path)
	for _, child := range children {
		err = errors.Join(err, remove(filepath.Join(path, child.Name())))
	}
	return err
}

// remove removes a tree that a job may have written.
func remove(path string) error { return workroot.Root{Path: path}.Remove() }
