package upgrade

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/verity"
)

// noise returns n blocks that differ from each other and from those of other
// seeds.
func noise(seed int64, n int) []byte {
	data := make([]byte, n*blockSize)
	_, _ = rand.New(rand.NewSource(seed)).Read(data)
	return data
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func treeOf(t *testing.T, data []byte, salt string) *verity.Tree {
	t.Helper()
	tree, err := verity.Build(io.Discard, bytes.NewReader(data), int64(len(data)), []byte(salt), [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// memory is a slot.
type memory struct {
	data   []byte
	fails  bool         // after a number of writes
	writes atomic.Int64 // until then
}

func (m *memory) Sync() error { return nil }

func (m *memory) ReadAt(p []byte, offset int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(p, offset)
}

var errDisk = errors.New("input/output error")

func (m *memory) WriteAt(p []byte, offset int64) (int, error) {
	if m.fails && m.writes.Add(-1) < 0 {
		return 0, errDisk
	}
	return copy(m.data[offset:], p), nil
}

// served returns a server for one file, and how to open it.
func served(t *testing.T, size int, handler http.HandlerFunc) func(context.Context, span) (io.ReadCloser, error) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c := newHTTPChannel(server.URL + "/")
	c.grace, c.slowest = time.Second, 1<<30
	return func(ctx context.Context, part span) (io.ReadCloser, error) {
		return c.open(ctx, "", "file", part, int64(size))
	}
}

func serveContent(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "file", time.Time{}, bytes.NewReader(data))
	}
}

// TestFill fills slots from all that can hold a block.
func TestFill(t *testing.T) {
	a, b, c, d := noise(1, 300), noise(2, 20), noise(3, 40), noise(4, 50)
	zero := make([]byte, 7*blockSize)
	wanted := join(b, a, zero, c, d)
	slot := func(content ...[]byte) []byte {
		data := noise(8, len(wanted)/blockSize+3)
		copy(data, join(content...))
		return data
	}

	for _, test := range []struct {
		summary string
		active  []byte // nil for no delta
		salt    string // of active
		rotten  bool   // active is other than its tree
		target  []byte
		ranges  bool
		want    Stats
	}{
		{summary: "empty slot, shifted", active: join(a, c), salt: "s", target: slot(), ranges: true,
			want: Stats{Blocks: 417, Copied: 347, Downloaded: 70, Requests: 2, Bytes: 70 * blockSize}},
		{summary: "all in place", active: a, salt: "s", target: slot(wanted), ranges: true,
			want: Stats{Blocks: 417, InPlace: 417}},
		{summary: "old content of the slot, shifted", active: a, salt: "s", target: slot(c, d, b), ranges: true,
			want: Stats{Blocks: 417, Copied: 417}},
		{summary: "no delta", target: slot(c, d, b), ranges: true,
			want: Stats{Blocks: 417, Copied: 7, Downloaded: 410, Requests: 1, Bytes: 417 * blockSize}},
		{summary: "no delta, resumed", target: slot(b, a), ranges: true,
			want: Stats{Blocks: 417, InPlace: 320, Copied: 7, Downloaded: 90, Requests: 1, Bytes: 90 * blockSize}},
		{summary: "other salt", active: join(a, c), salt: "t", target: slot(b, a), ranges: true,
			want: Stats{Blocks: 417, InPlace: 320, Copied: 7, Downloaded: 90, Requests: 1, Bytes: 90 * blockSize}},
		{summary: "rotten active slot", active: join(a, c), salt: "s", rotten: true, target: slot(), ranges: true,
			want: Stats{Blocks: 417, Copied: 346, Downloaded: 71, Requests: 3, Bytes: 71 * blockSize}},
		{summary: "no ranges", active: join(a, c), salt: "s", target: slot(),
			want: Stats{Blocks: 417, Copied: 347, Downloaded: 70, Requests: 1, Bytes: 417 * blockSize, Full: true}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			handler := serveContent(wanted)
			if !test.ranges {
				handler = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(wanted) }
			}
			slot := &memory{data: test.target}
			f := &filler{tree: treeOf(t, wanted, "s"), target: slot, open: served(t, len(wanted), handler)}
			if test.active != nil {
				f.active = treeOf(t, test.active, test.salt)
				if test.rotten {
					test.active = bytes.Clone(test.active)
					test.active[100*blockSize]++
				}
				f.activeData = bytes.NewReader(test.active)
			}

			got, err := f.fill(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !bytes.Equal(slot.data[:len(wanted)], wanted) {
				t.Error("the slot has other content")
			}
			if err := check(t.Context(), slot, f.tree); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTwins: content that is twice in the new file system comes once.
func TestTwins(t *testing.T) {
	twice, c := noise(6, 100), noise(3, 40)
	wanted := join(twice, c, twice)
	slot := &memory{data: noise(8, 240)}
	f := &filler{tree: treeOf(t, wanted, "s"), target: slot, open: served(t, len(wanted), serveContent(wanted)),
		active: treeOf(t, c, "s"), activeData: bytes.NewReader(c)}
	got, err := f.fill(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Stats{Blocks: 240, Copied: 140, Downloaded: 100, Requests: 1, Bytes: 100 * blockSize}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !bytes.Equal(slot.data, wanted) {
		t.Error("the slot has other content")
	}
}

// hostile are the ways in which a server does not send what it was asked for.
// Each handler knows the content, and how often it was asked before.
var hostile = []struct {
	summary string
	handler func(w http.ResponseWriter, r *http.Request, data []byte, call int64)
	want    string // "" if the fill succeeds all the same
}{
	{summary: "wrong bytes", want: "the server sent another than the manifest lists",
		handler: func(w http.ResponseWriter, r *http.Request, data []byte, _ int64) {
			other := bytes.Clone(data)
			other[len(other)-1]++
			serveContent(other)(w, r)
		}},
	{summary: "wrong bytes, full file", want: "block 499: the server sent another than the manifest lists",
		handler: func(w http.ResponseWriter, _ *http.Request, data []byte, _ int64) {
			other := bytes.Clone(data)
			other[len(other)-1]++
			_, _ = w.Write(other)
		}},
	{summary: "wrong bytes twice",
		handler: func(w http.ResponseWriter, r *http.Request, data []byte, call int64) {
			if call < 2 {
				data = noise(9, 500)
			}
			serveContent(data)(w, r)
		}},
	{summary: "short", want: "the server sent less than it was asked for",
		handler: func(w http.ResponseWriter, r *http.Request, data []byte, _ int64) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)-blockSize))
			begin(w, r, data)
			_, _ = w.Write(data[blockSize : 3*blockSize])
		}},
	{summary: "connections end early",
		handler: func(w http.ResponseWriter, r *http.Request, data []byte, call int64) {
			if call == 0 {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				w.Header().Set("Content-Range", r.Header.Get("Range"))
				panic(http.ErrAbortHandler)
			}
			serveContent(data)(w, r)
		}},
	{summary: "endless", // no more than asked for is read
		handler: func(w http.ResponseWriter, r *http.Request, data []byte, _ int64) {
			from, last := begin(w, r, data)
			_, _ = w.Write(data[from : last+1])
			for r.Context().Err() == nil {
				if _, err := w.Write(data); err != nil {
					return
				}
			}
		}},
	{summary: "slow", want: "the server took more than",
		handler: func(w http.ResponseWriter, r *http.Request, data []byte, _ int64) {
			begin(w, r, data)
			for i := 0; r.Context().Err() == nil; i++ {
				_, _ = w.Write(data[i : i+1])
				_ = http.NewResponseController(w).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		}},
	{summary: "silent", want: "the server took more than",
		handler: func(_ http.ResponseWriter, r *http.Request, _ []byte, _ int64) { <-r.Context().Done() }},
	{summary: "other range", want: `the server sent "bytes 8192-`,
		handler: func(w http.ResponseWriter, r *http.Request, data []byte, _ int64) {
			r.Header.Set("Range", "bytes=8192-")
			serveContent(data)(w, r)
		}},
	{summary: "other size", want: `/2052096", asked for`,
		handler: func(w http.ResponseWriter, r *http.Request, data []byte, _ int64) {
			serveContent(append(bytes.Clone(data), noise(9, 1)...))(w, r)
		}},
	{summary: "no Content-Range", want: `the server sent "", asked for`,
		handler: func(w http.ResponseWriter, _ *http.Request, data []byte, _ int64) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data)
		}},
	{summary: "404", want: "the server answered 404 Not Found",
		handler: func(w http.ResponseWriter, _ *http.Request, _ []byte, _ int64) { w.WriteHeader(404) }},
	{summary: "500", want: "the server answered 500 Internal Server Error",
		handler: func(w http.ResponseWriter, _ *http.Request, _ []byte, _ int64) { w.WriteHeader(500) }},
	{summary: "500 twice",
		handler: func(w http.ResponseWriter, r *http.Request, data []byte, call int64) {
			if call < 2 {
				w.WriteHeader(500)
				return
			}
			serveContent(data)(w, r)
		}},
	{summary: "204", want: "the server answered 204 No Content",
		handler: func(w http.ResponseWriter, _ *http.Request, _ []byte, _ int64) { w.WriteHeader(204) }},
	{summary: "redirect loop", want: "more than 5 redirects",
		handler: func(w http.ResponseWriter, r *http.Request, _ []byte, _ int64) {
			http.Redirect(w, r, r.URL.String()+"x", http.StatusFound)
		}},
}

