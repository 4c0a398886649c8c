package disk

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
)

// table is the partition table of a disk (UEFI 2.10, section 5.3).
type table struct {
	*gpt.Table
}

// readTable reads the first copy of the table, or the second where the first is
// broken, as the kernel does with the parameter gpt.
func readTable(f *os.File) (*table, error) {
	var first error
	for _, sector := range []int{512, 4096} {
		t, err := gpt.Read(f, sector, sector)
		if err == nil {
			t.ProtectiveMBR = false // of the disk, as it is
			return &table{t}, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, fmt.Errorf("cannot read partition table: %w", first)
}

// entry is one partition of a table.
type entry struct {
	number       int    // as in the device's name, from 1
	typeID, id   string // lower-case UUIDs
	label        string
	offset, size int64 // in bytes, from the start of the disk
}

// list returns the partitions in the order of their numbers.
func (t *table) list() []entry {
	var list []entry
	for _, p := range t.Partitions {
		if p.Type == gpt.Unused {
			continue
		}
		list = append(list, entry{
			number: p.Index,
			typeID: strings.ToLower(string(p.Type)),
			id:     strings.ToLower(p.GUID),
			label:  p.Name,
			offset: int64(p.Start) * int64(t.LogicalSectorSize),
			size:   int64(p.End-p.Start+1) * int64(t.LogicalSectorSize),
		})
	}
	return list
}

// maxLabel is the length of the longest label, in UTF-16 units.
const maxLabel = 36

// rename sets the label and the UUID of a partition, in memory.
func (t *table) rename(number int, label string, id uuid.UUID) error {
	if len(utf16.Encode([]rune(label))) > maxLabel {
		return fmt.Errorf("cannot label partition %d %.80q: a label has at most %d characters", number, label, maxLabel)
	}
	i := slices.IndexFunc(t.Partitions, func(p *gpt.Partition) bool { return p.Index == number })
	if i < 0 {
		return fmt.Errorf("cannot label partition %d: it is missing", number)
	}
	t.Partitions[i].Name, t.Partitions[i].GUID = label, id.String()
	return nil
}

// write writes both copies of the table, the second first, each durable before
// the next: a power cut leaves one whole.
func (t *table) write(f backend.WritableFile) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("cannot write partition table: %w", err)
	}
	if err := t.Write(f, size); err != nil {
		return fmt.Errorf("cannot write partition table: %w", err)
	}
	return nil
}
