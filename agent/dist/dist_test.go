package dist

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/control"
)

const baked = "2.336.0"

// newStore returns a store whose image has the version baked.
func newStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	s := &Store{Dir: filepath.Join(dir, "dist"), Baked: filepath.Join(dir, "image"), Version: baked,
		Link: filepath.Join(dir, "run", "actions-runner")}
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

// entry is a file of an archive.
type entry struct {
	name string
	kind byte // tar.TypeReg if not set
	mode int64
	link string
	data string
}

// runner returns the entries of a small actions runner.
func runner(more ...entry) []entry {
	return append([]entry{
		{name: "./", kind: tar.TypeDir},
		{name: "./bin/", kind: tar.TypeDir, mode: 0o777},
		{name: "./bin/Runner.Listener", mode: 0o4777, data: "listener"},
		{name: "./bin/Runner.Worker", mode: 0o755, data: "worker"},
		{name: "./config.sh", mode: 0o644, data: "config"},
		{name: "./externals/node20/bin/npm", kind: tar.TypeSymlink, link: "../lib/npm.js"},
		{name: "./externals/node20/lib/npm.js", mode: 0o666, data: "npm"},
	}, more...)
}

func pack(t *testing.T, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	compressed := gzip.NewWriter(&b)
	archive := tar.NewWriter(compressed)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: e.mode, Linkname: e.link, Size: int64(len(e.data)),
			Uid: 1234, Gid: 1234}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := archive.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// addCopy adds the copy of a version to a store.
func addCopy(t *testing.T, s *Store, version string) {
	t.Helper()
	if err := s.add(version, tempFile(t, pack(t, runner()))); err != nil {
		t.Fatal(err)
	}
}

func tempFile(t *testing.T, data []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// copies returns the names in the directory of copies.
func copies(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestAdd(t *testing.T) {
	s := newStore(t)
	addCopy(t, s, "2.337.0")
	modes := map[string]fs.FileMode{}
	root := s.path("2.337.0")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			name, _ := filepath.Rel(root, path)
			modes[name] = info.Mode()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]fs.FileMode{
		".": fs.ModeDir | 0o755, "bin": fs.ModeDir | 0o755, "bin/Runner.Listener": 0o755, "bin/Runner.Worker": 0o755,
		"bin/Runner.Worker.real": 0o755, "config.sh": 0o644, "externals": fs.ModeDir | 0o755,
		"externals/node20": fs.ModeDir | 0o755, "externals/node20/bin": fs.ModeDir | 0o755,
		"externals/node20/bin/npm": fs.ModeSymlink | 0o777, "externals/node20/lib": fs.ModeDir | 0o755,
		"externals/node20/lib/npm.js": 0o644,
	}
	if diff := cmp.Diff(want, modes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestAddRefuses: a hostile archive leaves nothing, neither in the store nor beside it.
func TestAddRefuses(t *testing.T) {
	tests := []struct {
		summary string
		archive []byte // or
		entries []entry
		want    string
	}{
		{summary: "not gzip", archive: []byte("hello"), want: "unexpected EOF"},
		{summary: "truncated", archive: pack(t, runner())[:200], want: "unexpected EOF"},
		{summary: "path out", entries: []entry{{name: "../x", data: "x"}}, want: "the path leads out"},
		{summary: "absolute path", entries: []entry{{name: "/x", data: "x"}}, want: "the path leads out"},
		{summary: "link out", entries: []entry{{name: "a/b", kind: tar.TypeSymlink, link: "../../x"}},
			want: "the link leads out"},
		{summary: "absolute link", entries: []entry{{name: "a", kind: tar.TypeSymlink, link: "/etc"}},
			want: "the link leads out"},
		{summary: "hard link out", entries: []entry{{name: "a", kind: tar.TypeLink, link: "../../etc/passwd"}},
			want: "path escapes"},
		{summary: "file over a file", entries: runner(entry{name: "bin/Runner.Worker", data: "other"}),
			want: "file exists"},
		{summary: "file through a link", entries: []entry{{name: "a", kind: tar.TypeSymlink, link: "b"},
			{name: "a", data: "x"}}, want: "file exists"},
		{summary: "device", entries: []entry{{name: "sda", kind: tar.TypeBlock}}, want: "neither a file nor"},
		{summary: "pipe", entries: []entry{{name: "pipe", kind: tar.TypeFifo}}, want: "neither a file nor"},
		{summary: "no listener", entries: runner()[3:], want: "not an actions runner"},
		{summary: "listener is a link", entries: append(runner()[3:],
			entry{name: "bin/Runner.Listener", kind: tar.TypeSymlink, link: "Runner.Worker"}), want: "is not a program"},
		{summary: "worker is not executable", entries: append(runner()[:3], entry{name: "bin/Runner.Worker"},
			entry{name: "externals/x"}), want: "is not a program"},
		{summary: "no externals", entries: runner()[:4], want: "there is no directory externals"},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			s := newStore(t)
			if tt.archive == nil {
				tt.archive = pack(t, tt.entries)
			}
			err := s.add("2.337.0", tempFile(t, tt.archive))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if left := copies(t, s); len(left) != 0 {
				t.Errorf("left %q", left)
			}
			if entries, _ := os.ReadDir(filepath.Dir(s.Dir)); len(entries) != 1 {
				t.Errorf("made %v beside the copies", entries)
			}
		})
	}
}

func TestUnpackLimits(t *testing.T) {
	tests := []struct {
		summary string
		limits  limits
		want    string
	}{
		{summary: "enough", limits: limits{bytes: 100, files: 7}},
		{summary: "too many files", limits: limits{bytes: 100, files: 6}, want: "it has more than 6 files"},
		{summary: "too large", limits: limits{bytes: 10, files: 7}, want: "it unpacks to more than 0 MiB"},
	}
	for _, tt := range tests {
		err := tt.limits.unpack(bytes.NewReader(pack(t, runner())), t.TempDir())
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != tt.want) {
			t.Errorf("%s: got %v, want %q", tt.summary, err, tt.want)
		}
	}
}

