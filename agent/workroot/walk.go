package workroot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Visitor is what Walk calls. An error of its functions does not keep Walk from
// the other entries, unless it is ErrStop.
type Visitor struct {
	// Enter is called for each entry; for a directory, before its content.
	Enter func(e Entry) error
	// Leave, if not nil, is called for each directory after its content.
	Leave func(e Entry) error
}

// Entry is something that a walk came upon.
type Entry struct {
	Dir  *os.File     // directory that it lies in, open during the call
	Name string       // in Dir
	Stat *unix.Stat_t // of the entry itself, not of what a link leads to; nil for Leave

	above []level
}

// Depth returns how many directories of the walk the entry lies in, 1 at the
// least.
func (e Entry) Depth() int { return len(e.above) }

// Path returns the name of the entry beneath the directory that is walked.
func (e Entry) Path() string {
	var names []string
	for _, l := range e.above[1:] {
		names = append(names, l.name)
	}
	return strings.Join(append(names, e.Name), "/")
}

// ErrStop ends a walk when a function of a Visitor returns or wraps it.
var ErrStop = errors.New("the walk was stopped")

// batch is how many names of a directory are read at once.
const batch = 512

// level is a directory on the way from the root of a walk to where it is.
type level struct {
	name     string
	dev, ino uint64
	pending  []string // its directories that are still to be entered
}

// walker walks a tree whose names and depth a job chose. However deep it is, the
// walker has two directories open: it comes back by "..", and makes sure that
// this is the directory it came from.
type walker struct {
	Visitor
	dir    *os.File // the directory of the last level
	levels []level
	failed failures
}

// Walk visits everything beneath an open directory. It follows no link and passes
// over what vanishes meanwhile. A directory that is moved while the walk is in it
// ends the walk with an error.
func Walk(root *os.File, v Visitor) error {
	w := walker{Visitor: v}
	defer func() {
		if w.dir != nil {
			_ = w.dir.Close()
		}
	}()

	w.levels = []level{{}}
	if err := w.open(root, "."); err != nil {
		return err
	}
	for {
		top := &w.levels[len(w.levels)-1]
		if n := len(top.pending); n > 0 {
			name := top.pending[n-1]
			top.pending = top.pending[:n-1]
			if err := w.descend(name); err != nil {
				return err
			}
			continue
		}

		if len(w.levels) == 1 {
			return w.failed.err()
		}
		if err := w.ascend(); err != nil {
			return err
		}
	}
}

// descend enters a directory, and visits what is in it.
func (w *walker) descend(name string) error {
	w.levels = append(w.levels, level{name: name})
	err := w.open(w.dir, name)
	if err == nil || errors.Is(err, ErrStop) {
		return err
	}

	// It stays unentered.
	w.levels = w.levels[:len(w.levels)-1]
	return w.failed.add(name, err)
}

// open makes the directory name the walker's, which is the last level, and visits
// what is in it.
func (w *walker) open(parent *os.File, name string) error {
	dir, err := openDir(parent, name)
	if err != nil {
		return err
	}
	top := &w.levels[len(w.levels)-1]
	if top.dev, top.ino, err = identify(dir); err != nil {
		_ = dir.Close()
		return err
	}

	if w.dir != nil {
		_ = w.dir.Close()
	}
	w.dir = dir
	return eachName(dir, w.enter)
}

// enter visits an entry of the walker's directory.
func (w *walker) enter(name string) error {
	var stat unix.Stat_t
	err := unix.Fstatat(int(w.dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = w.Enter(Entry{Dir: w.dir, Name: name, Stat: &stat, above: w.levels})
	}
	if err == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		top := &w.levels[len(w.levels)-1]
		top.pending = append(top.pending, name)
	}
	return w.failed.add(name, err)
}

// ascend goes back to the directory above.
func (w *walker) ascend() error {
	last := len(w.levels) - 1
	name, above := w.levels[last].name, w.levels[last-1]

	parent, err := openDir(w.dir, "..")
	if err != nil {
		return fmt.Errorf("cannot return from %.80q: %w", name, err)
	}
	dev, ino, err := identify(parent)
	if err == nil && (dev != above.dev || ino != above.ino) {
		err = errors.New("it was moved meanwhile")
	}
	if err != nil {
		_ = parent.Close()
		return fmt.Errorf("cannot return from %.80q: %w", name, err)
	}

	_ = w.dir.Close()
	w.dir, w.levels = parent, w.levels[:last]
	if w.Leave == nil {
		return nil
	}
	return w.failed.add(name, w.Leave(Entry{Dir: parent, Name: name, above: w.levels}))
}

// openDir opens a directory to read it, and no link to one.
func openDir(parent *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func identify(dir *os.File) (dev, ino uint64, err error) {
	var stat unix.Stat_t
	err = unix.Fstat(int(dir.Fd()), &stat)
	return stat.Dev, stat.Ino, err
}

// eachName calls do with each name in an open directory, until it fails.
func eachName(dir *os.File, do func(name string) error) error {
	for {
		names, err := dir.Readdirnames(batch)
		for _, name := range names {
			if err := do(name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// failures are the errors of a walk: the first, and how many there are. A job
// decides how many.
type failures struct {
	first error
	count int
}

// add notes an error at an entry, if there is one. It returns those that end the
// walk.
func (f *failures) add(name string, err error) error {
	switch {
	case err == nil || errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, ErrStop):
		return err
	}
	f.count++
	if f.first == nil {
		f.first = fmt.Errorf("%.80q: %w", name, err)
	}
	return nil
}

func (f *failures) err() error {
	if f.count > 1 {
		return fmt.Errorf("%w (and %d more)", f.first, f.count-1)
	}
	return f.first
}
