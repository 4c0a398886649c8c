package broker

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// ToolSettings are those of the tool cache of jobs whose worker runs in a guest.
type ToolSettings struct {
	Baked string // directory of the image's tools; there need be none
	Kept  string // where the tools stay that jobs add, root's alone; "" if none stay
}

// toolDir is the directory of tools in the work directory. Its layout, of which the
// broker knows no more, is that of @actions/tool-cache: TOOL/VERSION/ARCH, complete
// once there is the file TOOL/VERSION/ARCH.complete.
const (
	toolDir      = "_tool"
	toolComplete = ".complete"
)

// toolCache is the directory of tools of one job. Each guest that shows it sees the
// tools of the image and those that were kept, and adds and changes for itself.
type toolCache struct {
	settings ToolSettings
	layers   workroot.Root // a directory for each guest, of what it writes
	made     atomic.Int32
	log      *slog.Logger
}

// newToolCache returns that of a job that has the directory layers for it, or nil if
// there are neither tools nor a place to keep them.
func newToolCache(s ToolSettings, layers workroot.Root, log *slog.Logger) (*toolCache, error) {
	c := &toolCache{settings: s, layers: layers, log: log}
	if s.Kept != "" {
		if err := c.makeKept(); err != nil {
			return nil, err
		}
	}
	if len(c.lower()) == 0 {
		return nil, nil
	}
	return c, os.Mkdir(layers.Path, 0o700)
}

