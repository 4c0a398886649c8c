package powercut

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/ci/nbd"
)

// Replay makes the disks that power cuts leave, one after the other, in a file that
// had the content of the disk before the log.
type Replay struct {
	disk    *os.File
	log     *Log
	kept    []bool // by entry: whether it is durable
	scratch *os.File
	cut     *Cut
}

// NewReplay returns a replay in a file, which it changes. Files that it needs for a
// moment are made in dir.
func NewReplay(disk *os.File, log *Log, dir string) (*Replay, error) {
	scratch, err := os.CreateTemp(dir, "undo")
	if err != nil {
		return nil, fmt.Errorf("cannot replay log: %w", err)
	}
	return &Replay{disk: disk, log: log, kept: make([]bool, len(log.Entries)), scratch: scratch}, nil
}

// Close removes the files that the replay has made.
func (r *Replay) Close() error {
	return errors.Join(os.Remove(r.scratch.Name()), r.scratch.Close())
}

// Disk returns the file with the disk of the last cut.
func (r *Replay) Disk() *os.File { return r.disk }

// Cut is one power cut.
type Cut struct {
	// Barrier is the place in the log of the last flush that was answered. End is that
	// of the first request that did not come any more.
	Barrier, End int
	Seed         uint64
	// Kept, Torn and Lost count the changes that were not yet promised.
	Kept, Torn, Lost int

	log    *Log
	kept   []bool
	pieces []piece
	undo   []piece
}

// piece is a part of a change that the disk has kept, or of what was there before.
type piece struct {
	entry          int   // the change, in the log
	offset, length int64 // on the disk, in bytes
	data           int64 // where in the scratch file what was there before is
}

// String describes c for messages.
func (c *Cut) String() string {
	return fmt.Sprintf("cut after flush %d and before request %d, seed %d: of %d later changes %d kept, %d torn",
		c.Barrier, c.End, c.Seed, c.Kept+c.Torn+c.Lost, c.Kept, c.Torn)
}

// Note returns what the owner of the log noted when power was cut.
func (c *Cut) Note() int { return c.log.Entries[c.End-1].Note }

// Key identifies the content of a part of the disk: two cuts of a replay with the
// same key left the same there.
func (c *Cut) Key(offset, size int64) uint64 {
	sum := fnv.New64a()
	for i, e := range c.log.Entries[:c.End] {
		if c.kept[i] && e.overlaps(offset, size) {
			fmt.Fprintf(sum, "%d ", i)
		}
	}
	for _, p := range c.pieces {
		if p.offset < offset+size && offset < p.offset+p.length {
			fmt.Fprintf(sum, "%d:%d+%d ", p.entry, p.offset, p.length)
		}
	}
	return sum.Sum64()
}

// Cut makes the disk of a cut after the flush at a place in the log, which must not
// be before that of the cut before.
func (r *Replay) Cut(barrier int, seed uint64) (*Cut, error) {
	if err := r.restore(); err != nil {
		return nil, fmt.Errorf("cannot replay log: %w", err)
	}
	if err := r.advance(barrier); err != nil {
		return nil, fmt.Errorf("cannot replay log: %w", err)
	}

	c := r.choose(barrier, seed)
	r.cut = c
	for _, p := range c.pieces {
		if err := r.apply(p); err != nil {
			return nil, fmt.Errorf("cannot replay log: %w", err)
		}
	}
	return c, nil
}

// advance makes durable what the flush at a place promised.
func (r *Replay) advance(barrier int) error {
	promised := int(r.log.Entries[barrier].Answered)
	for i := 0; i < barrier; i++ {
		e := r.log.Entries[i]
		if r.kept[i] || e.Kind == nbd.Flush || i >= promised && !e.FUA {
			continue
		}
		if err := r.apply(piece{entry: i, offset: e.Offset, length: e.Length}); err != nil {
			return err
		}
		r.kept[i] = true
	}
	return nil
}

