package upgrade

import (
	"context"
	"crypto/sha256"
	"debug/pe"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/disk"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/verity"
)

// Host describes the running version.
type Host struct {
	Image        string        // IMAGE_ID of os-release(5)
	Version      string        // IMAGE_VERSION of os-release(5)
	Architecture string        // as dpkg names it
	Agent        string        // version of this program
	Root         verity.Digest // root hash that the kernel was started with
	Boot         string        // id of this boot
}

// Upgrader installs versions.
type Upgrader struct {
	Source  string // URL or absolute path of the channel's directory
	Root    string // path of that directory if Source is none, but a name for messages
	Channel string // for whom versions are that it chooses
	Keys    []release.PublicKey
	Host    Host
	Dir     string // for its state and what it stages
	Now     func() time.Time
	Log     io.Writer // one line a step

	channel channel
	pause   time.Duration
}

// ErrSource is the error of a source that cannot be one.
var ErrSource = errors.New("neither an http or https URL nor an absolute path")

// Open returns u ready for use, or ErrSource.
func (u *Upgrader) Open() (*Upgrader, error) {
	var c channel = dirChannel{u.Root}
	if u.Root == "" {
		var err error
		if c, err = newChannel(u.Source); err != nil {
			return nil, err
		}
	}
	opened := *u
	opened.channel, opened.pause = c, time.Second
	return &opened, nil
}

// settle notes how the boots since the last upgrade ended, and returns the state
// after it.
func (u *Upgrader) settle(esp *disk.ESP) (*State, error) {
	if err := os.MkdirAll(u.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot keep state of upgrades: %w", err)
	}
	s, err := LoadState(u.Dir)
	if err != nil {
		return nil, err
	}
	ukis, err := esp.UKIs()
	if err != nil {
		return nil, err
	}
	pending := s.Pending
	note := ""
	if pending != nil {
		note = readNote(u.Dir, pending.Version)
	}
	if !s.settle(u.Host, ukis, note, u.Now()) {
		return s, nil
	}

	if s.failed(pending.Version) {
		fmt.Fprintf(u.Log, "version %s is given up: %s\n", pending.Version, s.Failed[len(s.Failed)-1].Reason)
	} else if pending.Version == u.Host.Version {
		fmt.Fprintf(u.Log, "version %s has booted well\n", pending.Version)
	}
	return s, s.save(u.Dir)
}

// tries is how often a version may fail to boot before the boot loader prefers
// another.
const tries = 3

// Install writes a version into the slot that does not run, so that the next boot
// starts it. An error that is a RefusedError left everything as it was.
func (u *Upgrader) Install(ctx context.Context, d *disk.Disk, esp *disk.ESP, s *State, r *Release) (Stats, error) {
	if err := u.checkRoom(d, esp, s, r); err != nil {
		return Stats{}, err
	}
	tree, uki, err := u.stage(ctx, r)
	if err != nil {
		return Stats{}, err
	}
	defer uki.Close()
	if err := u.probe(ctx, r); err != nil {
		return Stats{}, err
	}

	// The old UKI first: it would start a slot that is being overwritten.
	if err := esp.Keep(u.Host.Version); err != nil {
		return Stats{}, err
	}
	if d.Inactive().Version != "" {
		if err := d.Clear(); err != nil {
			return Stats{}, err
		}
	}
	stats, err := u.fill(ctx, d, tree, r)
	if err != nil {
		return stats, fmt.Errorf("cannot write version %s: %w", r.Version, err)
	}
	if err := u.readBack(ctx, d, tree); err != nil {
		return stats, fmt.Errorf("cannot write version %s: %w", r.Version, err)
	}
	return stats, u.activate(d, esp, s, r, tree.Root(), uki)
}

// checkRoom refuses a version that does not fit, and one that would overwrite the
// only other that can boot.
func (u *Upgrader) checkRoom(d *disk.Disk, esp *disk.ESP, s *State, r *Release) error {
	ukis, err := esp.UKIs()
	if err != nil {
		return err
	}
	onTrial := s.Pending != nil && s.Pending.Version == u.Host.Version
	if own := find(ukis, u.Host.Version); own != nil && own.Counted && (own.Left > 0 || onTrial) {
		return refuse("version %s, which runs, has not proven itself yet, and the slot to write holds the version to go "+
			"back to; wait until boot-complete.target is reached", u.Host.Version)
	}

	onESP, err := esp.Free()
	if err != nil {
		return err
	}
	for _, uki := range ukis {
		if uki.Version != u.Host.Version {
			onESP += uki.Size // it will be removed
		}
	}
	var v unix.Statfs_t
	if err := unix.Statfs(u.Dir, &v); err != nil {
		return fmt.Errorf("cannot read free space of %s: %w", u.Dir, err)
	}
	return checkSizes(r.Files, d.Inactive(), onESP, int64(v.Bavail)*v.Bsize)
}

