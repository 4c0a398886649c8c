package dist

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/release"
)

// Store is the copies of the actions runner of an appliance.
type Store struct {
	Dir     string // of the copies
	Baked   string // directory of the image's copy
	Version string // of the image's copy; empty if it is not known
	Link    string // path of the link to the copy that runs
}

// versionPattern is that of GitHub's releases. A directory of another name is not a
// copy.
var versionPattern = regexp.MustCompile(`^[0-9]{1,9}(\.[0-9]{1,9}){2}$`)

// path returns the directory of a version; an empty one is the image's.
func (s *Store) path(version string) string {
	if version == "" {
		return s.Baked
	}
	return filepath.Join(s.Dir, version)
}

// usable reports whether there is a copy of a version that is newer than the image's.
func (s *Store) usable(version string) bool {
	return version != "" && release.Compare(version, s.Version) > 0 && s.has(version)
}

func (s *Store) has(version string) bool {
	if !versionPattern.MatchString(version) {
		return false
	}
	info, err := os.Lstat(filepath.Join(s.path(version), listener))
	return err == nil && info.Mode().IsRegular()
}

// Active returns the version of the copy that runs, or ran last: that which the link
// names. It is empty for the image's.
func (s *Store) Active() string {
	target, err := os.Readlink(s.Link)
	if err != nil || filepath.Dir(target) != filepath.Clean(s.Dir) {
		return ""
	}
	return filepath.Base(target)
}

// Select chooses the copy that the next start of runner.service uses, and points the
// link to it. It returns its version, empty for the image's. That is chosen too if
// the state cannot be read: the error is for the journal.
func (s *Store) Select(now time.Time) (string, error) {
	state, err := LoadState(s.Dir)
	version := ""
	if err == nil && (state.Trial != nil || state.Current != "") {
		version = s.choose(state, now)
		err = state.save(s.Dir)
	}
	return version, errors.Join(err, s.point(version))
}

// choose returns the version to start, and counts a start of a trial.
func (s *Store) choose(state *State, now time.Time) string {
	if t := state.Trial; t != nil {
		switch {
		case !s.usable(t.Version):
			state.Trial = nil
		case t.Starts >= maxStarts:
			state.fail(fmt.Sprintf("it was not online in %d starts", t.Starts), now)
		default:
			t.Starts++
			return t.Version
		}
	}

	if s.usable(state.Current) {
		return state.Current
	}
	return "" // an image that is newer may be left again
}

// point makes the link lead to a version.
func (s *Store) point(version string) error {
	temporary := s.Link + ".new"
	err := os.Remove(temporary)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot choose actions runner: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.Link), 0o755); err != nil {
		return fmt.Errorf("cannot choose actions runner: %w", err)
	}
	if err := os.Symlink(s.path(version), temporary); err != nil {
		return fmt.Errorf("cannot choose actions runner: %w", err)
	}
	if err := os.Rename(temporary, s.Link); err != nil {
		return fmt.Errorf("cannot choose actions runner: %w", err)
	}
	return nil
}

// prune removes copies that no start will use any more, but for those of keep, and
// what an interrupted renewal left.
func (s *Store) prune(state *State, keep ...string) error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return fmt.Errorf("cannot remove old actions runners: %w", err)
	}
	keep = append(keep, state.Current)
	if state.Trial != nil {
		keep = append(keep, state.Trial.Version)
	}

	var errs error
	for _, e := range entries {
		name := e.Name()
		isCopy := versionPattern.MatchString(name)
		switch {
		case isCopy && (name == s.Active() || slices.Contains(keep, name) && s.usable(name)):
		case isCopy:
			errs = errors.Join(errs, s.remove(name))
		case name[0] == '.' && name != lockName:
			errs = errors.Join(errs, os.RemoveAll(filepath.Join(s.Dir, name)))
		}
	}
	state.Copies = slices.DeleteFunc(state.Copies, func(c Copy) bool {
		return c.Version != s.Version && !s.has(c.Version)
	})
	return errs
}

// remove removes a directory. A power cut leaves no copy that has lost files.
func (s *Store) remove(name string) error {
	path, hidden := filepath.Join(s.Dir, name), filepath.Join(s.Dir, ".old."+name)
	if err := os.RemoveAll(hidden); err != nil {
		return err
	}
	if err := os.Rename(path, hidden); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(s.Dir); err != nil {
		return err
	}
	return os.RemoveAll(hidden)
}

// add unpacks an archive as the copy of a version. A power cut leaves all of the copy
// or none.
func (s *Store) add(version string, archive *os.File) error {
	temporary, err := os.MkdirTemp(s.Dir, "."+version+".")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary) // nothing once it is renamed
	if err := unpack(archive, temporary); err != nil {
		return err
	}
	if err := checkCopy(temporary); err != nil {
		return err
	}

	if err := syncTree(temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, s.path(version)); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.Dir)
}

// syncTree makes a tree durable, syncfs(2): that takes less than fsync(2) of ten
// thousand files.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("cannot sync %s: %w", dir, err)
	}
	return nil
}

const lockName = ".lock"

// lock keeps a second renewal out until the returned file is closed.
func (s *Store) lock() (*os.File, error) {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot keep actions runners: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.Dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot keep actions runners: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, errors.New("another renewal of the actions runner is under way; " +
			"see 'systemctl status runner-renew'")
	}
	return f, nil
}
