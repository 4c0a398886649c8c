package trial

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Names of sections of a UKI (UAPI.5).
const (
	cmdlineSection   = ".cmdline"
	osReleaseSection = ".osrel"
)

// Offsets in a PE file (PE Format, learn.microsoft.com/windows/win32/debug/pe-format).
const (
	peOffset         = 0x3c // of the offset of the signature
	signatureSize    = 4
	sectionEntrySize = 40
	fileAlignment    = 512
)

// section returns the content of a section of a UKI.
func section(uki []byte, name string) (string, error) {
	f, err := pe.NewFile(bytes.NewReader(uki))
	if err != nil {
		return "", fmt.Errorf("not a UKI: %w", err)
	}
	defer f.Close()
	s := f.Section(name)
	if s == nil {
		return "", fmt.Errorf("not a UKI: it has no section %s", name)
	}
	data, err := s.Data()
	if err != nil {
		return "", fmt.Errorf("not a UKI: %w", err)
	}
	return string(bytes.TrimRight(data[:min(len(data), int(s.VirtualSize))], "\x00")), nil
}

// withSection returns a UKI in which a section has other content. In memory the
// section may grow up to the next one; in the file it moves to the end if it must.
func withSection(uki []byte, name, content string) ([]byte, error) {
	f, err := pe.NewFile(bytes.NewReader(uki))
	if err != nil {
		return nil, fmt.Errorf("not a UKI: %w", err)
	}
	defer f.Close()
	n := slices.IndexFunc(f.Sections, func(s *pe.Section) bool { return s.Name == name })
	if n < 0 {
		return nil, fmt.Errorf("not a UKI: it has no section %s", name)
	}
	s := f.Sections[n]
	room := int64(math.MaxUint32)
	for _, other := range f.Sections {
		if other.VirtualAddress > s.VirtualAddress {
			room = min(room, int64(other.VirtualAddress-s.VirtualAddress))
		}
	}
	if int64(len(content)) > room {
		return nil, fmt.Errorf("section %s of the UKI has room for %d bytes, not for %d", name, room, len(content))
	}
	if int64(s.Offset)+int64(s.Size) > int64(len(uki)) {
		return nil, errors.New("not a UKI: it is cut off")
	}

	out, offset, size := bytes.Clone(uki), s.Offset, s.Size
	if len(content) > int(size) {
		out = append(out, make([]byte, -len(out)&(fileAlignment-1))...)
		offset = uint32(len(out))
		size = uint32(len(content)+fileAlignment-1) &^ (fileAlignment - 1)
		out = append(out, make([]byte, size)...)
	}
	clear(out[offset : offset+size])
	copy(out[offset:], content)

	header := int(binary.LittleEndian.Uint32(uki[peOffset:])) + signatureSize +
		binary.Size(pe.FileHeader{}) + int(f.SizeOfOptionalHeader) + n*sectionEntrySize
	binary.LittleEndian.PutUint32(out[header+8:], uint32(len(content))) // VirtualSize
	binary.LittleEndian.PutUint32(out[header+16:], size)                // SizeOfRawData
	binary.LittleEndian.PutUint32(out[header+20:], offset)              // PointerToRawData
	return out, nil
}

// breakUKI returns the UKI of a version, for another root file system, with a
// command line that fails the health check: no guest can be started. The boot
// loader orders versions by the section .osrel.
func breakUKI(uki []byte, oldHash, newHash, oldVersion, newVersion string) ([]byte, error) {
	cmdline, err := section(uki, cmdlineSection)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(cmdline, "roothash="+oldHash) {
		return nil, errors.New("the UKI does not start the root file system of its version")
	}
	cmdline = strings.Replace(cmdline, "roothash="+oldHash, "roothash="+newHash, 1)
	osRelease, err := section(uki, osReleaseSection)
	if err != nil {
		return nil, err
	}

	const key = "IMAGE_VERSION="
	osRelease = strings.ReplaceAll(osRelease, key+oldVersion+"\n", key+newVersion+"\n")
	uki, err = withSection(uki, osReleaseSection, osRelease)
	if err != nil {
		return nil, err
	}
	return withSection(uki, cmdlineSection, cmdline+" systemd.mask=runner-guestd.socket")
}
