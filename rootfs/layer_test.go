package rootfs

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/run/runtest"
)

func testLayer() *Layer {
	return &Layer{Name: "host", Variant: "essential", Architecture: "amd64", Suite: "trixie", Packages: []string{"systemd", "dracut"},
		ExcludePaths: []string{"/usr/share/man/*"}, Archive: "abc", Epoch: 7,
		Sources: &Sources{Lines: []string{"deb http://archive.test/debian trixie main"}, Options: []string{`Acquire::Retries "3"`}}}
}

func TestLayerArgv(t *testing.T) {
	want := []string{"mmdebstrap", "--mode=root", "--format=tar", "--variant=essential", "--architectures=amd64",
		`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Retries "3"`,
		"--dpkgopt=path-exclude=/usr/share/man/*", "--include=systemd", "--include=dracut", "trixie", "out.tar", "list"}
	if got := testLayer().Argv("out.tar", "list"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
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
		{"archive", func(l *Layer) { l.Archive = "def" }, false},
		{"source", func(l *Layer) { l.Sources.Lines[0] += " contrib" }, false},
		{"exclusion", func(l *Layer) { l.ExcludePaths = nil }, false},
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

func TestCacheGet(t *testing.T) {
	fake := &runtest.Fake{Handle: mmdebstrap}
	cache := &Cache{Dir: t.TempDir(), Executor: fake}
	for range 2 {
		path, err := cache.Get(t.Context(), testLayer(), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != "layer" {
			t.Fatalf("got %q, %v", data, err)
		}
	}
	if calls := fake.Calls(); len(calls) != 1 {
		t.Errorf("made the layer %d times, want once", len(calls))
	}
	left, _ := filepath.Glob(filepath.Join(cache.Dir, "layers", ".new-*"))
	if len(left) != 0 {
		t.Errorf("left behind %q", left)
	}
}

func TestCacheGetFailureKeepsNothing(t *testing.T) {
	fake := &runtest.Fake{Handle: func(ctx context.Context, c run.Cmd) error {
		_ = mmdebstrap(ctx, c)
		return &run.ExitError{Tool: "mmdebstrap", Status: 25, Stderr: "E: no such package: x"}
	}}
	cache := &Cache{Dir: t.TempDir(), Executor: fake}
	_, err := cache.Get(t.Context(), testLayer(), io.Discard)
	want := "cannot make host tree: mmdebstrap failed with status 25: E: no such package: x"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if cache.Has(testLayer()) {
		t.Error("the failed layer is in the cache")
	}
}

func TestSourceLines(t *testing.T) {
	for _, test := range []struct {
		summary, targets string
		want             []string
		err              string
	}{{
		summary: "the first archive of each label",
		targets: "http://a.test/debian/|Debian|Debian\nhttp://b.test/debian/|Debian|Debian\nhttp://s.test/sec/|Debian|Debian-Security\nhttp://x.test/|Other|Debian\n",
		want: []string{"deb http://a.test/debian/ trixie main", "deb http://a.test/debian/ trixie-updates main",
			"deb http://s.test/sec/ trixie-security main"},
	}, {
		summary: "no security archive",
		targets: "http://a.test/debian/|Debian|Debian\n",
		want:    []string{"deb http://a.test/debian/ trixie main", "deb http://a.test/debian/ trixie-updates main"},
	}, {
		summary: "no Debian archive",
		targets: "http://x.test/|Ubuntu|Ubuntu\n",
		err:     "cannot find a Debian archive in the apt sources of this host: run 'apt-get update', or set mirror in images.toml",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			got, err := sourceLines(test.targets, "trixie")
			if !reflect.DeepEqual(got, test.want) || (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
				t.Errorf("got %q, %v; want %q, %s", got, err, test.want, test.err)
			}
		})
	}
}

func TestFindSourcesCopiesHowTheHostReachesThem(t *testing.T) {
	fake := &runtest.Fake{Handle: func(_ context.Context, c run.Cmd) error {
		if c.Args[0] != "apt-config" {
			return errors.New("unexpected " + c.Args[0])
		}
		_, err := io.WriteString(c.Stdout, "Acquire \"\";\nAcquire::cdrom::mount \"/media\";\nAcquire::http::Proxy \"http://p.test:1\";\nAcquire::Retries \"3\";\n")
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
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestSandboxArgv(t *testing.T) {
	box := Sandbox{Root: "/tools", Work: "/work", Epoch: 7}
	got := strings.Join(box.Command("mkfs.erofs", "/mnt/x").Args, " ")
	want := "bwrap --ro-bind /tools / --proc /proc --dev /dev --tmpfs /tmp --tmpfs /run --bind /work /mnt --chdir /mnt " +
		"--unshare-pid --unshare-net --unshare-ipc --unshare-uts --die-with-parent --new-session --clearenv " +
		"--setenv PATH /usr/sbin:/usr/bin:/sbin:/bin --setenv LC_ALL C.UTF-8 --setenv TZ UTC " +
		"--setenv SOURCE_DATE_EPOCH 7 --setenv SYSTEMD_OFFLINE 1 -- mkfs.erofs /mnt/x"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestFetchRefusesWrongHash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "runner.tar.gz")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	cache := &Cache{Dir: dir}
	_, err := cache.Fetch(t.Context(), Component{Name: "actions runner", Path: path, SHA256: strings.Repeat("0", 64)})
	want := "cannot use " + path + ": its sha256 is 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881, images.toml says " + strings.Repeat("0", 64)
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
		name, uid string
		want      bool
	}{{"alice", "1000", true}, {"bob", "1001", true}, {"carol", "1002", false}} {
		got, err := hasSubordinateIDs(file, test.name, test.uid)
		if got != test.want || err != nil {
			t.Errorf("%s: got %v, %v; want %v", test.name, got, err, test.want)
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
	cache := &Cache{Dir: t.TempDir(), Executor: fake}

	type result struct {
		dir string
		err error
	}
	results := make(chan result, builds)
	for range builds {
		go func() {
			dir, err := cache.ToolsTree(t.Context(), testLayer(), io.Discard)
			results <- result{dir, err}
		}()
	}
	for range builds {
		r := <-results
		if r.err != nil {
			t.Errorf("a build failed: %v", r.err)
			continue
		}
		if _, err := os.Stat(filepath.Join(r.dir, "tool")); err != nil {
			t.Errorf("a build got no tools tree: %v", err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(cache.Dir, "*", ".new-*")); len(left) != 0 {
		t.Errorf("left behind %q", left)
	}
}
