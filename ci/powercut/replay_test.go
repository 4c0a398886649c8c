package powercut

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mkappliance/mkappliance/ci/nbd"
)

const testSize = 64 * nbd.SectorSize

// newDisk returns an empty disk of testSize.
func newDisk(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(testSize); err != nil {
		t.Fatal(err)
	}
	return f
}

// record returns the log of requests, of which each Write fills its sectors with its
// number, from 1, and of which Answered is counted from the end: -1 is a flush that
// came while the request before it was under way.
func record(t *testing.T, requests []nbd.Request) *Log {
	t.Helper()
	log, err := CreateLog(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRecorder(newDisk(t), log, func() int { return 7 })
	if err != nil {
		t.Fatal(err)
	}

	for i, q := range requests {
		if q.Kind == nbd.Write {
			q.Data = bytes.Repeat([]byte{byte(i + 1)}, int(q.Length))
		}
		q.Answered += int64(i)
		if err := r.Apply(q); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Save(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	saved, err := OpenLog(filepath.Dir(log.data.Name()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = saved.Close() })
	if !slices.Equal(saved.Entries, log.Entries) || saved.Entries[0].Note != 7 {
		t.Fatalf("saved %+v, read %+v", log.Entries, saved.Entries)
	}
	return saved
}

// sectors returns the first byte of each sector of a disk of a replay.
func sectors(t *testing.T, r *Replay) []byte {
	t.Helper()
	data := make([]byte, testSize)
	if _, err := r.Disk().ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	var firsts []byte
	for len(data) > 0 {
		sector := data[:nbd.SectorSize]
		if bytes.Count(sector, sector[:1]) != len(sector) {
			t.Fatal("a sector is torn")
		}
		firsts = append(firsts, sector[0])
		data = data[nbd.SectorSize:]
	}
	return firsts
}

func sectorWrite(from, n int64) nbd.Request {
	return nbd.Request{Kind: nbd.Write, Offset: from * nbd.SectorSize, Length: n * nbd.SectorSize}
}

// TestCut: what a flush promised is on each disk, and of what came later each sector
// is or is not.
func TestCut(t *testing.T) {
	early := sectorWrite(20, 1) // under way when the flush comes
	log := record(t, []nbd.Request{
		sectorWrite(0, 8), early, {Kind: nbd.Flush, Answered: -1},
		sectorWrite(4, 8), {Kind: nbd.Zero, Offset: 0, Length: nbd.SectorSize}, sectorWrite(40, 1), {Kind: nbd.Flush},
		sectorWrite(63, 1),
	})
	if got := log.Barriers(); !slices.Equal(got, []int{2, 6}) {
		t.Fatalf("barriers at %v", got)
	}
	replay, err := NewReplay(newDisk(t), log, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}

	seen := map[int]map[byte]bool{}
	torn := 0
	for seed := range uint64(200) {
		cut, err := replay.Cut(2, seed)
		if err != nil {
			t.Fatal(err)
		}
		torn += cut.Torn
		for i, b := range sectors(t, replay) {
			if seen[i] == nil {
				seen[i] = map[byte]bool{}
			}
			seen[i][b] = true
		}
	}
	for _, test := range []struct {
		sector int
		want   []byte
	}{
		{sector: 0, want: []byte{0, 1}}, // promised, then perhaps zeroed
		{sector: 1, want: []byte{1}},
		{sector: 4, want: []byte{1, 4}},
		{sector: 11, want: []byte{0, 4}},
		{sector: 20, want: []byte{0, 2}},
		{sector: 40, want: []byte{0, 6}},
		{sector: 63, want: []byte{0}}, // comes after the next flush
	} {
		var got []byte
		for b := range seen[test.sector] {
			got = append(got, b)
		}
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("sector %d has been %v, want %v", test.sector, got, test.want)
		}
	}
	if torn == 0 {
		t.Error("no write was torn")
	}

	// The next flush promises all before it; nothing of the cuts is left.
	seen[63] = map[byte]bool{}
	for seed := range uint64(50) {
		if _, err := replay.Cut(6, seed); err != nil {
			t.Fatal(err)
		}
		got := sectors(t, replay)
		seen[63][got[63]] = true
		want := slices.Concat([]byte{0, 1, 1, 1}, bytes.Repeat([]byte{4}, 8), make([]byte, 8), []byte{2},
			make([]byte, 19), []byte{6}, make([]byte, 22))
		if !slices.Equal(got[:63], want) {
			t.Fatalf("seed %d\ngot  %v\nwant %v", seed, got[:63], want)
		}
	}
	if !seen[63][0] || !seen[63][8] {
		t.Errorf("the last write was always there, or never: %v", seen[63])
	}
}

// TestCutAgain: the same seed makes the same disk, and disks that differ have other keys.
func TestCutAgain(t *testing.T) {
	requests := []nbd.Request{{Kind: nbd.Flush}}
	for i := range int64(16) {
		requests = append(requests, sectorWrite(i*4, 4))
	}
	log := record(t, requests)
	replay, err := NewReplay(newDisk(t), log, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}

	content := map[uint64][]byte{}
	disks := map[string]bool{}
	for seed := range uint64(40) {
		for range 2 {
			cut, err := replay.Cut(0, seed)
			if err != nil {
				t.Fatal(err)
			}
			key, got := cut.Key(0, testSize), sectors(t, replay)
			if known, ok := content[key]; ok && !slices.Equal(known, got) {
				t.Fatalf("two disks have the key %x", key)
			}
			content[key] = got
			disks[string(got)] = true
			if first := cut.Key(0, nbd.SectorSize) == cut.Key(testSize, nbd.SectorSize); first != (got[0] == 0) {
				t.Errorf("the key of the first sector does not show whether it is written: %v", got[:4])
			}
		}
	}
	if len(disks) < 10 {
		t.Errorf("40 seeds made %d disks", len(disks))
	}
}

// TestFUA: a write with FUA is there once it is answered.
func TestFUA(t *testing.T) {
	fua := sectorWrite(3, 1)
	fua.FUA = true
	log := record(t, []nbd.Request{sectorWrite(1, 1), fua, {Kind: nbd.Flush, Answered: -2}, sectorWrite(2, 1)})
	replay, err := NewReplay(newDisk(t), log, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(30) {
		if _, err := replay.Cut(2, seed); err != nil {
			t.Fatal(err)
		}
		if got := sectors(t, replay); got[3] != 2 {
			t.Fatalf("seed %d: it is lost: %v", seed, got[:4])
		}
	}
}

func TestHoist(t *testing.T) {
	log := record(t, []nbd.Request{sectorWrite(0, 1), {Kind: nbd.Flush}, sectorWrite(1, 1), sectorWrite(9, 1),
		{Kind: nbd.Flush}})
	got := log.Hoist(2, 9*nbd.SectorSize, nbd.SectorSize)
	var order []int64
	for _, e := range got.Entries {
		if e.Kind == nbd.Flush {
			order = append(order, -e.Answered)
			continue
		}
		order = append(order, e.Offset/nbd.SectorSize)
	}
	if want := []int64{0, -1, 9, -3, 1, -5}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
}
