package rootfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/golden"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/run/runtest"
	"github.com/mkappliance/mkappliance/internal/store"
)

func testLayer() *Layer {
	return &Layer{
		Name: "host", Variant: "essential", Architecture: "amd64", Suite: "trixie",
		Packages:     []string{"systemd", "dracut"},
		ExcludePaths: []string{"/usr/share/man/*"},
		IndexHash:    "abc",
		Epoch:        7,
		Sources: &Sources{
			Lines:   []string{"deb http://archive.test/debian trixie main"},
			Options: []string{`Acquire::Retries "3"`},
		},
	}
}

func TestLayerKey(t *testing.T) {
	base := testLayer().Key()
	for _, test := range []struct {
		summary string
		change  func(*Layer)
		same    bool
	}{
		{"name", func(l *Layer) { l.Name = "guest" }, true},
		{"how the archive is reached", func(l *Layer) { l.Sources.Options = nil }, true},
		{"package", func(l *Layer) { l.Packages = append(l.Packages, "less") }, false},
		{"archive", func(l *Layer) { l.IndexHash = "def" }, false},
		{"source", func(l *Layer) { l.Sources.Lines[0] += " contrib" }, false},
		{"exclusion", func(l *Layer) { l.ExcludePaths = nil }, false},
		{"order of packages", func(l *Layer) { slices.Reverse(l.Packages) }, false},
		{"variant", func(l *Layer) { l.Variant = "apt" }, false},
		{"epoch", func(l *Layer) { l.Epoch++ }, false},
	} {
		l := testLayer()
		test.change(l)
		if (l.Key() == base) != test.same {
			t.Errorf("%s: key is the same: %v, want %v", test.summary, !test.same, test.same)
		}
	}
}

// mmdebstrap acts as the tool would: it writes its last but one argument.
func mmdebstrap(_ context.Context, c run.Cmd) error {
	return os.WriteFile(c.Args[len(c.Args)-2], []byte("layer"), 0o644)
}

func newBuilder(t *testing.T, handle func(context.Context, run.Cmd) error) (*Builder, *runtest.Fake) {
	fake := &runtest.Fake{Handle: handle}
	return &Builder{Store: &store.Store{Dir: t.TempDir()}, Executor: fake}, fake
}

func TestBuilderLayer(t *testing.T) {
	b, fake := newBuilder(t, mmdebstrap)
	for _, wantCached := range []bool{false, true} {
		path, cached, err := b.Layer(t.Context(), testLayer(), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != "layer" || cached != wantCached {
			t.Errorf("got %q, cached: %v, %v; want cached: %v", data, cached, err, wantCached)
		}
	}
	if calls := fake.Calls(); len(calls) != 1 {
		t.Errorf("made the layer %d times, want once", len(calls))
	}
}

func TestBuilderLayerFailureKeepsNothing(t *testing.T) {
	b, _ := newBuilder(t, func(ctx context.Context, c run.Cmd) error {
		_ = mmdebstrap(ctx, c)
		return &run.ExitError{Tool: "mmdebstrap", Status: 25, Stderr: "E: no such package: x"}
	})
	_, _, err := b.Layer(t.Context(), testLayer(), io.Discard)
	want := "cannot make host layer: mmdebstrap failed with status 25: E: no such package: x"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if left, _ := filepath.Glob(filepath.Join(b.Store.Dir, "*", "*")); len(left) != 0 {
		t.Errorf("left behind %q", left)
	}
}

func TestSourceLines(t *testing.T) {
	for _, test := range []struct {
		summary, targets string
		want             []string
		err              string
	}{{
		summary: "the first archive of each label",
		targets: "http://a.test/debian/|Debian|Debian\nhttp://b.test/debian/|Debian|Debian\n" +
			"http://s.test/sec/|Debian|Debian-Security\nhttp://x.test/|Other|Debian\n",
		want: []string{"deb http://a.test/debian/ trixie main", "deb http://a.test/debian/ trixie-updates main",
			"deb http://s.test/sec/ trixie-security main"},
	}, {
		summary: "no security archive",
		targets: "http://a.test/debian/|Debian|Debian\n",
		want:    []string{"deb http://a.test/debian/ trixie main", "deb http://a.test/debian/ trixie-updates main"},
	}, {
		summary: "no Debian archive",
		targets: "http://x.test/|Ubuntu|Ubuntu\n",
		err: "cannot find a Debian archive in the apt sources of this host:" +
			" run 'apt-get update', or set mirror in images.toml",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			got, err := sourceLines(test.targets, "trixie")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
				t.Errorf("got %v, want %s", err, test.err)
			}
		})
	}
}

