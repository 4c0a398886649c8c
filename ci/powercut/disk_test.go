package powercut

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/mkappliance/mkappliance/agent/disk"
	"github.com/mkappliance/mkappliance/ci/nbd"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/verity"
)

// makeUKI returns a program with the two sections that the boot loader reads.
func makeUKI(osRelease, cmdline string) []byte {
	var out bytes.Buffer
	put := func(v any) { _ = binary.Write(&out, binary.LittleEndian, v) }
	out.WriteString("MZ" + strings.Repeat("\x00", 58) + "\x40\x00\x00\x00PE\x00\x00")
	put([]uint16{0x8664, 2, 0, 0, 0, 0, 0, 0, 0, 0}) // x86-64, two sections

	const start = 256
	for i, s := range []struct{ name, content string }{{".osrel", osRelease}, {".cmdline", cmdline}} {
		name := [8]byte{}
		copy(name[:], s.name)
		put(name)
		put([]uint32{uint32(len(s.content)), uint32(0x1000 * (i + 1)), uint32(len(s.content)), uint32(start * (i + 1)),
			0, 0, 0, 0})
	}
	for i, content := range []string{osRelease, cmdline} {
		out.Write(make([]byte, start*(i+1)-out.Len()))
		out.WriteString(content)
	}
	return out.Bytes()
}

// small is a small disk of an appliance, and where its parts are.
type small struct {
	file *os.File
	part map[layout.Role]part
	uki  []byte
}

const mebibyte = 1 << 20

func newSmall(t *testing.T) *small {
	t.Helper()
	dir := t.TempDir()
	s := &small{part: map[layout.Role]part{}}
	data := bytes.Repeat([]byte("0123456789abcdef"), mebibyte/16)
	var hashes bytes.Buffer
	tree, err := verity.Build(&hashes, bytes.NewReader(data), mebibyte, []byte("salt"), [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	s.uki = makeUKI("IMAGE_ID=x\nIMAGE_VERSION=1.0\n", "quiet roothash="+tree.Root().String())

	s.partition(t, filepath.Join(dir, "disk"), tree.Root())
	s.write(t, s.part[layout.Root].offset, data)
	s.write(t, s.part[layout.Verity].offset, hashes.Bytes())
	s.write(t, s.part[layout.ESP].offset, s.esp(t, dir))
	s.write(t, s.part[layout.Var].offset, varImage(t, dir))
	return s
}

func (s *small) partition(t *testing.T, path string, root verity.Digest) {
	t.Helper()
	const size = 96 * mebibyte
	var err error
	if s.file, err = os.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.file.Close() })
	if err := s.file.Truncate(size); err != nil {
		t.Fatal(err)
	}

	rootID, verityID := disk.IDs(root)
	ids := map[layout.Role]string{layout.Root: rootID.String(), layout.Verity: verityID.String()}
	sizes := map[layout.Role]int64{layout.ESP: 64, layout.Verity: 1, layout.Root: 1, layout.Var: 16}
	table := &gpt.Table{LogicalSectorSize: 512, PhysicalSectorSize: 512, ProtectiveMBR: true}
	at := int64(mebibyte)
	for i, p := range layout.Baked() {
		here := part{offset: at, size: sizes[p.Role] * mebibyte}
		s.part[p.Role], at = here, at+here.size
		table.Partitions = append(table.Partitions, &gpt.Partition{Index: i + 1, Start: uint64(here.offset / 512),
			End: uint64(at/512) - 1, Type: gpt.Type(strings.ToUpper(p.TypeID(arch.AMD64()))), Name: p.Label("1.0"),
			GUID: ids[p.Role]})
	}
	if err := table.Write(s.file, size); err != nil {
		t.Fatal(err)
	}
}

func (s *small) write(t *testing.T, offset int64, data []byte) {
	t.Helper()
	if _, err := s.file.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
}

