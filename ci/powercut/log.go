// Package powercut finds out what power cuts do to an appliance's disk. A Recorder
// stands for the disk of a machine and logs each change and each flush. From the
// log, a Replay makes the disk that a cut at any flush leaves: what the flush
// promised is there, and of what came later a random part, torn into sectors. Check
// looks at such a disk as firmware, boot loader and kernel will.
//
// A disk may keep a part of what it was not asked to flush, in any order, by
// sectors of 512 bytes. It keeps a sector as a whole, and the newest version of it
// or an older one.
package powercut

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/mkappliance/mkappliance/ci/nbd"
)

// Entry is one request of a log.
type Entry struct {
	Kind   nbd.Kind
	Offset int64 `json:",omitempty"` // bytes
	Length int64 `json:",omitempty"` // bytes
	FUA    bool  `json:",omitempty"`
	// Answered is the number of entries, from the start of the log, that a Flush made
	// durable.
	Answered int64
	// Note is what the owner of the log noted at that time.
	Note int `json:",omitempty"`
	// Time is when the request was carried out, in milliseconds since 1970.
	Time int64 `json:",omitempty"`
	// Data is where the content of a Write lies in the log's file, in bytes.
	Data int64 `json:",omitempty"`
}

// overlaps reports whether e changes a part of the disk.
func (e Entry) overlaps(offset, size int64) bool {
	return e.Kind != nbd.Flush && e.Offset < offset+size && offset < e.Offset+e.Length
}

// Log is what a machine did to its disk.
type Log struct {
	Entries []Entry
	data    *os.File // content of all Writes
}

// Barriers returns the places of the flushes among the entries.
func (l *Log) Barriers() []int {
	var list []int
	for i, e := range l.Entries {
		if e.Kind == nbd.Flush {
			list = append(list, i)
		}
	}
	return list
}

// Names of a log in its directory.
const (
	entriesName = "entries.json"
	dataName    = "data"
)

// CreateLog starts a log in a directory.
func CreateLog(dir string) (*Log, error) {
	data, err := os.Create(filepath.Join(dir, dataName))
	if err != nil {
		return nil, fmt.Errorf("cannot start log of a disk: %w", err)
	}
	return &Log{data: data}, nil
}

// Save writes the entries to the directory of the log.
func (l *Log) Save() error {
	f, err := os.Create(filepath.Join(filepath.Dir(l.data.Name()), entriesName))
	if err != nil {
		return fmt.Errorf("cannot save log of a disk: %w", err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	encoder := json.NewEncoder(w)
	for _, e := range l.Entries {
		if err := encoder.Encode(e); err != nil {
			return fmt.Errorf("cannot save log of a disk: %w", err)
		}
	}
	return errors.Join(w.Flush(), f.Close())
}

// OpenLog reads a log that was saved.
func OpenLog(dir string) (*Log, error) {
	f, err := os.Open(filepath.Join(dir, entriesName))
	if err != nil {
		return nil, fmt.Errorf("cannot read log of a disk: %w", err)
	}
	defer f.Close()
	l := &Log{}
	for decoder := json.NewDecoder(bufio.NewReader(f)); ; {
		var e Entry
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read log of a disk: %w", err)
		}
		l.Entries = append(l.Entries, e)
	}

	if l.data, err = os.Open(filepath.Join(dir, dataName)); err != nil {
		return nil, fmt.Errorf("cannot read log of a disk: %w", err)
	}
	return l, nil
}

// Close closes the log's file.
func (l *Log) Close() error { return l.data.Close() }

// Hoist returns the log of a machine that does things in the wrong order: the
// changes of a part of the disk, from one entry on, come before all else, each
// flushed.
func (l *Log) Hoist(from int, offset, size int64) *Log {
	early, late := slices.Clone(l.Entries[:from]), []Entry{}
	for _, e := range l.Entries[from:] {
		if e.overlaps(offset, size) {
			early = append(early, e, Entry{Kind: nbd.Flush, Note: e.Note})
			continue
		}
		late = append(late, e)
	}

	all := slices.Concat(early, late)
	for i := from; i < len(all); i++ {
		all[i].Answered = int64(i)
	}
	return &Log{Entries: all, data: l.data}
}

// Recorder is a disk in a file. It is an nbd.Device.
type Recorder struct {
	disk *os.File
	size int64
	note func() int

	mu  sync.Mutex
	log *Log
}

// NewRecorder returns a disk whose content is that of a file, which it changes. The
// result of note goes with each entry of the log.
func NewRecorder(disk *os.File, log *Log, note func() int) (*Recorder, error) {
	info, err := disk.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot record disk: %w", err)
	}
	return &Recorder{disk: disk, size: info.Size(), log: log, note: note}, nil
}

// Entries returns the number of entries that the log has.
func (r *Recorder) Entries() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.log.Entries)
}

// Size implements nbd.Device.
func (r *Recorder) Size() int64 { return r.size }

// ReadAt implements nbd.Device.
func (r *Recorder) ReadAt(p []byte, offset int64) (int, error) { return r.disk.ReadAt(p, offset) }

// Apply implements nbd.Device.
func (r *Recorder) Apply(q nbd.Request) error {
	e := Entry{Kind: q.Kind, Offset: q.Offset, Length: q.Length, FUA: q.FUA, Answered: q.Answered, Note: r.note(),
		Time: time.Now().UnixMilli()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.Kind == nbd.Write {
		end, err := r.log.data.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		if _, err := r.log.data.Write(q.Data); err != nil {
			return err
		}
		e.Data = end
	}
	r.log.Entries = append(r.log.Entries, e)
	return write(r.disk, e, q.Data)
}
