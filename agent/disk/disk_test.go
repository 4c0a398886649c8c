package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/verity"
)

const mebibyte = 1 << 20

// running is the root hash of the version in slot A.
var running = verity.Digest(sha256.Sum256([]byte("running")))

// newDisk writes a disk as it is after the first boot: repart added slot B behind
// var. It returns its path.
func newDisk(t *testing.T, slotB bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 16 * mebibyte
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}

	partitions := layout.Baked()
	if slotB {
		partitions = append(partitions, layout.Partition{Role: layout.Verity, Slot: layout.SlotB},
			layout.Partition{Role: layout.Root, Slot: layout.SlotB})
	}
	rootID, verityID := IDs(running)
	table := &gpt.Table{LogicalSectorSize: 512, PhysicalSectorSize: 512, ProtectiveMBR: true}
	for i, p := range partitions {
		label := p.Label("1.0.0")
		if p.Slot == layout.SlotB {
			label = layout.EmptyLabel
		}
		guid := map[string]string{"root-a": rootID.String(), "verity-a": verityID.String()}[p.Name()]
		table.Partitions = append(table.Partitions, &gpt.Partition{Index: i + 1, Start: uint64(i+1) * 2048,
			End: uint64(i+2)*2048 - 1, Type: gpt.Type(strings.ToUpper(p.TypeID(arch.AMD64()))), Name: label, GUID: guid})
	}
	if err := table.Write(f, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) *Disk {
	t.Helper()
	d, err := Open(path, running, arch.AMD64())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// show returns labels and UUIDs as go-diskfs reads them.
func show(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := gpt.Read(f, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, p := range table.Partitions {
		if p.Type != gpt.Unused {
			lines = append(lines, p.Name+" "+strings.ToLower(p.GUID))
		}
	}
	return lines
}

func TestSlots(t *testing.T) {
	path := newDisk(t, true)
	before := show(t, path)
	d := open(t, path)
	if got := d.Active(); got.Name != layout.SlotA || got.Version != "1.0.0" || got.RootSize != mebibyte {
		t.Errorf("active: %+v", got)
	}
	if got := d.Inactive(); got.Name != layout.SlotB || got.Version != "" || got.VeritySize != mebibyte {
		t.Errorf("inactive: %+v", got)
	}

	next := verity.Digest(sha256.Sum256([]byte("next")))
	rootID, verityID := IDs(next)
	if err := d.Assign("1.1.0", next); err != nil {
		t.Fatal(err)
	}
	want := append(bytesOf(before[:4]), "runner_1.1.0_verity "+verityID.String(), "runner_1.1.0 "+rootID.String())
	if diff := cmp.Diff(want, show(t, path)); diff != "" {
		t.Errorf("assigned (-want +got):\n%s", diff)
	}
	checkSgdisk(t, path)

	if err := d.Clear(); err != nil {
		t.Fatal(err)
	}
	cleared := show(t, path)
	for i, line := range cleared[4:] {
		if !strings.HasPrefix(line, "_empty ") || line == want[4+i] || strings.Contains(line, rootID.String()) {
			t.Errorf("cleared: %s", line)
		}
	}
	checkSgdisk(t, path)
}

func bytesOf(lines []string) []string { return append([]string(nil), lines...) }

// checkSgdisk has sgdisk(8) check both copies of the table.
func checkSgdisk(t *testing.T, path string) {
	t.Helper()
	if _, err := exec.LookPath("sgdisk"); err != nil {
		t.Log("sgdisk is missing: not checked")
		return
	}
	out, err := exec.Command("sgdisk", "--verify", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") || strings.Contains(string(out), "corrupt") {
		t.Errorf("sgdisk: %v\n%s", err, out)
	}
}

// cutDisk is a disk whose power is cut after a number of bytes written.
type cutDisk struct {
	*os.File
	left int
}

var errCut = errors.New("power cut")

func (c *cutDisk) Sync() error { return nil }

func (c *cutDisk) WriteAt(p []byte, offset int64) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	if _, err := c.File.WriteAt(p[:n], offset); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, errCut
	}
	return n, nil
}

// TestTableCut cuts the power within the writing of a table: each disk that is
// left has the old table or the new one, and the next writing repairs it.
func TestTableCut(t *testing.T) {
	path := newDisk(t, true)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	const total = 2 * (128*128 + 512)
	tail := int64(len(old) - 64<<10)
	for cut := 0; cut <= total; cut += 97 {
		for _, offset := range []int64{0, tail} { // where the two copies are
			if _, err := f.WriteAt(old[offset:offset+64<<10], offset); err != nil {
				t.Fatal(err)
			}
		}

		written, err := readTable(f)
		if err != nil {
			t.Fatal(err)
		}
		rename(t, written)
		err = written.write(&cutDisk{f, cut})
		if (err != nil) != (cut < total) {
			t.Fatalf("cut at %d: got %v", cut, err)
		}

		left, err := readTable(f)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		labels := left.list()[4].label + " " + left.list()[5].label
		if labels != "_empty _empty" && labels != "runner_2_verity runner_2" {
			t.Fatalf("cut at %d: the labels are %s", cut, labels)
		}

		if err := left.write(&cutDisk{f, total}); err != nil {
			t.Fatal(err)
		}
		if again, err := readTable(f); err != nil || again.RecoveredFromBackup {
			t.Fatalf("cut at %d: the next writing did not repair the table: %v", cut, err)
		}
	}
}

func rename(t *testing.T, table *table) {
	t.Helper()
	rootID, verityID := IDs(verity.Digest(sha256.Sum256([]byte("next"))))
	err := errors.Join(table.rename(5, "runner_2_verity", verityID), table.rename(6, "runner_2", rootID))
	if err != nil {
		t.Fatal(err)
	}
}

// TestTableBytes asserts that nothing changes but what was to change.
func TestTableBytes(t *testing.T) {
	path := newDisk(t, true)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := readTable(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.write(f); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the disk differs although nothing was renamed")
	}
}

func TestOpenRefuses(t *testing.T) {
	twice := newDisk(t, true)
	d := open(t, twice)
	if err := d.Assign("1.0.0", running); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, make([]byte, mebibyte), 0o600); err != nil {
		t.Fatal(err)
	}
	locked := newDisk(t, true)
	open(t, locked)

	for _, test := range []struct {
		summary, path, want string
		root                verity.Digest
	}{
		{"one slot", newDisk(t, false), "the disk has only one slot", running},
		{"other root hash", newDisk(t, true), "0 of 2 have the root hash", verity.Digest{1}},
		{"both slots", twice, "2 of 2 have the root hash", running},
		{"no table", empty, "cannot read partition table", running},
		{"locked", locked, "another program changes its partitions", running},
		{"missing", "/nonexistent", "cannot open disk", running},
	} {
		t.Run(test.summary, func(t *testing.T) {
			d, err := Open(test.path, test.root, arch.AMD64())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, %v; want %q", d, err, test.want)
			}
		})
	}
}

func TestArea(t *testing.T) {
	path := newDisk(t, true)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, path)
	area := d.InactiveRoot()
	if _, err := area.WriteAt([]byte("content"), mebibyte-7); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int64{-1, mebibyte - 6, mebibyte, 1 << 62} {
		if _, err := area.WriteAt([]byte("content"), offset); !errors.Is(err, errBeyond) {
			t.Errorf("write at %d: got %v", offset, err)
		}
	}
	if err := area.Sync(); err != nil {
		t.Fatal(err)
	}

	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(before[7*mebibyte-7:], "content")
	if !bytes.Equal(before, after) {
		t.Error("the disk differs outside of the area")
	}
}