// choose decides which of the later changes the disk has kept.
func (r *Replay) choose(barrier int, seed uint64) *Cut {
	random := rand.New(rand.NewPCG(seed, uint64(barrier)))
	next := barrier + 1
	for next < len(r.log.Entries) && r.log.Entries[next].Kind != nbd.Flush {
		next++
	}
	c := &Cut{Barrier: barrier, End: barrier + 1 + random.IntN(next-barrier), Seed: seed, log: r.log, kept: r.kept}

	// A disk that keeps little, one that keeps much, and what lies between.
	likely := []float64{0, 0.1, 0.5, 0.9, 1}[random.IntN(5)]
	for i := int(r.log.Entries[barrier].Answered); i < c.End; i++ {
		e := r.log.Entries[i]
		if e.Kind == nbd.Flush || r.kept[i] {
			continue
		}
		whole := piece{entry: i, offset: e.Offset, length: e.Length}
		switch {
		case e.Kind == nbd.Trim: // a hint, which a disk may ignore
			c.Lost++
		case e.FUA || random.Float64() < likely:
			c.Kept++
			c.pieces = append(c.pieces, whole)
		case e.Length > nbd.SectorSize && random.IntN(2) == 0:
			c.Torn++
			c.pieces = append(c.pieces, tear(random, whole)...)
		default:
			c.Lost++
		}
	}
	return c
}

// maxTears bounds the parts of one torn change.
const maxTears = 64

// tear returns random parts of a change, in whole sectors.
func tear(random *rand.Rand, whole piece) []piece {
	sectors := whole.length / nbd.SectorSize
	run := max(1, sectors/maxTears)
	var parts []piece
	for at := int64(0); at < sectors; {
		n := min(1+random.Int64N(2*run), sectors-at)
		if random.IntN(2) == 0 {
			parts = append(parts, piece{entry: whole.entry, offset: whole.offset + at*nbd.SectorSize,
				length: n * nbd.SectorSize})
		}
		at += n
	}
	return parts
}

// apply writes a part of a change to the disk, and keeps what was there if it
// belongs to a cut.
func (r *Replay) apply(p piece) error {
	e := r.log.Entries[p.entry]
	if r.cut == nil && e.Kind != nbd.Write {
		return write(r.disk, e, nil)
	}
	data := make([]byte, p.length)
	if r.cut != nil {
		if _, err := r.disk.ReadAt(data, p.offset); err != nil {
			return err
		}
		end, err := r.scratch.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		if _, err := r.scratch.Write(data); err != nil {
			return err
		}
		r.cut.undo = append(r.cut.undo, piece{offset: p.offset, length: p.length, data: end})
	}

	if e.Kind == nbd.Write {
		if _, err := r.log.data.ReadAt(data, e.Data+p.offset-e.Offset); err != nil {
			return err
		}
	}
	e.Offset, e.Length = p.offset, p.length
	return write(r.disk, e, data)
}

// restore takes the changes of the last cut back.
func (r *Replay) restore() error {
	if r.cut == nil {
		return nil
	}
	undo := r.cut.undo
	r.cut = nil
	for i := len(undo) - 1; i >= 0; i-- {
		data := make([]byte, undo[i].length)
		if _, err := r.scratch.ReadAt(data, undo[i].data); err != nil {
			return err
		}
		if _, err := r.disk.WriteAt(data, undo[i].offset); err != nil {
			return err
		}
	}
	if err := r.scratch.Truncate(0); err != nil {
		return err
	}
	_, err := r.scratch.Seek(0, io.SeekStart)
	return err
}

// write carries out one entry of a log. The content of what was trimmed is zeros, as
// that of most disks.
func write(disk *os.File, e Entry, data []byte) error {
	switch e.Kind {
	case nbd.Write:
		_, err := disk.WriteAt(data, e.Offset)
		return err
	case nbd.Zero, nbd.Trim:
		const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		if e.Length == 0 {
			return nil
		}
		return unix.Fallocate(int(disk.Fd()), mode, e.Offset, e.Length)
	}
	return nil
}
