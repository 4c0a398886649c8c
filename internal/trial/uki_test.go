package trial

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"strings"
	"testing"
)

// fakeUKI returns a PE file with a section for each name and content, a page apart in
// memory.
func fakeUKI(t *testing.T, sections ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	dos := make([]byte, 0x40)
	copy(dos, "MZ")
	dos[peOffset] = 0x40
	out.Write(dos)
	out.WriteString("PE\x00\x00")
	n := len(sections) / 2
	optional := pe.OptionalHeader64{Magic: 0x20b, NumberOfRvaAndSizes: 16}
	for _, header := range []any{
		pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: uint16(n),
			SizeOfOptionalHeader: uint16(binary.Size(optional))},
		optional,
	} {
		if err := binary.Write(&out, binary.LittleEndian, header); err != nil {
			t.Fatal(err)
		}
	}

	offset := uint32(fileAlignment * 2)
	var contents []byte
	for i := range n {
		name, content := sections[2*i], sections[2*i+1]
		size := uint32(len(content)+fileAlignment-1) &^ (fileAlignment - 1)
		h := pe.SectionHeader32{VirtualSize: uint32(len(content)), VirtualAddress: uint32(i+1) * 4096,
			SizeOfRawData: size, PointerToRawData: offset}
		copy(h.Name[:], name)
		if err := binary.Write(&out, binary.LittleEndian, h); err != nil {
			t.Fatal(err)
		}
		contents = append(contents, append([]byte(content), make([]byte, int(size)-len(content))...)...)
		offset += size
	}
	out.Write(make([]byte, fileAlignment*2-out.Len()))
	return append(out.Bytes(), contents...)
}

func TestWithSection(t *testing.T) {
	uki := fakeUKI(t, ".osrel", "ID=debian\n", ".cmdline", "quiet", ".linux", "kernel")
	for _, test := range []struct {
		summary string
		section string
		content string
		longer  int // bytes that the file grows by
		err     string
	}{
		{summary: "shorter", section: ".cmdline", content: "ro"},
		{summary: "within the section's space of the file", section: ".cmdline", content: strings.Repeat("x", 512)},
		{summary: "beyond it", section: ".cmdline", content: strings.Repeat("x", 513), longer: 1024},
		{summary: "up to the next section in memory", section: ".osrel", content: strings.Repeat("x", 4096), longer: 4096},
		{summary: "into the next section", section: ".osrel", content: strings.Repeat("x", 4097),
			err: "section .osrel of the UKI has room for 4096 bytes, not for 4097"},
		{summary: "missing", section: ".initrd", err: "not a UKI: it has no section .initrd"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			out, err := withSection(uki, test.section, test.content)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}

			want := map[string]string{".osrel": "ID=debian\n", ".cmdline": "quiet", ".linux": "kernel"}
			want[test.section] = test.content
			for name, content := range want {
				if got, err := section(out, name); err != nil || got != content {
					t.Errorf("section %s: got %q, %v, want %q", name, got, err, content)
				}
			}
			if grown := len(out) - len(uki); grown != test.longer {
				t.Errorf("the file grew by %d bytes, want %d", grown, test.longer)
			}
		})
	}
}

func TestBreakUKI(t *testing.T) {
	uki := fakeUKI(t, ".osrel", "IMAGE_ID=runner\nIMAGE_VERSION=1.2.0\nVERSION=13\n",
		".cmdline", "roothash=aa console=ttyS0\x00", ".linux", "kernel")
	broken, err := breakUKI(uki, "aa", "bb", "1.2.0", "1.2.0.1")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		".osrel":   "IMAGE_ID=runner\nIMAGE_VERSION=1.2.0.1\nVERSION=13\n",
		".cmdline": "roothash=bb console=ttyS0 systemd.mask=runner-guestd.socket",
	} {
		if got, err := section(broken, name); err != nil || got != want {
			t.Errorf("section %s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := breakUKI(uki, "cc", "bb", "1.2.0", "1.2.0.1"); err == nil {
		t.Error("a UKI that starts another root file system was taken")
	}
}
