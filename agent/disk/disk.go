// Package disk reads and writes the appliance's own disk as far as an upgrade
// has to: the labels and UUIDs of its partition table, the content of the slot
// that does not run, and the unified kernel images (UKIs) on the ESP.
//
// Names on disk are those of systemd-sysupdate (sysupdate.d(5)) and of Automatic
// Boot Assessment (systemd.io/AUTOMATIC_BOOT_ASSESSMENT), so that
// systemd-sysupdate list and bootctl list understand the result.
//
// The disk is written as a whole, never through the device of a partition: the
// kernel need not read the table again while partitions are in use, and a file
// can stand for the disk in tests.
package disk

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/verity"
)

// Slot is one of the two slots as the partition table shows it.
type Slot struct {
	Name layout.Slot
	// Version is that of the labels; empty while the slot holds none.
	Version string
	// RootSize and VeritySize are the sizes of the partitions, in bytes.
	RootSize, VeritySize int64

	root, verity entry
}

// Disk is the appliance's disk, open and locked.
type Disk struct {
	file             *os.File
	table            *table
	active, inactive Slot
	esp              entry
}

// ErrOneSlot is the error of a disk that has no second slot.
var ErrOneSlot = errors.New("the disk has only one slot")

// Open opens the disk at path, a block device or a file, and locks it against
// other programs that change partitions (systemd.io/BLOCK_DEVICE_LOCKING). The
// active slot is the one with the root hash that the kernel was started with.
func Open(path string, root verity.Digest, a arch.Arch) (*Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	d := &Disk{file: f}
	if err := d.load(root, a); err != nil {
		_ = f.Close()
		return nil, err
	}
	return d, nil
}

