package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// ESP is the mounted EFI system partition.
type ESP struct {
	dir string
}

// NewESP returns the ESP that is mounted at dir.
func NewESP(dir string) *ESP { return &ESP{dir} }

// UKI is a unified kernel image on the ESP.
type UKI struct {
	Version string
	// Counted is set while the boot loader counts attempts to boot it; Left is
	// how many it has (systemd.io/AUTOMATIC_BOOT_ASSESSMENT).
	Counted bool
	Left    int
	Size    int64 // bytes

	name string
}

// Failed reports whether the boot loader has given up the UKI.
func (u UKI) Failed() bool { return u.Counted && u.Left == 0 }

var ukiName = regexp.MustCompile(`^([^+]+?)(?:\+(\d{1,9})(?:-\d{1,9})?)?\.efi$`)

// UKIs returns those of appliances in the order of their names. Other files are
// left out, and so are empty ones, as a power cut leaves of a file that is being
// renamed: neither does the boot loader see them.
func (e *ESP) UKIs() ([]UKI, error) {
	files, err := os.ReadDir(e.path())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read ESP: %w", err)
	}

	prefix := layout.Partition{Role: layout.Root}.Label("")
	var list []UKI
	for _, f := range files {
		rest, ours := strings.CutPrefix(f.Name(), prefix)
		m := ukiName.FindStringSubmatch(rest)
		if !ours || m == nil || !f.Type().IsRegular() {
			continue
		}
		info, err := f.Info()
		if err != nil {
			return nil, fmt.Errorf("cannot read ESP: %w", err)
		}
		if info.Size() == 0 {
			continue
		}

		u := UKI{Version: m[1], Counted: m[2] != "", Size: info.Size(), name: f.Name()}
		if u.Counted {
			u.Left, _ = strconv.Atoi(m[2]) // at most nine digits
		}
		list = append(list, u)
	}
	return list, nil
}

func isEmpty(f os.DirEntry) bool {
	info, err := f.Info()
	return err == nil && info.Size() == 0
}

func (e *ESP) path(name ...string) string {
	return filepath.Join(append([]string{e.dir, filepath.FromSlash(layout.UKIDir)}, name...)...)
}

// Free returns how many bytes a file on the ESP can have, as far as others leave
// room.
func (e *ESP) Free() (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(e.dir, &s); err != nil {
		return 0, fmt.Errorf("cannot read free space of the ESP: %w", err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// Keep removes the UKIs of all versions but one, and what an interrupted upgrade
// left, durably.
func (e *ESP) Keep(version string) error {
	files, err := os.ReadDir(e.path())
	if err != nil {
		return fmt.Errorf("cannot clean ESP: %w", err)
	}
	prefix := layout.Partition{Role: layout.Root}.Label("")
	for _, f := range files {
		rest, ours := strings.CutPrefix(strings.TrimPrefix(f.Name(), "."), prefix)
		m := ukiName.FindStringSubmatch(rest)
		temporary := strings.HasPrefix(f.Name(), ".") && strings.HasSuffix(rest, ".tmp")
		if !ours || m == nil && !temporary || m != nil && m[1] == version && !isEmpty(f) {
			continue
		}
		if err := os.Remove(e.path(f.Name())); err != nil {
			return fmt.Errorf("cannot clean ESP: %w", err)
		}
	}
	return e.sync()
}

// Install writes a UKI as one that may fail to boot tries times. The boot loader
// does not see it before it is complete, durable and read back.
func (e *ESP) Install(version string, tries int, uki io.Reader, want [sha256.Size]byte) error {
	f, err := atomicfile.Create(e.path(layout.UKIName(version, tries)), 0o644)
	if err != nil {
		return err
	}
	defer f.Abandon()
	if _, err := io.Copy(f, uki); err != nil {
		return fmt.Errorf("cannot write UKI: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot write UKI: %w", err)
	}

	// The firmware would not start a UKI that reads back wrong, and then the
	// boot loader ends instead of starting another version.
	if err := checkReadBack(f.File, want); err != nil {
		return err
	}
	if err := e.rename(filepath.Base(f.Name()), layout.UKIName(version, tries)); err != nil {
		return err
	}
	return e.sync()
}

// rename renames a UKI. The kernel enters a file of FAT under its new name as an
// empty one first, and knows its content again when it writes the file's own
// metadata: fsync(2) of the file has it do so, that of the directory has not.
func (e *ESP) rename(from, to string) error {
	f, err := os.Open(e.path(from))
	if err != nil {
		return fmt.Errorf("cannot rename UKI: %w", err)
	}
	defer f.Close()
	if err := os.Rename(e.path(from), e.path(to)); err != nil {
		return fmt.Errorf("cannot rename UKI: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot rename UKI: %w", err)
	}
	return nil
}

// checkReadBack reads a file from its disk and compares its hash.
func checkReadBack(f *os.File, want [sha256.Size]byte) error {
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("cannot read UKI back: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("cannot read UKI back: %w", err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("cannot read UKI back: %w", err)
	}
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		return errors.New("the UKI on the ESP differs from what was written; the disk may be failing")
	}
	return nil
}

// GiveUp renames the UKI of a version as one that failed to boot, so that the
// boot loader prefers any other. It does nothing if there is none.
func (e *ESP) GiveUp(version string) error {
	list, err := e.UKIs()
	if err != nil {
		return err
	}
	for _, u := range list {
		if u.Version != version || u.Failed() {
			continue
		}
		if err := e.rename(u.name, layout.UKIName(version, 0)); err != nil {
			return err
		}
	}
	return e.sync()
}

// sync makes all of the ESP durable: FAT keeps names and clusters apart from files.
// syncfs(2) writes them all, and the directory's fsync(2) has the disk keep them:
// that of FAT flushes its cache, syncfs does not.
func (e *ESP) sync() error {
	dir, err := os.Open(e.path())
	if err != nil {
		return fmt.Errorf("cannot sync ESP: %w", err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("cannot sync ESP: %w", err)
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("cannot sync ESP: %w", err)
	}
	return nil
}
