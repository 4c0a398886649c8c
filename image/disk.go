package image

import (
	"fmt"
	"io"
	"os"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/partition/gpt"
)

// Partition types of the Discoverable Partitions Specification, for x86-64.
const (
	typeESP    = gpt.Type("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
	typeRoot   = gpt.Type("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709")
	typeVerity = gpt.Type("2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5")
	typeVar    = gpt.Type("4D21B016-B534-45C2-A9FB-5C16E091FD2D")
)

const (
	mebibyte   = 1 << 20
	sectorSize = 512
)

// partition is one partition of the disk to write.
type partition struct {
	kind  gpt.Type
	label string // at most 36 UTF-16 units
	uuid  string
	size  int64  // bytes, a multiple of 1 MiB
	data  string // file with its content; shorter than size leaves the rest zero
}

// writeDisk writes a GPT disk image with the partitions in order, each aligned
// to 1 MiB. Blocks of zeros stay holes.
func writeDisk(path, diskID string, partitions []partition) error {
	total := int64(2 * mebibyte) // the tables: 1 MiB before, 1 MiB after
	for _, p := range partitions {
		total += p.size
	}
	if err := createSized(path, total); err != nil {
		return fmt.Errorf("cannot write disk: %w", err)
	}
	table := &gpt.Table{LogicalSectorSize: sectorSize, PhysicalSectorSize: sectorSize, ProtectiveMBR: true, GUID: diskID}
	offset := int64(mebibyte)
	for i, p := range partitions {
		table.Partitions = append(table.Partitions, &gpt.Partition{Index: i + 1, Start: uint64(offset / sectorSize),
			End: uint64((offset+p.size)/sectorSize) - 1, Size: uint64(p.size), Type: p.kind, Name: p.label, GUID: p.uuid})
		if err := writeContent(path, offset, p); err != nil {
			return fmt.Errorf("cannot write partition %s: %w", p.label, err)
		}
		offset += p.size
	}
	disk, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadWrite))
	if err != nil {
		return fmt.Errorf("cannot write partition table: %w", err)
	}
	defer disk.Close()
	if err := disk.Partition(table); err != nil {
		return fmt.Errorf("cannot write partition table: %w", err)
	}
	return nil
}

func writeContent(path string, offset int64, p partition) error {
	in, err := os.Open(p.data)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if info.Size() > p.size {
		return fmt.Errorf("its content has %d MiB, images.toml allows %d MiB: raise it under disk",
			(info.Size()+mebibyte-1)/mebibyte, p.size/mebibyte)
	}
	out, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := copySparse(out, offset, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

// copySparse copies r to w from offset on, leaving out blocks of zeros.
func copySparse(w io.WriterAt, offset int64, r io.Reader) error {
	buf := make([]byte, mebibyte)
	for {
		n, err := io.ReadFull(r, buf)
		for block := 0; block < n; block += 64 << 10 {
			chunk := buf[block:min(block+(64<<10), n)]
			if isZero(chunk) {
				continue
			}
			if _, err := w.WriteAt(chunk, offset+int64(block)); err != nil {
				return err
			}
		}
		offset += int64(n)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return err
		}
	}
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