func TestFindSourcesCopiesHowTheHostReachesThem(t *testing.T) {
	fake := &runtest.Fake{Handle: func(_ context.Context, c run.Cmd) error {
		if c.Args[0] != "apt-config" {
			return errors.New("unexpected " + c.Args[0])
		}
		_, err := io.WriteString(c.Stdout, `Acquire "";
Acquire::cdrom::mount "/media";
Acquire::http::Proxy "http://p.test:1";
Acquire::Retries "3";
`)
		return err
	}}
	got, err := FindSources(t.Context(), fake, "trixie", "http://m.test/debian")
	if err != nil {
		t.Fatal(err)
	}
	want := &Sources{
		Lines:   []string{"deb http://m.test/debian trixie main", "deb http://m.test/debian trixie-updates main"},
		Options: []string{`Acquire::Retries "3"`, `Acquire::http::Proxy "http://p.test:1"`},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestFetchRefusesWrongHash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "runner.tar.gz")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	zeros := strings.Repeat("0", 64)
	_, err := Fetch(t.Context(), &store.Store{Dir: dir}, Component{Name: "actions runner", Path: path, SHA256: zeros})
	want := "cannot use " + path + ": its sha256 is 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881," +
		" images.toml says " + zeros
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestHasSubordinateIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	if err := os.WriteFile(file, []byte("alice:100000:65536\n1001:200000:65536\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary   string
		name, uid string
		want      bool
	}{
		{summary: "by name", name: "alice", uid: "1000", want: true},
		{summary: "by id", name: "bob", uid: "1001", want: true},
		{summary: "not at all", name: "carol", uid: "1002"},
	} {
		got, err := hasSubordinateIDs(file, test.name, test.uid)
		if got != test.want || err != nil {
			t.Errorf("%s: got %v, %v; want %v", test.summary, got, err, test.want)
		}
	}
}

// TestToolsTreeTwiceAtOnce lets two builds make the same tools tree: both must
// get the one tree.
func TestToolsTreeTwiceAtOnce(t *testing.T) {
	const builds = 2
	var arrived sync.WaitGroup
	arrived.Add(builds)
	fake := &runtest.Fake{Handle: func(ctx context.Context, c run.Cmd) error {
		if c.Args[0] == "mmdebstrap" {
			return mmdebstrap(ctx, c)
		}

		// Neither build goes on before both have begun to unpack.
		arrived.Done()
		arrived.Wait()
		dir := c.Args[slices.Index(c.Args, "--directory")+1]
		return os.WriteFile(filepath.Join(dir, "tool"), nil, 0o755)
	}}
	b := &Builder{Store: &store.Store{Dir: t.TempDir()}, Executor: fake}

	type result struct {
		tools *Tools
		err   error
	}
	results := make(chan result, builds)
	for range builds {
		go func() {
			tools, _, err := b.Tools(t.Context(), testLayer(), io.Discard)
			results <- result{tools, err}
		}()
	}
	for range builds {
		r := <-results
		if r.err != nil {
			t.Errorf("a build failed: %v", r.err)
			continue
		}
		if _, err := os.Stat(filepath.Join(r.tools.Root, "tool")); err != nil {
			t.Errorf("a build got no tools tree: %v", err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(b.Store.Dir, "*", ".new-*")); len(left) != 0 {
		t.Errorf("left behind %q", left)
	}
}

func TestFindTools(t *testing.T) {
	b, _ := newBuilder(t, func(ctx context.Context, c run.Cmd) error {
		if c.Args[0] == "mmdebstrap" {
			return mmdebstrap(ctx, c)
		}
		return nil
	})
	find := func(digest string) (string, error) {
		tools, err := FindTools(b.Store, "trixie", "amd64", digest)
		if err != nil {
			return "", err
		}
		return tools.Digest, nil
	}
	if _, err := find(""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in an empty store: got %v, want fs.ErrNotExist", err)
	}

	older, _, err := b.Tools(t.Context(), testLayer(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	changed := testLayer()
	changed.IndexHash = "def"
	newer, _, err := b.Tools(t.Context(), changed, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for root, used := range map[string]int64{older.Root: 1, newer.Root: 2} {
		if err := os.Chtimes(root, time.Unix(used, 0), time.Unix(used, 0)); err != nil {
			t.Fatal(err)
		}
	}

	// Finding a tree marks it as used, so the order of the cases counts.
	for _, test := range []struct{ summary, digest, want string }{
		{"unknown digest", strings.Repeat("0", 64), newer.Digest},
		{"path in place of a digest", "../tools-trixie-amd64/" + older.Digest, newer.Digest},
		{"known digest", older.Digest, older.Digest},
	} {
		if got, err := find(test.digest); err != nil || got != test.want {
			t.Errorf("%s: got %s, %v; want %s", test.summary, got, err, test.want)
		}
	}
	if _, err := FindTools(b.Store, "trixie", "arm64", older.Digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of another architecture: got %v, want fs.ErrNotExist", err)
	}
}

// TestCommands pins the commands that layers, and thereby images, depend on.
func TestCommands(t *testing.T) {
	l := testLayer()
	sandbox := Sandbox{Root: "/tools", Work: "/work", Epoch: 7}
	inTree := Sandbox{Root: "/tree", Writable: true, Epoch: 7}
	text := ""
	for _, argv := range [][]string{
		l.argv(l.Sources.Options, "out.tar", "list"),
		l.environment(),
		sandbox.Command("mkfs.erofs", "/mnt/x").Args,
		inTree.Command("systemctl", "preset-all").Args,
	} {
		text += strings.Join(argv, "\n\t") + "\n"
	}

	golden.Check(t, "commands.golden", text)
}