func TestSelect(t *testing.T) {
	now := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	tests := []struct {
		summary string
		copies  []string
		state   *State
		want    string
		after   *State // nil for the same
	}{
		{summary: "nothing known"},
		{summary: "a copy nobody chose", copies: []string{"2.337.0"}},
		{summary: "current", copies: []string{"2.337.0"}, state: &State{Current: "2.337.0"}, want: "2.337.0"},
		{summary: "current is gone", state: &State{Current: "2.337.0"}},
		{summary: "the image has the same", copies: []string{baked}, state: &State{Current: baked}},
		{summary: "the image has a newer one", copies: []string{"2.335.1"}, state: &State{Current: "2.335.1"}},
		{summary: "trial", copies: []string{"2.337.0", "2.338.0"},
			state: &State{Current: "2.337.0", Trial: &Trial{Version: "2.338.0", Starts: 4}}, want: "2.338.0",
			after: &State{Current: "2.337.0", Trial: &Trial{Version: "2.338.0", Starts: 5}}},
		{summary: "trial that was never online", copies: []string{"2.337.0", "2.338.0"},
			state: &State{Current: "2.337.0", Trial: &Trial{Version: "2.338.0", Starts: 5}}, want: "2.337.0",
			after: &State{Current: "2.337.0", Failed: []Failure{{Version: "2.338.0", Time: now,
				Reason: "it was not online in 5 starts"}}}},
		{summary: "trial that is a path", copies: []string{"2.337.0"},
			state: &State{Current: "2.337.0", Trial: &Trial{Version: "../dist/2.337.0"}}, want: "2.337.0",
			after: &State{Current: "2.337.0"}},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			s := newStore(t)
			for _, v := range tt.copies {
				addCopy(t, s, v)
			}
			if tt.state != nil {
				tt.state.Schema = stateSchema
				if err := tt.state.save(s.Dir); err != nil {
					t.Fatal(err)
				}
			}

			got, err := s.Select(now)
			if err != nil || got != tt.want || s.Active() != tt.want {
				t.Errorf("got %q, active %q, %v; want %q", got, s.Active(), err, tt.want)
			}
			if target, err := os.Readlink(s.Link); err != nil || target != s.path(tt.want) {
				t.Errorf("the link leads to %s, %v", target, err)
			}
			after, err := LoadState(s.Dir)
			if tt.after == nil {
				tt.after = tt.state
			}
			if tt.after == nil {
				tt.after = &State{}
			}
			tt.after.Schema = stateSchema
			if diff := cmp.Diff(tt.after, after); err != nil || diff != "" {
				t.Errorf("%v; -want +got:\n%s", err, diff)
			}
		})
	}
}

