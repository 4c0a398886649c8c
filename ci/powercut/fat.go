package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// fat reads a FAT32 file system (Microsoft FAT Specification, 2005) as firmware
// does: by the first copy of the table, whatever the second one and the dirty flag
// say. go-diskfs reads none whose two copies differ, as after a power cut.
type fat struct {
	disk        io.ReaderAt // from the start of the file system
	table       []uint32
	clusterSize int64
	data        int64 // offset of cluster 2, in bytes
	root        uint32
}

// fatFile is a file or directory.
type fatFile struct {
	path     string // as "EFI/Linux/x.efi"
	size     int64
	clusters []uint32
	// broken is why the content cannot be read; nil if it can.
	broken error
}

func openFAT(disk io.ReaderAt) (*fat, error) {
	sector := make([]byte, 512)
	if _, err := disk.ReadAt(sector, 0); err != nil {
		return nil, fmt.Errorf("cannot read FAT: %w", err)
	}
	bytesPerSector := int64(binary.LittleEndian.Uint16(sector[11:]))
	reserved := int64(binary.LittleEndian.Uint16(sector[14:]))
	tableSize := int64(binary.LittleEndian.Uint32(sector[36:])) * bytesPerSector
	if sector[510] != 0x55 || sector[511] != 0xaa || bytesPerSector < 512 || sector[13] == 0 || tableSize == 0 {
		return nil, errors.New("cannot read FAT: it has no FAT32 boot sector")
	}

	f := &fat{disk: disk, clusterSize: int64(sector[13]) * bytesPerSector,
		data: reserved*bytesPerSector + int64(sector[16])*tableSize, root: binary.LittleEndian.Uint32(sector[44:])}
	f.table = make([]uint32, tableSize/4)
	raw := io.NewSectionReader(disk, reserved*bytesPerSector, tableSize)
	if err := binary.Read(raw, binary.LittleEndian, f.table); err != nil {
		return nil, fmt.Errorf("cannot read FAT: %w", err)
	}
	return f, nil
}

// chain returns the clusters of a file from its first one.
func (f *fat) chain(first uint32) ([]uint32, error) {
	var chain []uint32
	for c := first; ; {
		if c < 2 || int(c) >= len(f.table) {
			return chain, fmt.Errorf("its chain leads to cluster %d", c)
		}
		if len(chain) > len(f.table) {
			return nil, errors.New("its chain has no end")
		}
		chain = append(chain, c)
		if c = f.table[c] & 0x0fffffff; c >= 0x0ffffff8 {
			return chain, nil
		}
	}
}

// read returns the content of a file.
func (f *fat) read(file fatFile) ([]byte, error) {
	if file.broken != nil {
		return nil, file.broken
	}
	data := make([]byte, int64(len(file.clusters))*f.clusterSize)
	for i, c := range file.clusters {
		part := data[int64(i)*f.clusterSize:][:f.clusterSize]
		if _, err := f.disk.ReadAt(part, f.data+int64(c-2)*f.clusterSize); err != nil {
			return nil, err
		}
	}
	if file.size > int64(len(data)) {
		return nil, fmt.Errorf("it has %d bytes of %d", len(data), file.size)
	}
	return data[:file.size], nil
}

// Attributes of directory entries.
const (
	fatVolume    = 0x08
	fatDirectory = 0x10
	fatLongName  = 0x0f
	fatDeleted   = 0xe5
)

// files returns all files.
func (f *fat) files() ([]fatFile, error) {
	var list []fatFile
	err := f.walk("", f.root, 0, &list)
	return list, err
}

func (f *fat) walk(dir string, first uint32, depth int, list *[]fatFile) error {
	if depth > 8 {
		return errors.New("directories without end")
	}
	clusters, err := f.chain(first)
	if err != nil {
		return fmt.Errorf("directory %q: %w", dir, err)
	}
	raw, err := f.read(fatFile{size: int64(len(clusters)) * f.clusterSize, clusters: clusters})
	if err != nil {
		return fmt.Errorf("directory %q: %w", dir, err)
	}

	long := ""
	for ; len(raw) >= 32 && raw[0] != 0; raw = raw[32:] {
		entry := raw[:32]
		switch {
		case entry[0] == fatDeleted:
			long = ""
			continue
		case entry[11]&0x3f == fatLongName:
			long = longPart(entry) + long
			continue
		case entry[11]&fatVolume != 0 || entry[0] == '.':
			long = ""
			continue
		}

		name := long
		if long = ""; name == "" {
			name = shortName(entry)
		}
		path := strings.TrimPrefix(dir+"/"+name, "/")
		start := uint32(binary.LittleEndian.Uint16(entry[20:]))<<16 | uint32(binary.LittleEndian.Uint16(entry[26:]))
		if entry[11]&fatDirectory != 0 {
			if err := f.walk(path, start, depth+1, list); err != nil {
				return err
			}
			continue
		}
		file := fatFile{path: path, size: int64(binary.LittleEndian.Uint32(entry[28:]))}
		if file.size > 0 {
			file.clusters, file.broken = f.chain(start)
		}
		*list = append(*list, file)
	}
	return nil
}

// longPart returns the 13 characters of a long name that one entry holds.
func longPart(entry []byte) string {
	var units []uint16
	for _, part := range [][]byte{entry[1:11], entry[14:26], entry[28:32]} {
		for ; len(part) > 0; part = part[2:] {
			u := binary.LittleEndian.Uint16(part)
			if u == 0 || u == 0xffff {
				return string(utf16.Decode(units))
			}
			units = append(units, u)
		}
	}
	return string(utf16.Decode(units))
}

func shortName(entry []byte) string {
	base, ext := strings.TrimRight(string(entry[:8]), " "), strings.TrimRight(string(entry[8:11]), " ")
	if ext == "" {
		return base
	}
	return base + "." + ext
}
