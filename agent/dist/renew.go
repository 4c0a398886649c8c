package dist

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/internal/release"
)

// Runner is the service that runs the actions runner; *control.Client is one.
type Runner interface {
	Status(ctx context.Context) (control.Status, error)
	Pause(ctx context.Context) (control.Status, error)
	Wait(ctx context.Context, changed func(control.Status)) (control.Status, error)
}

// Renewer replaces the actions runner by a newer one.
type Renewer struct {
	Store   *Store
	Origin  Origin
	Runner  Runner
	Restart func(ctx context.Context) error // has the service start again; does not wait for it
	Bound   time.Duration                   // in which the runner must be online after a restart
	Now     func() time.Time
	Log     io.Writer // one line a step
}

// Outcome is what a renewal found and did.
type Outcome struct {
	Running  string `json:"running"`             // version at the end
	Version  string `json:"version,omitempty"`   // that was found
	From     string `json:"from,omitempty"`      // where it is from
	Renewed  bool   `json:"renewed"`             // the runner is online with it
	WaitsFor string `json:"waits_for,omitempty"` // what it will run after, in words
	Failed   string `json:"failed,omitempty"`    // why it does not run
}

// Find returns the version that Renew would install, without changing anything.
func (r *Renewer) Find(ctx context.Context, version string) (Outcome, error) {
	state, err := LoadState(r.Store.Dir)
	if err != nil {
		return Outcome{}, err
	}
	o, _, err := r.find(ctx, state, version)
	return o, err
}

// find looks for a version, or the newest. It returns no offer if there is nothing to
// install.
func (r *Renewer) find(ctx context.Context, state *State, version string) (Outcome, *offer, error) {
	outcome := Outcome{Running: r.running(state)}
	switch {
	case version == "":
	case !versionPattern.MatchString(version):
		return outcome, nil, refuse("%.80q is not a version of the actions runner", version)
	case version == r.Store.Version:
		outcome.Version, outcome.From = version, "the image"
		return outcome, nil, nil
	case release.Compare(version, r.Store.Version) < 0:
		return outcome, nil, refuse("version %s is older than the image's, %s", version, r.Store.Version)
	case r.Store.has(version):
		outcome.Version, outcome.From = version, state.Copy(version).From
		return outcome, nil, nil
	}

	found, err := r.Origin.find(ctx, version)
	if err != nil {
		return outcome, nil, err
	}
	if version == "" {
		if release.Compare(found.version, outcome.Running) <= 0 {
			state.note(found, outcome.Running)
			return outcome, nil, nil
		}
		if f := state.failure(found.version); f != nil {
			outcome.Failed = fmt.Sprintf("version %s failed before: %s", f.Version, f.Reason)
			return outcome, nil, nil
		}
	}
	outcome.Version, outcome.From = found.version, found.from
	return outcome, found, nil
}

// note notes what an offer says of the version that runs.
func (s *State) note(found *offer, running string) {
	if found.version == running && !found.published.IsZero() {
		c := s.Copy(running)
		c.Published = found.published
		s.describe(c)
	}
}

// running returns the version that is to run without a renewal.
func (r *Renewer) running(state *State) string {
	if r.Store.usable(state.Current) {
		return state.Current
	}
	return r.Store.Version
}

// Renew installs a version, or the newest, and has it run. First it finishes what an
// interrupted renewal left.
func (r *Renewer) Renew(ctx context.Context, version string) (Outcome, error) {
	lock, err := r.Store.lock()
	if err != nil {
		return Outcome{}, err
	}
	defer lock.Close()
	state, err := LoadState(r.Store.Dir)
	if err != nil {
		return Outcome{}, err
	}
	if version == "" {
		if outcome, done, err := r.settle(ctx, state); err != nil || !done {
			return outcome, err
		}
	}

	outcome, found, err := r.find(ctx, state, version)
	if err != nil {
		return outcome, err
	}
	state.Checked = r.Now().UTC().Truncate(time.Second)
	if outcome.Version == "" || outcome.Version == outcome.Running && state.Trial == nil {
		return outcome, errors.Join(r.Store.prune(state), state.save(r.Store.Dir))
	}
	if found != nil {
		if err := r.install(ctx, found); err != nil {
			return outcome, fmt.Errorf("cannot install actions runner %s: %w", found.version, err)
		}
		state.describe(Copy{Version: found.version, From: found.from, Published: found.published})
	}
	return r.change(ctx, state, outcome)
}

// install adds the copy of an offer.
func (r *Renewer) install(ctx context.Context, found *offer) error {
	if r.Store.has(found.version) {
		return nil
	}
	if err := r.Store.checkRoom(found.size); err != nil {
		return err
	}

	fmt.Fprintf(r.Log, "downloading actions runner %s from %s\n", found.version, found.from)
	archive, err := r.Store.download(ctx, found)
	if err != nil {
		return err
	}
	defer archive.Close()
	fmt.Fprintf(r.Log, "unpacking actions runner %s\n", found.version)
	return r.Store.add(found.version, archive)
}

// Room that a renewal needs: an archive unpacks to 3.2 times its size, and jobs need
// some too.
const (
	growth  = 5
	reserve = 512 << 20
)

// checkRoom refuses an archive that /var has no room for; size is 0 if it is not known.
func (s *Store) checkRoom(size int64) error {
	if size == 0 {
		size = 256 << 20
	}
	var v unix.Statfs_t
	if err := unix.Statfs(s.Dir, &v); err != nil {
		return fmt.Errorf("cannot read free space of %s: %w", s.Dir, err)
	}
	if free, need := int64(v.Bavail)*v.Bsize, size*growth+reserve; free < need {
		return refuse("%s has %d MiB free, %d are needed; make room there", s.Dir, free>>20, need>>20)
	}
	return nil
}

// download returns the archive of an offer, checked, as a file without a name.
func (s *Store) download(ctx context.Context, found *offer) (*os.File, error) {
	body, err := found.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot download it: %w", err)
	}
	defer body.Close()
	f, err := os.CreateTemp(s.Dir, ".archive.*.tmp")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name())

	limit := found.size
	if limit == 0 {
		limit = maxArchive
	}
	n, err := io.Copy(f, io.LimitReader(body, limit+1))
	if err != nil {
		err = fmt.Errorf("cannot download it: %w", err)
	}
	if err == nil && (n > limit || found.size != 0 && n != found.size) {
		err = refuse("its archive has %d bytes or more, want %d", n, limit)
	}
	if err == nil {
		err = checkFile(f, found.check)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// checkFile checks a file from its start, and goes back there.
func checkFile(f *os.File, check func(io.Reader) error) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := check(f); err != nil {
		return err
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// Checked returns when a newer version was looked for last.
func Checked(dir string) time.Time {
	s, err := LoadState(dir)
	if err != nil {
		return time.Time{}
	}
	return s.Checked
}