// TestSelectWithBrokenState: the image's copy runs, whatever is in the file.
func TestSelectWithBrokenState(t *testing.T) {
	for _, content := range []string{"", "{", `{"schema": 2, "current": "2.337.0"}`} {
		s := newStore(t)
		addCopy(t, s, "2.337.0")
		if err := s.point("2.337.0"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Dir, stateName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		version, err := s.Select(time.Now())
		if version != "" || s.Active() != "" || err == nil || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("%q: got %q, active %q, %v", content, version, s.Active(), err)
		}
	}
}

func TestPrune(t *testing.T) {
	s := newStore(t)
	for _, v := range []string{"2.335.0", baked, "2.337.0", "2.338.0", "2.339.0", "2.340.0"} {
		addCopy(t, s, v)
	}
	for _, left := range []string{".2.341.0.12345", ".old.2.334.0", ".old.2.335.0"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, left, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.point("2.337.0"); err != nil { // runs still
		t.Fatal(err)
	}
	lock, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()

	state := &State{Schema: stateSchema, Current: "2.340.0", Copies: []Copy{{Version: "2.335.0"}, {Version: "2.339.0"}}}
	if err := s.prune(state, "2.339.0", "2.335.0"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"2.337.0", "2.339.0", "2.340.0"}, copies(t, s)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]Copy{{Version: "2.339.0"}}, state.Copies); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := s.lock(); err == nil || !strings.Contains(err.Error(), "another renewal") {
		t.Errorf("a second lock: %v", err)
	}
}

// fakeService is runner.service, with listeners that act by their version.
type fakeService struct {
	store  *Store
	acts   map[string]string // version -> what its listener does; online if not listed
	status control.Status
	starts []string
	since  time.Time
	busy   time.Duration // how long its job takes still
}

func (f *fakeService) set(state control.State) {
	f.status.State, f.status.Since, f.since = state, time.Now(), time.Now()
}

// start starts the service with the copy that the store selects.
func (f *fakeService) start(context.Context) error {
	version, err := f.store.Select(time.Now())
	if version == "" {
		version = f.store.Version
	}
	f.starts = append(f.starts, version)
	drain := f.status.Drain
	f.status = control.Status{}
	if drain != nil && !drain.Brief {
		f.status.Drain = drain
	}
	f.set(control.Starting)
	return err
}

func (f *fakeService) running() string { return f.starts[len(f.starts)-1] }

// Status implements Runner. A listener takes 5 s to come online.
func (f *fakeService) Status(context.Context) (control.Status, error) {
	if f.status.State != control.Starting || time.Since(f.since) < 5*time.Second {
		return f.status, nil
	}
	if f.status.Drain != nil {
		f.set(control.Drained)
		return f.status, nil
	}
	switch f.acts[f.running()] {
	case "":
		f.status.RunnerVersion = f.running()
		f.set(control.Online)
	case "another":
		f.status.RunnerVersion = "2.400.0"
		f.set(control.Online)
	case "deprecated":
		f.set(control.Deprecated)
	case "removed":
		f.status.Reason = "GitHub has removed this runner"
		f.set(control.Removed)
	case "offline":
	}
	return f.status, nil
}

// Pause implements Runner.
func (f *fakeService) Pause(context.Context) (control.Status, error) {
	if f.status.Drain == nil {
		f.status.Drain = &control.Drain{Brief: true}
	}
	return f.status, nil
}

// Wait implements Runner.
func (f *fakeService) Wait(ctx context.Context, _ func(control.Status)) (control.Status, error) {
	select {
	case <-ctx.Done():
		return f.status, ctx.Err()
	case <-time.After(f.busy):
	}
	f.set(control.Drained)
	return f.status, nil
}

// fakeOrigin has versions whose archives are good.
type fakeOrigin struct {
	t      *testing.T
	newest string
	asked  int
}

func (f *fakeOrigin) find(_ context.Context, version string) (*offer, error) {
	f.asked++
	if version == "" {
		version = f.newest
	}
	archive := pack(f.t, runner())
	return &offer{version: version, from: "fake", size: int64(len(archive)),
		published: time.Date(1999, 12, 1, 0, 0, 0, 0, time.UTC),
		open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(archive)), nil
		},
		check: func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err },
	}, nil
}