// begin writes the head of the answer that a part of data has.
func begin(w http.ResponseWriter, r *http.Request, data []byte) (from, last int) {
	_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &last)
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, last, len(data)))
	w.WriteHeader(http.StatusPartialContent)
	return from, last
}

// TestHostileServers has each server send to an empty slot: the fill fails and
// writes no block that the tree does not list, or it succeeds.
func TestHostileServers(t *testing.T) {
	t.Parallel()
	wanted := noise(1, 500)
	for _, test := range hostile {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			slot := &memory{data: make([]byte, len(wanted)+blockSize)}
			f := &filler{tree: treeOf(t, wanted, "s"), target: slot, pause: time.Millisecond,
				open: served(t, len(wanted), func(w http.ResponseWriter, r *http.Request) {
					test.handler(w, r, wanted, calls.Add(1)-1)
				})}
			// So that parts are asked for.
			copy(slot.data, wanted[:blockSize])

			_, err := f.fill(t.Context())
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
			for i := range 501 {
				block := slot.data[i*blockSize : (i+1)*blockSize]
				written := !bytes.Equal(block, make([]byte, blockSize))
				if written && (i == 500 || !bytes.Equal(block, wanted[i*blockSize:(i+1)*blockSize])) {
					t.Fatalf("block %d has foreign content", i)
				}
			}
		})
	}
}