// makeKept makes the directory of kept tools, unless it is there. It is the
// runner's, whose files appear in guests, and only root comes near it on the host.
func (c *toolCache) makeKept() error {
	if err := os.MkdirAll(c.settings.Kept, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(c.kept().Path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Lchown(c.kept().Path, c.layers.UID, c.layers.GID)
}

// kept is the directory of kept tools.
func (c *toolCache) kept() workroot.Root {
	return workroot.Root{Path: filepath.Join(c.settings.Kept, "cache"), UID: c.layers.UID, GID: c.layers.GID}
}

// toolLayer is a directory of tools and the user who owns what is in it.
type toolLayer struct {
	dir   string
	owner int
}

// lower returns the directories of tools that there are, the first above the
// others.
func (c *toolCache) lower() []toolLayer {
	var layers []toolLayer
	if c.settings.Kept != "" {
		layers = append(layers, toolLayer{dir: c.kept().Path, owner: c.layers.UID})
	}
	if info, err := os.Stat(c.settings.Baked); err == nil && info.IsDir() {
		layers = append(layers, toolLayer{dir: c.settings.Baked, owner: 0})
	}
	return layers
}

// bind returns what shows the tools in a guest, where they belong to user. The
// caller closes it.
func (c *toolCache) bind(target string, user int) (b guest.Bind, err error) {
	b = guest.Bind{Target: target, User: user}
	defer func() {
		if err != nil {
			closeBinds([]guest.Bind{b})
		}
	}()
	for _, l := range c.lower() {
		dir, err := os.Open(l.dir)
		if err != nil {
			return b, err
		}
		b.Lower = append(b.Lower, guest.Layer{Source: dir, Owner: l.owner})
	}

	layer := filepath.Join(c.layers.Path, strconv.Itoa(int(c.made.Add(1))))
	if err := os.Mkdir(layer, 0o755); err != nil {
		return b, err
	}
	b.Source, err = os.Open(layer)
	return b, err
}

// keep moves the complete tools that guests have added, and which no later job
// would see, to where tools stay. The guests are gone, so nobody writes to them. A
// tool that cannot be kept does not keep the job from its end.
func (c *toolCache) keep() {
	if c == nil || c.settings.Kept == "" {
		return
	}
	if err := c.keepAll(); err != nil {
		c.log.Warn("cannot keep the tools of a job", "error", err)
	}
}

func (c *toolCache) keepAll() error {
	var moved []string
	var errs []error
	for i := range c.made.Load() {
		layer := workroot.Root{
			Path: filepath.Join(c.layers.Path, strconv.Itoa(int(i)+1), "upper"), UID: c.layers.UID, GID: c.layers.GID,
		}
		names, err := completeTools(layer.Path)
		errs = append(errs, err)
		for _, name := range names {
			ok, err := c.move(layer, name)
			if ok {
				moved = append(moved, name)
			}
			errs = append(errs, err)
		}
	}
	if len(moved) == 0 {
		return errors.Join(errs...)
	}

	// Guests do not wait for the disk. After a power cut, a tool is complete or it
	// is not said to be.
	if err := syncFileSystem(c.settings.Kept); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, name := range moved {
		errs = append(errs, c.markComplete(name))
	}
	c.log.Info("tools kept", "tools", moved)
	return errors.Join(errs...)
}

// move moves a tool, and reports whether it did: not if one of that name is there.
func (c *toolCache) move(from workroot.Root, name string) (bool, error) {
	kept := filepath.Join(c.kept().Path, name)
	for _, l := range c.lower() {
		switch _, err := os.Lstat(filepath.Join(l.dir, name)); {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return false, err
		}
		if _, err := os.Lstat(kept + toolComplete); l.dir == c.kept().Path && errors.Is(err, fs.ErrNotExist) {
			// Left by a broker that was ended. Another job can bring the tool.
			return false, workroot.Root{Path: kept}.Remove()
		}
		return false, nil
	}

	tool := from
	tool.Path = filepath.Join(from.Path, name)
	if err := tool.RestoreOwnership(guest.FirstUID); err != nil {
		return false, err
	}
	if err := os.Lchown(tool.Path, from.UID, from.GID); err != nil {
		return false, err
	}
	parent, err := c.kept().Make(filepath.Dir(name))
	if err != nil {
		return false, err
	}
	_ = parent.Close()
	return true, os.Rename(tool.Path, kept)
}

func (c *toolCache) markComplete(name string) error {
	kept, err := c.kept().OpenRoot(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer kept.Close()
	mark, err := kept.Create(filepath.Base(name) + toolComplete)
	if err != nil {
		return err
	}
	return errors.Join(mark.Chown(c.layers.UID, c.layers.GID), mark.Close())
}

// completeTools returns the names of complete tools, TOOL/VERSION/ARCH, in a
// directory that a job wrote.
func completeTools(dir string) ([]string, error) {
	var complete []string
	tools, err := someEntries(dir)
	if err != nil {
		return nil, err
	}
	for _, tool := range tools {
		versions, err := someEntries(filepath.Join(dir, tool.Name()))
		if err != nil {
			return nil, err
		}
		for _, version := range versions {
			name := filepath.Join(tool.Name(), version.Name())
			entries, err := someEntries(filepath.Join(dir, name))
			if err != nil {
				return nil, err
			}
			complete = append(complete, completeIn(name, entries)...)
		}
	}
	return complete[:min(len(complete), maxTools)], nil
}

// completeIn returns the names of complete tools among the entries of
// TOOL/VERSION.
func completeIn(name string, entries []fs.DirEntry) []string {
	marked := map[string]bool{}
	for _, e := range entries {
		arch, ok := strings.CutSuffix(e.Name(), toolComplete)
		if ok && e.Type().IsRegular() && !strings.HasSuffix(arch, toolComplete) {
			marked[arch] = true
		}
	}
	var complete []string
	for _, e := range entries {
		if e.IsDir() && marked[e.Name()] {
			complete = append(complete, filepath.Join(name, e.Name()))
		}
	}
	return complete
}

// Bounds of what is looked at for tools to keep: a job may have made any number of
// entries in a directory, and of tools.
const (
	maxToolEntries = 100
	maxTools       = 100
)

// someEntries returns entries of a directory, none of anything else. A link is not
// followed.
func someEntries(path string) ([]fs.DirEntry, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(maxToolEntries)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return entries, err
}

// syncFileSystem writes the file system of a directory to the disk, syncfs(2).
func syncFileSystem(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("cannot write %s to the disk: %w", path, err)
	}
	return nil
}
