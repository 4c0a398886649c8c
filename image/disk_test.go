package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/golden"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/spec"
)

func testPartitions(t *testing.T) []partition {
	t.Helper()
	dir := t.TempDir()
	content := filepath.Join(dir, "content")
	data := append(bytes.Repeat([]byte{0}, 2*mebibyte), []byte("after a hole")...)
	if err := os.WriteFile(content, data, 0o644); err != nil {
		t.Fatal(err)
	}
	amd64 := arch.AMD64()
	return []partition{
		{role: layout.ESP, typeID: layout.Partition{Role: layout.ESP}.TypeID(amd64), label: "esp",
			uuid: id("i", "1", "esp"), size: 4 * mebibyte, content: content},
		{role: layout.Verity, typeID: amd64.GPT.RootVerity, label: "runner_1.0_verity",
			uuid: id("i", "1", "v"), size: 8 * mebibyte, content: content},
		{role: layout.Root, typeID: amd64.GPT.Root, label: "runner_1.0",
			uuid: id("i", "1", "r"), size: 64 * mebibyte, content: content},
	}
}

// writeTestDisk writes a disk to a new file.
func writeTestDisk(t *testing.T, partitions []partition) (path string, disk *writtenDisk, err error) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.img")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	disk, err = writeDisk(out, id("i", "1", "disk"), partitions)
	return path, disk, err
}

func TestWriteDisk(t *testing.T) {
	path, written, err := writeTestDisk(t, testPartitions(t))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sgdisk", "--verify", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk --verify: %v\n%s", err, out)
	}

	dump, err := exec.Command("sfdisk", "--dump", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("DISK-ID", upperID("disk"), "DISK", path,
		"VERITY-TYPE", strings.ToUpper(arch.AMD64().GPT.RootVerity),
		"ESP-ID", upperID("esp"), "V-ID", upperID("v"), "R-ID", upperID("r")).Replace(`label: gpt
label-id: DISK-ID
device: DISK
unit: sectors
first-lba: 34
last-lba: 159710
sector-size: 512

DISK1 : start=        2048, size=        8192, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=ESP-ID, name="esp"
DISK2 : start=       10240, size=       16384, type=VERITY-TYPE, uuid=V-ID, name="runner_1.0_verity"
DISK3 : start=       26624, size=      131072, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=R-ID, name="runner_1.0"
`)
	if string(dump) != want {
		t.Errorf("got\n%s\nwant\n%s", dump, want)
	}

	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, start := range []int{2048, 10240, 26624} {
		at := start*sectorSize + 2*mebibyte
		if got := string(disk[at : at+12]); got != "after a hole" {
			t.Errorf("partition at sector %d holds %q", start, got)
		}
	}
	if want := hashOf(disk); written.sha256 != want || written.bytes != int64(len(disk)) {
		t.Errorf("got sha256 %s of %d bytes, want %s of %d", written.sha256, written.bytes, want, len(disk))
	}
	for i, p := range testPartitions(t) {
		content, err := os.ReadFile(p.content)
		if err != nil {
			t.Fatal(err)
		}
		a := written.contents[i]
		if a.Role != string(p.role) || a.SHA256 != hashOf(content) || a.Bytes != int64(len(content)) {
			t.Errorf("got artefact %+v of %s, want sha256 %s of %d bytes", a, p.role, hashOf(content), len(content))
		}
	}

	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	if used := stat.Blocks * 512; used > mebibyte {
		t.Errorf("%d KiB are allocated: the holes were filled", used/1024)
	}
}

// upperID returns an id of the test disk as sfdisk(8) prints it.
func upperID(part string) string { return strings.ToUpper(id("i", "1", part)) }

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func TestWriteDiskTwiceIsIdentical(t *testing.T) {
	partitions := testPartitions(t)
	var disks [2][]byte
	for i := range disks {
		path, _, err := writeTestDisk(t, partitions)
		if err != nil {
			t.Fatal(err)
		}
		if disks[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(disks[0], disks[1]) {
		t.Error("two disks from the same partitions differ")
	}
}

func TestWriteDiskRefusesContentLargerThanPartition(t *testing.T) {
	partitions := testPartitions(t)
	partitions[0].size = 2 * mebibyte
	_, _, err := writeTestDisk(t, partitions)
	want := "cannot write partition esp: its content takes 3 MiB, disk.esp allows 2 MiB; raise disk.esp in images.toml"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestRepartFiles(t *testing.T) {
	files := repartFiles(spec.Disk{ESP: 512 << 20, Root: 2 << 30, Verity: 32 << 20, Var: 256 << 20})
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text.WriteString("== " + name + "\n" + files[name])
	}
	golden.Check(t, "repart.golden", text.String())
}

func TestVerityPartitionIDs(t *testing.T) {
	root, verity, err := verityPartitionIDs("33588e4746557e5d19c7d7aee2f7f5ca53ab5600792a981a48b767ff0b884126")
	if err != nil || root != "33588e47-4655-7e5d-19c7-d7aee2f7f5ca" || verity != "53ab5600-792a-981a-48b7-67ff0b884126" {
		t.Errorf("got %s, %s, %v", root, verity, err)
	}
	for _, bad := range []string{"", "33", "zz588e4746557e5d19c7d7aee2f7f5ca53ab5600792a981a48b767ff0b884126"} {
		if _, _, err := verityPartitionIDs(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestParseRootHash(t *testing.T) {
	hash := strings.Repeat("a1", 32)
	got, err := parseRootHash("VERITY header information for /mnt/x\n" +
		"UUID:            \t1\nRoot hash:      \t" + hash + "\n")
	if err != nil || got != hash {
		t.Errorf("got %q, %v", got, err)
	}

	_, err = parseRootHash("Root hash: short\n")
	if err == nil || err.Error() != "cannot find the root hash in the output of veritysetup" {
		t.Errorf("got %v", err)
	}
}

func TestKernelCommandLine(t *testing.T) {
	got := strings.Join(kernelCommandLine("abc", []string{"console=ttyS0"}), " ")
	want := "root=/dev/mapper/root roothash=abc rootfstype=erofs ro systemd.verity_root_options=panic-on-corruption " +
		"gpt panic=10 rd.shell=0 rd.emergency=reboot console=ttyS0"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