// TestResume ends fills at random places until one succeeds.
func TestResume(t *testing.T) {
	wanted := noise(1, 3000)
	slot := &memory{data: make([]byte, len(wanted))}
	open := served(t, len(wanted), serveContent(wanted))
	downloaded := int64(0)
	for round := 1; ; round++ {
		slot.fails = round < 4
		slot.writes.Store(700)
		f := &filler{tree: treeOf(t, wanted, "s"), target: slot, open: open, pause: time.Millisecond}
		stats, err := f.fill(t.Context())
		downloaded += stats.Downloaded
		if err == nil {
			break
		}
		if !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(slot.data, wanted) || downloaded != 3000 {
		t.Errorf("%d blocks were downloaded, want each once", downloaded)
	}
}

func TestCancel(t *testing.T) {
	wanted := noise(1, 500)
	cause := errors.New("window is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	f := &filler{tree: treeOf(t, wanted, "s"), target: &memory{data: make([]byte, len(wanted))}, pause: time.Hour,
		open: func(context.Context, span) (io.ReadCloser, error) { cancel(cause); return nil, io.ErrUnexpectedEOF }}
	if _, err := f.fill(ctx); err == nil {
		t.Error("it succeeded")
	}
}

func TestCheckFindsRot(t *testing.T) {
	data := noise(1, 300)
	tree := treeOf(t, data, "s")
	data[299*blockSize+5]++
	if err := check(t.Context(), bytes.NewReader(data), tree); err == nil || !strings.Contains(err.Error(), "block 299 ") {
		t.Errorf("got %v", err)
	}
}
