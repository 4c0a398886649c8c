package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/spec"
)

// sizeOf returns the size of the partitions of a role, in bytes.
func sizeOf(d spec.Disk, r layout.Role) int64 {
	return map[layout.Role]int64{
		layout.ESP: d.ESP, layout.Verity: d.Verity, layout.Root: d.Root, layout.Var: d.Var}[r]
}

const (
	mebibyte   = 1 << 20
	sectorSize = 512
)

// partition is one partition of the disk to write.
type partition struct {
	role    layout.Role
	typeID  string // UUID of its type
	label   string // at most 36 UTF-16 units
	uuid    string
	size    int64  // bytes, a multiple of 1 MiB
	content string // path of its content; shorter than size leaves the rest zero
}

// writtenDisk describes a disk that was written.
type writtenDisk struct {
	bytes    int64
	sha256   string // in hex
	contents []Artefact
}

// writeDisk writes a GPT disk image with the partitions in order to an empty
// file, each aligned to 1 MiB. Blocks of zeros stay holes.
func writeDisk(out *os.File, diskID string, partitions []partition) (*writtenDisk, error) {
	total := int64(2 * mebibyte) // the tables: 1 MiB before, 1 MiB after
	for _, p := range partitions {
		total += p.size
	}
	if err := out.Truncate(total); err != nil {
		return nil, fmt.Errorf("cannot write disk: %w", err)
	}

	// The tables come first, because everything is hashed in its order.
	if err := newTable(diskID, partitions).Write(out, total); err != nil {
		return nil, fmt.Errorf("cannot write partition table: %w", err)
	}

	w := &diskWriter{file: out, sum: sha256.New()}
	if err := w.passWritten(mebibyte); err != nil {
		return nil, fmt.Errorf("cannot read partition table: %w", err)
	}
	disk := &writtenDisk{bytes: total}
	for _, p := range partitions {
		a, err := w.writePartition(p)
		if err != nil {
			return nil, fmt.Errorf("cannot write partition %s: %w", p.label, err)
		}
		disk.contents = append(disk.contents, *a)
	}
	if err := w.passWritten(mebibyte); err != nil {
		return nil, fmt.Errorf("cannot read partition table: %w", err)
	}
	disk.sha256 = hex.EncodeToString(w.sum.Sum(nil))
	return disk, nil
}

func newTable(diskID string, partitions []partition) *gpt.Table {
	table := &gpt.Table{LogicalSectorSize: sectorSize, PhysicalSectorSize: sectorSize, ProtectiveMBR: true, GUID: diskID}
	offset := int64(mebibyte)
	for i, p := range partitions {
		table.Partitions = append(table.Partitions, &gpt.Partition{
			Index: i + 1,
			Start: uint64(offset / sectorSize),
			End:   uint64((offset+p.size)/sectorSize) - 1,
			Size:  uint64(p.size),
			Type:  gpt.Type(strings.ToUpper(p.typeID)),
			Name:  p.label,
			GUID:  p.uuid,
		})
		offset += p.size
	}
	return table
}

// diskWriter writes a file of zeros from its start to its end, and hashes it on
// the way.
type diskWriter struct {
	file   *os.File
	offset int64
	sum    hash.Hash
}

// Write implements io.Writer. Blocks of zeros are left out.
func (w *diskWriter) Write(p []byte) (int, error) {
	w.sum.Write(p)
	err := writeSparse(w.file, w.offset, p)
	w.offset += int64(len(p))
	return len(p), err
}

// skip leaves n bytes as they are, zero.
func (w *diskWriter) skip(n int64) error {
	_, err := io.CopyN(w.sum, zeros{}, n)
	w.offset += n
	return err
}

// passWritten hashes n bytes that the file has already.
func (w *diskWriter) passWritten(n int64) error {
	_, err := io.Copy(w.sum, io.NewSectionReader(w.file, w.offset, n))
	w.offset += n
	return err
}

// writePartition copies the content of a partition.
func (w *diskWriter) writePartition(p partition) (*Artefact, error) {
	in, err := os.Open(p.content)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}

	if info.Size() > p.size {
		return nil, fmt.Errorf("its content takes %d MiB, disk.%s allows %d MiB; raise disk.%[2]s in images.toml",
			(info.Size()+mebibyte-1)/mebibyte, p.role, p.size/mebibyte)
	}

	sum := sha256.New()
	if err := copyBlocks(io.MultiWriter(w, sum), in); err != nil {
		return nil, err
	}
	if err := w.skip(p.size - info.Size()); err != nil {
		return nil, err
	}
	return &Artefact{Role: string(p.role), Path: p.content, Bytes: info.Size(),
		SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// copyBlocks copies r to w in pieces of 1 MiB.
func copyBlocks(w io.Writer, r io.Reader) error {
	buf := make([]byte, mebibyte)
	for {
		n, err := io.ReadFull(r, buf)
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sparseBlock is the size of the blocks that are written, or left out, as a
// whole, in bytes.
const sparseBlock = 64 << 10

// writeSparse writes p at an offset, leaving out blocks of zeros.
func writeSparse(w io.WriterAt, offset int64, p []byte) error {
	zero := make([]byte, sparseBlock)
	for start := 0; start < len(p); start += sparseBlock {
		block := p[start:min(start+sparseBlock, len(p))]
		if bytes.Equal(block, zero[:len(block)]) {
			continue
		}
		if _, err := w.WriteAt(block, offset+int64(start)); err != nil {
			return err
		}
	}
	return nil
}

// zeros is an endless stream of zeros.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