// esp returns an ESP with boot loader and UKI.
func (s *small) esp(t *testing.T, dir string) []byte {
	t.Helper()
	image, uki := filepath.Join(dir, "esp"), filepath.Join(dir, "uki")
	if err := os.WriteFile(uki, s.uki, 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.vfat", "-C", "-F", "32", image, "65536")
	command(t, "mmd", "-i", image, "::EFI", "::EFI/BOOT", "::EFI/Linux")
	command(t, "mcopy", "-i", image, uki, "::EFI/BOOT/"+arch.AMD64().FallbackLoader())
	command(t, "mcopy", "-i", image, uki, "::EFI/Linux/runner_1.0.efi")
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// varImage returns a var file system with a machine id.
func varImage(t *testing.T, dir string) []byte {
	t.Helper()
	tree, image := filepath.Join(dir, "var"), filepath.Join(dir, "var.img")
	if err := os.MkdirAll(filepath.Join(tree, "lib/runner/host"), 0o755); err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("ab", 16) + "\n"
	if err := os.WriteFile(filepath.Join(tree, varMachineID), []byte(id), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, image, "16M")
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestCheck breaks one part of a disk after the other.
func TestCheck(t *testing.T) {
	s := newSmall(t)
	esp := s.part[layout.ESP].offset
	end := int64(96*mebibyte - 512)
	zero := make([]byte, 512)
	for _, test := range []struct {
		summary string
		at      []int64 // where a sector becomes zeros
		want    string  // the start of the error; empty for none
		backup  bool
		other   func(*Checker)
	}{
		{summary: "whole"},
		{summary: "first table", at: []int64{512}, backup: true},
		{summary: "second table", at: []int64{end}},
		{summary: "both tables", at: []int64{512, end}, want: "no copy of the partition table is whole"},
		{summary: "boot sector of the ESP", at: []int64{esp}, want: "cannot read FAT"},
		{summary: "second copy of the FAT", at: []int64{esp + s.fat(t, 1)}},
		{summary: "first copy of the FAT", at: []int64{esp + s.fat(t, 0)}, want: "cannot read ESP"},
		{summary: "root file system", at: []int64{s.part[layout.Root].offset + 512*1024},
			want: "version 1.0 would be started: block 128 of its root file system is wrong"},
		{summary: "hash tree", at: []int64{s.part[layout.Verity].offset + 4096},
			want: "version 1.0 would be started: cannot read hash tree"},
		{summary: "another UKI", other: func(c *Checker) { c.UKIs = [][32]byte{{}} },
			want: "the UKI runner_1.0.efi would be started, and is not whole"},
		{summary: "super block of /var", at: []int64{s.part[layout.Var].offset + 1024},
			want: "the var file system cannot be repaired"},
		{summary: "lost identity", other: func(c *Checker) { c.Identity = map[string][]byte{varMarker: []byte("{}")} },
			want: "/var/lib/runner/installed has 0 bytes and is not what it was"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			for _, at := range test.at {
				kept := make([]byte, 512)
				if _, err := s.file.ReadAt(kept, at); err != nil {
					t.Fatal(err)
				}
				s.write(t, at, zero)
				defer s.write(t, at, kept)
			}
			c := &Checker{Arch: arch.AMD64(), UKIs: [][sha256.Size]byte{sha256.Sum256(s.uki)}, Dir: t.TempDir()}
			if test.other != nil {
				test.other(c)
			}

			log := &Log{Entries: []Entry{{Kind: nbd.Flush}}}
			got, err := c.Check(t.Context(), s.file, &Cut{End: 1, log: log, kept: []bool{false}})
			message := ""
			if err != nil {
				message = err.Error()
			}
			if !strings.HasPrefix(message, test.want) || (message == "") != (test.want == "") {
				t.Errorf("got  %s\nwant %s", message, test.want)
			}
			if got.Backup != test.backup || test.want == "" && (got.Version != "1.0" || got.Registered) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// fat returns where a copy of the FAT starts on the ESP.
func (s *small) fat(t *testing.T, copy int64) int64 {
	t.Helper()
	sector := make([]byte, 512)
	if _, err := s.file.ReadAt(sector, s.part[layout.ESP].offset); err != nil {
		t.Fatal(err)
	}
	reserved, size := binary.LittleEndian.Uint16(sector[14:]), binary.LittleEndian.Uint32(sector[36:])
	return int64(reserved)*512 + copy*int64(size)*512
}
