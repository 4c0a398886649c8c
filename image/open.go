package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// Image is a baked image file with its manifest, open for reading.
type Image struct {
	file     *os.File
	size     int64
	manifest *Manifest
}

// Open opens the image file at path, and the manifest beside it. It does not
// check that the two belong together: Verify does.
func Open(path string) (*Image, error) {
	m, err := readManifest(manifestName(path))
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open image: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot open image: %w", err)
	}
	return &Image{file: f, size: info.Size(), manifest: m}, nil
}

// Close closes the file.
func (i *Image) Close() error { return i.file.Close() }

// Manifest returns what the manifest says of the image.
func (i *Image) Manifest() *Manifest { return i.manifest }

// Size returns the apparent size of the image file, in bytes.
func (i *Image) Size() int64 { return i.size }

// ReadAt reads from the image file as a whole. It implements io.ReaderAt.
func (i *Image) ReadAt(p []byte, offset int64) (int, error) { return i.file.ReadAt(p, offset) }

// Partition returns the content of the partition with a role, padding included.
// The partition must be where the layout and the manifest say, under the right
// label, type and UUID.
func (i *Image) Partition(role layout.Role) (*io.SectionReader, error) {
	baked := layout.Baked()
	n := slices.IndexFunc(baked, func(p layout.Partition) bool { return p.Role == role })
	if n < 0 {
		return nil, fmt.Errorf("image files have no partition %q", role)
	}
	label := baked[n].Label(i.manifest.Version)
	a, err := arch.Lookup(i.manifest.Architecture)
	if err != nil {
		return nil, err
	}
	uuid, err := i.partitionUUID(role)
	if err != nil {
		return nil, err
	}

	// The second copy of the table is used if the first is broken.
	table, err := gpt.Read(i.file, sectorSize, sectorSize)
	if err != nil {
		return nil, fmt.Errorf("cannot read partition table: %w", err)
	}
	if n >= len(table.Partitions) {
		return nil, fmt.Errorf("partition %d (%s) is missing", n+1, label)
	}
	p, typeID := table.Partitions[n], baked[n].TypeID(a)
	if !strings.EqualFold(string(p.Type), typeID) || p.Name != label ||
		uuid != "" && !strings.EqualFold(p.GUID, uuid) {
		return nil, fmt.Errorf("partition %d is %q with type %s and UUID %s, want %q with %s %s",
			n+1, p.Name, p.Type, p.GUID, label, typeID, uuid)
	}
	return io.NewSectionReader(i.file, int64(p.Start)*sectorSize, int64(p.End-p.Start+1)*sectorSize), nil
}

// partitionUUID returns the UUID that a partition must have because of the root
// hash; empty if it may have any.
func (i *Image) partitionUUID(role layout.Role) (string, error) {
	rootID, verityID, err := verityPartitionIDs(i.manifest.RootHash)
	if err != nil {
		return "", err
	}
	switch role {
	case layout.Root:
		return rootID, nil
	case layout.Verity:
		return verityID, nil
	}
	return "", nil
}

// copySparse copies r to the file w of zeros, leaving out blocks of zeros.
func copySparse(w io.WriterAt, offset int64, r io.Reader) error {
	return copyBlocks(&sparseWriter{w, offset}, r)
}

type sparseWriter struct {
	w      io.WriterAt
	offset int64
}

// Write implements io.Writer.
func (s *sparseWriter) Write(p []byte) (int, error) {
	err := writeSparse(s.w, s.offset, p)
	s.offset += int64(len(p))
	return len(p), err
}

// copyTable copies the first and the last MiB of the image, which hold the
// partition tables, to a file of the image's size.
func (i *Image) copyTable(out io.WriterAt) error {
	end := i.size - mebibyte
	return errors.Join(
		copySparse(out, 0, io.NewSectionReader(i.file, 0, mebibyte)),
		copySparse(out, end, io.NewSectionReader(i.file, end, mebibyte)))
}
