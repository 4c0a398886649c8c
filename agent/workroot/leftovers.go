package workroot

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// These are the runner's own directories beneath the work root. Anything else
// there is a workspace, or something that a job left.
const (
	actionsDir  = "_actions"         // actions of the job, fetched before its first step
	tempDir     = "_temp"            // emptied by the runner, before and after a job
	toolDir     = "_tool"            // tools that jobs install
	updateDir   = "_update"          // the runner's own new version
	pipelineDir = "_PipelineMapping" // which workspace belongs to which repository
)

// asideDir is where that goes which cannot be removed. It is root's alone.
const asideDir = "_aside"

// cleaning is which entries of a work root stay. Everything else is removed, and
// so is one of these that is not a directory: a link that a job put in its place.
type cleaning struct {
	keep      []string // with what is in them
	empty     []string
	workspace string // emptied too; "" for none
}

// RemoveLeftovers removes what earlier jobs left beneath the work root, before
// the first step of a job. Whatever the runner has made for that job already stays:
// its actions and the mapping of its workspace. The workspace, a path of the
// host, is emptied: it is the runner's working directory.
//
// A path outside of the root keeps nothing. Entries that cannot be removed are
// moved aside, where no job sees them, and described in left. An error means that
// an earlier job's files are still there.
func (r Root) RemoveLeftovers(workspace string) (left []string, err error) {
	name, _ := r.Name(workspace)
	return r.clean(cleaning{
		keep: []string{actionsDir, tempDir, updateDir, pipelineDir}, empty: []string{toolDir}, workspace: name,
	})
}

// RemoveJob removes what a job leaves, at its end. It is RemoveLeftovers without
// regard to another job: the runner looks into the mapping of the next one before
// that has a step.
func (r Root) RemoveJob(workspace string) (left []string, err error) {
	name, _ := r.Name(workspace)
	return r.clean(cleaning{
		keep: []string{actionsDir, tempDir, updateDir}, empty: []string{toolDir, pipelineDir}, workspace: name,
	})
}

// RemoveLinks removes what a job put in the place of the runner's directories,
// and nothing else. Without a work root there is nothing to remove.
func (r Root) RemoveLinks() error {
	root, err := os.Open(r.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove links in the work root: %w", err)
	}
	defer root.Close()

	for _, name := range []string{actionsDir, tempDir, toolDir, updateDir, pipelineDir, asideDir} {
		// Unlink removes no directory.
		err := ignoreMissing(unix.Unlinkat(int(root.Fd()), name, 0))
		if err != nil && !errors.Is(err, unix.EISDIR) {
			return fmt.Errorf("cannot remove %s of the work root: %w", name, err)
		}
	}
	return nil
}

func (r Root) clean(c cleaning) (left []string, err error) {
	if err := r.RemoveLinks(); err != nil {
		return nil, err
	}
	root, err := os.Open(r.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot remove what earlier jobs left: %w", err)
	}
	defer root.Close()

	// It may be possible by now.
	if err := remove(root, asideDir); err != nil {
		left = append(left, err.Error())
	}
	cl := cleaner{cleaning: c, root: root}
	if err := cl.clean(root, ""); err != nil {
		return nil, fmt.Errorf("cannot remove what earlier jobs left: %w", err)
	}
	return append(left, cl.left...), nil
}

// cleaner carries out a cleaning.
type cleaner struct {
	cleaning
	root *os.File
	left []string // what was moved aside, and why
}

// clean removes what does not stay in dir, which is open and has a name beneath
// the root.
func (c *cleaner) clean(dir *os.File, dirName string) error {
	return eachName(dir, func(entry string) error {
		name := path.Join(dirName, entry)
		switch {
		case name == asideDir || slices.Contains(c.keep, name):
			return nil
		case slices.Contains(c.empty, name) || name == c.workspace || strings.HasPrefix(c.workspace, name+"/"):
			sub, err := openDir(dir, entry)
			if err == nil {
				defer sub.Close()
				return c.clean(sub, name)
			}
		}

		if err := remove(dir, entry); err != nil {
			return c.moveAside(dir, entry, fmt.Errorf("%.80q: %w", name, err))
		}
		return nil
	})
}

// moveAside moves what could not be removed to where only root finds it.
func (c *cleaner) moveAside(dir *os.File, name string, cause error) error {
	err := unix.Mkdirat(int(c.root.Fd()), asideDir, 0o700)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return errors.Join(cause, err)
	}
	aside, err := openDir(c.root, asideDir)
	if err != nil {
		return errors.Join(cause, err)
	}
	defer aside.Close()
	// A job may have made it.
	if err := errors.Join(aside.Chown(os.Geteuid(), os.Getegid()), aside.Chmod(0o700)); err != nil {
		return errors.Join(cause, err)
	}

	for i := 0; ; i++ {
		to := fmt.Sprintf("%d", i)
		err := unix.Renameat2(int(dir.Fd()), name, int(aside.Fd()), to, unix.RENAME_NOREPLACE)
		switch {
		case err == nil:
			c.left = append(c.left, fmt.Sprintf("%v; it was moved to %s", cause, path.Join(c.root.Name(), asideDir, to)))
			return nil
		case !errors.Is(err, unix.EEXIST):
			return errors.Join(cause, err)
		}
	}
}