// checkSizes compares the sizes of an update set with the room on the ESP and
// below /var, in bytes, and that in the slot.
func checkSizes(f release.Files, slot disk.Slot, onESP, inVar int64) error {
	const largerSlots = "flash the image anew, on a disk with larger slots"
	switch staged := f.Verity.Size + f.UKI.Size; {
	case f.Root.Size > slot.RootSize:
		return errSize(f.Root.Name, f.Root.Size, "the slot", slot.RootSize, largerSlots)
	case f.Verity.Size > slot.VeritySize:
		return errSize(f.Verity.Name, f.Verity.Size, "the slot", slot.VeritySize, largerSlots)
	case f.UKI.Size > onESP:
		return errSize(f.UKI.Name, f.UKI.Size, "the ESP", onESP, "remove files from it")
	case staged > inVar:
		return errSize("what is staged", staged, "/var", inVar, "make room there")
	}
	return nil
}

func errSize(name string, size int64, place string, room int64, fix string) error {
	return refuse("%s has %d bytes, %s has room for %d; %s", name, size, place, room, fix)
}

// stage downloads hash tree and UKI to /var, and checks them: before the slot is
// touched, all but its blocks is here.
func (u *Upgrader) stage(ctx context.Context, r *Release) (*verity.Tree, *os.File, error) {
	root, err := verity.ParseDigest(r.Verity.RootHash)
	if err != nil {
		return nil, nil, &RefusedError{err}
	}
	u.removeStaged(r.Files.Verity.Name, r.Files.UKI.Name)
	treeFile, err := u.stageFile(ctx, r.base, r.Files.Verity)
	if err != nil {
		return nil, nil, err
	}
	defer treeFile.Close()
	tree, err := verity.Read(treeFile, r.Files.Verity.Size, root)
	if err != nil {
		return nil, nil, refuse("%s: %w", r.Files.Verity.Name, err)
	}
	if tree.Blocks() != r.Verity.DataBlocks || hex.EncodeToString(tree.Salt()) != r.Verity.Salt {
		return nil, nil, refuse("%s: number of blocks or salt differ from those in the manifest", r.Files.Verity.Name)
	}

	uki, err := u.stageFile(ctx, r.base, r.Files.UKI)
	if err != nil {
		return nil, nil, err
	}
	if err := checkUKI(uki, r.Verity.RootHash); err != nil {
		_ = uki.Close()
		return nil, nil, refuse("%s: %w", r.Files.UKI.Name, err)
	}
	return tree, uki, nil
}

// probe reads the first byte of the root file system: a channel that lacks it, or
// has it in another size, is noticed before the slot is touched.
func (u *Upgrader) probe(ctx context.Context, r *Release) error {
	file := r.Files.Root
	err := u.retry(ctx, func() error {
		body, err := u.channel.open(ctx, r.base, file.Name, span{0, 1}, file.Size)
		if errors.Is(err, errNoRanges) {
			return nil
		}
		if err != nil {
			return err
		}
		return body.Close()
	})
	if err != nil {
		return fmt.Errorf("cannot read %s of %s: %w", file.Name, u.Source, err)
	}
	return nil
}

// stageFile returns a file of the update set, which is downloaded unless an
// upgrade before did. It is as the manifest lists it.
func (u *Upgrader) stageFile(ctx context.Context, base string, file release.File) (*os.File, error) {
	path := filepath.Join(u.Dir, file.Name)
	if f, err := os.Open(path); err == nil {
		if checkHash(f, file) == nil {
			return f, nil
		}
		_ = f.Close()
	}

	var staged *atomicfile.File
	err := u.retry(ctx, func() error {
		body, err := u.channel.open(ctx, base, file.Name, span{0, file.Size}, file.Size)
		if err != nil {
			return err
		}
		defer body.Close()
		if staged, err = atomicfile.Create(path, 0o600); err != nil {
			return err
		}
		defer staged.Abandon()
		if _, err := io.Copy(staged, body); err != nil {
			return err
		}
		if err := checkHash(staged.File, file); err != nil {
			return err
		}
		return staged.Commit()
	})
	switch {
	case errors.Is(err, errOther):
		return nil, refuse("%s: %w", file.Name, err)
	case err != nil:
		return nil, fmt.Errorf("cannot read %s of %s: %w", file.Name, u.Source, err)
	}
	return os.Open(path)
}