func (d *Disk) load(root verity.Digest, a arch.Arch) error {
	err := unix.Flock(int(d.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("cannot lock disk: another program changes its partitions; wait for it to end")
	}
	if err != nil {
		return fmt.Errorf("cannot lock disk: %w", err)
	}

	if d.table, err = readTable(d.file); err != nil {
		return err
	}
	return d.findSlots(root, a)
}

// findSlots pairs root and verity partitions in the order of the table, as
// systemd-repart added them.
func (d *Disk) findSlots(root verity.Digest, a arch.Arch) error {
	slots := []Slot{{Name: layout.SlotA}, {Name: layout.SlotB}}
	roots, trees := 0, 0

	for _, e := range d.table.list() {
		switch e.typeID {
		case layout.Partition{Role: layout.ESP}.TypeID(a):
			d.esp = e
		case a.GPT.Root:
			if roots < len(slots) {
				slots[roots].root, slots[roots].RootSize = e, e.size
				slots[roots].Version = versionOf(e.label)
			}
			roots++
		case a.GPT.RootVerity:
			if trees < len(slots) {
				slots[trees].verity, slots[trees].VeritySize = e, e.size
			}
			trees++
		}
	}

	if roots == 1 && trees == 1 {
		return fmt.Errorf("cannot find slots: %w", ErrOneSlot)
	}
	if roots != 2 || trees != 2 || d.esp.number == 0 {
		return fmt.Errorf("cannot find slots: want 2 root and 2 verity partitions and an ESP, there are %d and %d",
			roots, trees)
	}
	return d.chooseActive(slots, root)
}

// chooseActive finds the slot that runs by the UUIDs of their partitions, by which
// the initrd found the active one.
func (d *Disk) chooseActive(slots []Slot, root verity.Digest) error {
	rootID, verityID := IDs(root)
	var active []int
	for i, s := range slots {
		if s.root.id == rootID.String() && s.verity.id == verityID.String() {
			active = append(active, i)
		}
	}
	if len(active) != 1 {
		return fmt.Errorf("cannot find slots: %d of 2 have the root hash %s", len(active), root)
	}

	d.active, d.inactive = slots[active[0]], slots[1-active[0]]
	return nil
}

// IDs returns the UUIDs of the partitions of a root hash: the first and the last
// 128 bits (systemd-veritysetup-generator(8), roothash=).
func IDs(root verity.Digest) (rootID, verityID uuid.UUID) {
	return uuid.UUID(root[:16]), uuid.UUID(root[16:])
}

// versionOf returns the version in the label of a root partition.
func versionOf(label string) string {
	prefix := layout.Partition{Role: layout.Root}.Label("")
	version, ok := strings.CutPrefix(label, prefix)
	if !ok {
		return ""
	}
	return version
}

// Close unlocks and closes the disk.
func (d *Disk) Close() error { return d.file.Close() }

// Active returns the slot that runs.
func (d *Disk) Active() Slot { return d.active }

// Inactive returns the other slot.
func (d *Disk) Inactive() Slot { return d.inactive }

// ESPNumber returns the number of the ESP in the partition table.
func (d *Disk) ESPNumber() int { return d.esp.number }

// ActiveRoot returns the root partition of the active slot, to read.
func (d *Disk) ActiveRoot() *io.SectionReader { return d.section(d.active.root) }

// ActiveVerity returns the verity partition of the active slot, to read.
func (d *Disk) ActiveVerity() *io.SectionReader { return d.section(d.active.verity) }

func (d *Disk) section(e entry) *io.SectionReader {
	return io.NewSectionReader(d.file, e.offset, e.size)
}

// InactiveRoot returns the root partition of the inactive slot.
func (d *Disk) InactiveRoot() *Area {
	return &Area{d.file, d.inactive.root.offset, d.inactive.root.size}
}

// InactiveVerity returns the verity partition of the inactive slot.
func (d *Disk) InactiveVerity() *Area {
	return &Area{d.file, d.inactive.verity.offset, d.inactive.verity.size}
}

// Clear marks the inactive slot as holding no version: empty labels, and UUIDs
// that no root hash has, so that no UKI can start what is about to be
// overwritten. It is durable when Clear returns.
func (d *Disk) Clear() error {
	ids := make([]uuid.UUID, 2)
	for i := range ids {
		var err error
		if ids[i], err = uuid.NewRandomFromReader(rand.Reader); err != nil {
			return fmt.Errorf("cannot clear slot: %w", err)
		}
	}
	return d.rename(layout.EmptyLabel, layout.EmptyLabel, ids[0], ids[1], "")
}

// Assign labels the inactive slot with a version, and sets the UUIDs of its root
// hash, in one write of the table. It is durable when Assign returns.
func (d *Disk) Assign(version string, root verity.Digest) error {
	rootID, verityID := IDs(root)
	return d.rename(layout.Partition{Role: layout.Root}.Label(version),
		layout.Partition{Role: layout.Verity}.Label(version), rootID, verityID, version)
}

func (d *Disk) rename(rootLabel, verityLabel string, rootID, verityID uuid.UUID, version string) error {
	s := &d.inactive
	if err := d.table.rename(s.root.number, rootLabel, rootID); err != nil {
		return err
	}
	if err := d.table.rename(s.verity.number, verityLabel, verityID); err != nil {
		return err
	}
	if err := d.table.write(d.file); err != nil {
		return err
	}
	s.Version = version
	return nil
}

// Area is a part of the disk that may be written: a partition of the inactive
// slot.
type Area struct {
	file         *os.File
	offset, size int64
}

// Size returns the size of the area, in bytes.
func (a *Area) Size() int64 { return a.size }

var errBeyond = errors.New("beyond the end of the partition")

// ReadAt implements io.ReaderAt.
func (a *Area) ReadAt(p []byte, offset int64) (int, error) {
	return io.NewSectionReader(a.file, a.offset, a.size).ReadAt(p, offset)
}

// WriteAt implements io.WriterAt. It writes nothing beyond the area.
func (a *Area) WriteAt(p []byte, offset int64) (int, error) {
	if offset < 0 || int64(len(p)) > a.size-offset {
		return 0, errBeyond
	}
	return a.file.WriteAt(p, a.offset+offset)
}

// Sync makes everything written durable, and forgets what is cached of the area:
// what is read next comes from the disk.
func (a *Area) Sync() error {
	if err := a.file.Sync(); err != nil {
		return fmt.Errorf("cannot sync disk: %w", err)
	}
	if err := unix.Fadvise(int(a.file.Fd()), a.offset, a.size, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("cannot drop the cache of the disk: %w", err)
	}
	return nil
}