var errOther = errors.New("not the file that its manifest lists")

// checkHash compares a file with its size and hash, and goes back to its start.
func checkHash(f *os.File, want release.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if n != want.Size || hex.EncodeToString(sum.Sum(nil)) != want.SHA256 {
		return errOther
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// removeStaged removes what upgrades staged, and what was interrupted, but for the
// files of some names.
func (u *Upgrader) removeStaged(keep ...string) {
	for _, pattern := range []string{"*.verity", "*.efi", ".*.tmp"} {
		paths, _ := filepath.Glob(filepath.Join(u.Dir, pattern)) // of a constant pattern
		for _, path := range paths {
			if !slices.Contains(keep, filepath.Base(path)) {
				_ = os.Remove(path)
			}
		}
	}
}

// checkUKI asserts that a UKI starts the root file system of the root hash: a set
// that was put together wrongly would fail at the next boot alone.
func checkUKI(r io.ReaderAt, rootHash string) error {
	f, err := pe.NewFile(r)
	if err != nil {
		return fmt.Errorf("not a UKI: %w", err)
	}
	defer f.Close()
	section := f.Section(".cmdline")
	if section == nil {
		return errors.New("not a UKI: it has no command line")
	}
	data, err := section.Data()
	if err != nil {
		return fmt.Errorf("not a UKI: %w", err)
	}

	words := strings.Fields(strings.TrimRight(string(data), "\x00"))
	if !slices.Contains(words, "roothash="+rootHash) {
		return errors.New("it does not start the root file system of its version")
	}
	return nil
}

// fill writes the blocks of the root file system, and its hash tree after them.
func (u *Upgrader) fill(ctx context.Context, d *disk.Disk, tree *verity.Tree, r *Release) (Stats, error) {
	f := &filler{tree: tree, target: d.InactiveRoot(), pause: u.pause,
		open: func(ctx context.Context, part span) (io.ReadCloser, error) {
			return u.channel.open(ctx, r.base, r.Files.Root.Name, part, r.Files.Root.Size)
		}}
	if r.Delta {
		active, err := verity.Read(d.ActiveVerity(), d.Active().VeritySize, u.Host.Root)
		if err != nil {
			fmt.Fprintf(u.Log, "cannot use blocks of the running version: %v\n", err)
		} else {
			f.active, f.activeData = active, d.ActiveRoot()
		}
	}
	stats, err := f.fill(ctx)
	if err != nil {
		return stats, err
	}

	staged, err := os.Open(filepath.Join(u.Dir, r.Files.Verity.Name))
	if err != nil {
		return stats, err
	}
	defer staged.Close()
	area := d.InactiveVerity()
	if _, err := io.Copy(io.NewOffsetWriter(area, 0), staged); err != nil {
		return stats, err
	}
	return stats, area.Sync()
}

// readBack reads the slot as the kernel will, from the root hash down.
func (u *Upgrader) readBack(ctx context.Context, d *disk.Disk, tree *verity.Tree) error {
	area := d.InactiveVerity()
	written, err := verity.Read(area, area.Size(), tree.Root())
	if err != nil {
		return err
	}
	return check(ctx, d.InactiveRoot(), written)
}

// activate makes the next boot start what was written. The UKI comes last: without
// it the boot loader does not know the version.
func (u *Upgrader) activate(d *disk.Disk, esp *disk.ESP, s *State, r *Release, root verity.Digest, uki *os.File) error {
	if err := d.Assign(r.Version, root); err != nil {
		return err
	}
	s.Pending = &Pending{Version: r.Version, From: u.Host.Version, Time: u.Now().UTC().Truncate(time.Second),
		Boot: u.Host.Boot, Floor: r.RollbackFloor}
	s.Failed = slices.DeleteFunc(s.Failed, func(f Failure) bool { return f.Version == r.Version })
	if err := s.save(u.Dir); err != nil {
		return err
	}

	sum, err := hex.DecodeString(r.Files.UKI.SHA256)
	if err != nil {
		return fmt.Errorf("cannot write UKI: %w", err)
	}
	if err := esp.Install(r.Version, tries, uki, [sha256.Size]byte(sum)); err != nil {
		return err
	}
	if release.Compare(r.Version, u.Host.Version) < 0 {
		// The boot loader prefers the newer of two that may work.
		if err := esp.GiveUp(u.Host.Version); err != nil {
			return err
		}
	}
	u.removeStaged()
	return nil
}

// DefaultDir is the directory of state and staged files.
const DefaultDir = layout.State + "/upgrade"
