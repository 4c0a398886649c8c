package image

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/buildinfo"
	"github.com/mkappliance/mkappliance/internal/golden"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/run/runtest"
	"github.com/mkappliance/mkappliance/internal/spec"
	"github.com/mkappliance/mkappliance/rootfs"
)

// inside returns the command that a sandbox runs, or the whole command if it is
// not run in a sandbox.
func inside(c run.Cmd) []string {
	if c.Args[0] != "bwrap" {
		return c.Args
	}
	return c.Args[slices.Index(c.Args, "--")+1:]
}

// fakeTools plays every tool of a build, except for one that fails.
type fakeTools struct {
	failing string // the beginning of its command line
}

var errTool = errors.New("out of luck")

func (f *fakeTools) exec(_ context.Context, c run.Cmd) error {
	args := inside(c)
	if f.failing != "" && strings.HasPrefix(strings.Join(args, " "), f.failing) {
		return errTool
	}
	switch args[0] {
	case "apt-get":
		_, _ = io.WriteString(c.Stdout, "http://archive.test/debian|Debian|Debian\n")
	case "veritysetup":
		_, _ = io.WriteString(c.Stdout, "Root hash: "+strings.Repeat("ab", 32)+"\n")
		return os.WriteFile(hostPath(c, "root.verity"), append([]byte(args[0]), make([]byte, 2*4096-len(args[0]))...), 0o644)
	case "mkfs.erofs":
		return os.WriteFile(hostPath(c, "root.erofs"), append([]byte(args[0]), make([]byte, 3*4096-len(args[0]))...), 0o644)
	case "tar":
		return unpackTree(args[slices.Index(args, "--directory")+1])
	}
	return writeOutputs(c)
}

// writeOutputs makes every file that the command names, that does not exist yet
// and that the command may write to: the outputs of a tool.
func writeOutputs(c run.Cmd) error {
	for _, word := range inside(c) {
		if i := strings.LastIndexAny(word, "=@"); i >= 0 {
			word = word[i+1:] // --output=PATH
		}
		path, writable := onHost(c, word)
		if !writable {
			continue
		}
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			continue
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.WriteFile(path, []byte(inside(c)[0]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// onHost returns the path on the host of a path that a command sees, and whether
// the command can write there. It reads the mounts of bwrap(1).
func onHost(c run.Cmd, path string) (host string, writable bool) {
	if !filepath.IsAbs(path) {
		return "", false
	}
	if c.Args[0] != "bwrap" {
		return path, true
	}
	longest := -1
	for i, word := range c.Args[:slices.Index(c.Args, "--")] {
		if word != "--bind" && word != "--ro-bind" {
			continue
		}
		source, target := c.Args[i+1], c.Args[i+2]
		if rel, err := filepath.Rel(target, path); err == nil && filepath.IsLocal(rel) && len(target) > longest {
			longest, host, writable = len(target), filepath.Join(source, rel), word == "--bind"
		}
	}
	return host, writable
}

// hostPath returns the path on the host of the argument that ends in a name.
func hostPath(c run.Cmd, name string) string {
	args := inside(c)
	i := slices.IndexFunc(args, func(word string) bool { return strings.HasSuffix(word, "/"+name) })
	path, _ := onHost(c, args[i])
	return path
}

// unpackTree makes the least of a tree that can be composed.
func unpackTree(dir string) error {
	for _, sub := range []string{"usr/lib", "usr/local/bin", "etc", "boot", "home", "root", "var/lib/dpkg", "bin"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "usr/lib/os-release"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "bin/Runner.Worker"), nil, 0o755),
		os.WriteFile(filepath.Join(dir, "boot/vmlinuz-6.12"), nil, 0o644))
}

func testOptions(t *testing.T, failing string) Options {
	dir := t.TempDir()
	for _, name := range []string{"agent", "agent.1", "runner.tar"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tools := &fakeTools{failing: failing}
	return Options{
		Environment: Environment{
			CacheDir: filepath.Join(dir, "cache"),
			Epoch:    7,
			Executor: &runtest.Fake{Handle: tools.exec},
			Progress: progress.New(io.Discard, progress.Plain),
		},
		Spec: &spec.Image{Name: "runner", Architecture: "amd64", Suite: "trixie", Version: "1.0",
			Host:  spec.Tree{Packages: []string{"systemd", "dracut"}, ExcludePaths: []string{"/usr/share/man/*"}},
			Guest: spec.Tree{Packages: []string{"git"}},
			Update: spec.Update{Keys: []spec.UpdateKey{{Name: "a.pub", Content: "key"}}, Channel: "beta",
				Severity: release.High, MinVersion: "0.9", Delta: true},
			Runner: spec.Component{Version: "1", Path: filepath.Join(dir, "runner.tar"),
				SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}, // of the empty file
			Disk: spec.Disk{ESP: 64 << 20, Root: 16 << 20, Verity: 2 << 20, Var: 32 << 20, Compression: "lz4",
				KernelArguments: []string{"console=ttyS0"}}},
		Programs: rootfs.Programs{
			Paths:   []string{filepath.Join(dir, "agent")},
			Manuals: []string{filepath.Join(dir, "agent.1")},
			Source:  buildinfo.Info{Version: "(devel)", Commit: "c0ffee"},
		},
		OutDir: filepath.Join(dir, "out"),
	}
}

func TestBuild(t *testing.T) {
	o := testOptions(t, "")
	result, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(o.OutDir, "runner_1.0.img"); result.Image != want || result.Bytes != 116<<20 {
		t.Errorf("got %+v", result)
	}
	m, err := readManifest(result.Manifest)
	if err != nil || m.SHA256 != result.SHA256 || m.Image != "runner_1.0.img" || m.RootHash != strings.Repeat("ab", 32) {
		t.Errorf("got manifest %+v, %v", m, err)
	}
	var roles []string
	for _, a := range m.Artefacts {
		roles = append(roles, a.Role)
	}
	if want := []string{"esp", "verity", "root", "var", "uki"}; !slices.Equal(roles, want) || m.Schema != 1 {
		t.Errorf("got artefacts %q of schema %d, want %q of 1", roles, m.Schema, want)
	}
	want := []string{"runner_1.0.efi", "runner_1.0.img", "runner_1.0.json", "runner_1.0.manifest.json",
		"runner_1.0.root", "runner_1.0.verity"}
	if got := list(t, o.OutDir); !slices.Equal(got, want) {
		t.Errorf("the output has %q", got)
	}
	noWorkLeft(t, o)
}

// TestUpdateSet compares the update set with the image beside it.
func TestUpdateSet(t *testing.T) {
	o := testOptions(t, "")
	result, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(result.UpdateManifest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := release.DecodeManifest("m", data)
	if err != nil {
		t.Fatal(err)
	}

	baked, err := readManifest(result.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range m.Files.Roles() {
		path := filepath.Join(o.OutDir, r.File.Name)
		if err := rootfs.CheckFileHash(path, r.File.SHA256); err != nil {
			t.Error(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != r.File.Size || info.Mode() != 0o644 {
			t.Errorf("%s: got %+v, %v; the manifest has %+v", path, info, err, r.File)
		}
		if !slices.ContainsFunc(baked.Artefacts, func(a Artefact) bool {
			return a.Role == r.Name && a.SHA256 == r.File.SHA256
		}) {
			t.Errorf("the image has another %s than the update set", r.Name)
		}
	}
	u := o.Spec.Update
	if m.Channel != u.Channel || m.Severity != u.Severity || m.MinVersion != u.MinVersion || !m.Delta ||
		m.Verity.Salt != release.VeritySalt || m.Verity.RootHash != baked.RootHash ||
		m.Verity.HashBlocks != 2 {
		t.Errorf("got %+v", m)
	}
}

func TestUpdateKeysAreBaked(t *testing.T) {
	o := testOptions(t, "")
	if got := imageFiles(o.Spec)[strings.TrimPrefix(layout.UpdateKeys, "/")+"/a.pub"]; got != "key" {
		t.Errorf("got %q", got)
	}
}

// TestBuildCommands pins every command of a build: the bytes of an image depend
// on them.
func TestBuildCommands(t *testing.T) {
	o := testOptions(t, "")
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}

	// Names that change from run to run, and keys that stand for the rest.
	temporary := regexp.MustCompile(`(work/|\.new-)[0-9]+|\S*/mkappliance-release-[0-9]+`)
	key := regexp.MustCompile(`/[0-9a-f]{64}\b`)
	var text strings.Builder
	for _, c := range o.Executor.(*runtest.Fake).Calls() {
		line := strings.Join(inside(c), " ")
		if root, writable := onHost(c, "/"); c.Args[0] == "bwrap" {
			// The sandbox itself is pinned by a test of rootfs.
			line = strings.Join([]string{map[bool]string{false: "in", true: "changing"}[writable], root + ":", line}, " ")
		}
		line = strings.ReplaceAll(line, filepath.Dir(o.OutDir), "DIR")
		line = key.ReplaceAllString(temporary.ReplaceAllString(line, "${1}X"), "/KEY")
		text.WriteString(line + "\n")
	}
	golden.Check(t, "build.golden", text.String())
}

func TestErofsUncompressed(t *testing.T) {
	fake := &runtest.Fake{}
	tools := tools{executor: fake, tree: &rootfs.Tools{Root: "/tools"}, work: "/work", epoch: 7}
	err := tools.makeErofs(t.Context(), "/work/root", "/work/root.erofs", "none", "UUID")
	if err != nil {
		t.Fatal(err)
	}

	got := strings.Join(inside(fake.Calls()[0]), " ")
	want := "mkfs.erofs --quiet -T 7 -U UUID -L runner-root -Enoinline_data /mnt/root.erofs /mnt/root"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestBuildFails lets one tool after the other fail.
func TestBuildFails(t *testing.T) {
	for _, test := range []struct{ tool, want string }{
		{"apt-config", "cannot read the apt configuration of this host: out of luck"},
		{"/usr/lib/apt/apt-helper", "cannot read the archive's index: out of luck"},
		{"mmdebstrap", "cannot make tools layer: out of luck"},
		{"tar --extract --file -", "cannot unpack the actions runner: RUNNER: out of luck"},
		{"systemd-sysusers", "cannot create users: out of luck"},
		{"systemd-tmpfiles", "cannot compose guest base tree: out of luck"},
		{"dracut", "cannot make the initrd: out of luck"},
		{"mkfs.erofs", "cannot make root file system: out of luck"},
		{"veritysetup", "cannot make verity hash tree: out of luck"},
		{"ukify", "cannot make UKI: out of luck"},
		{"mkfs.vfat", "cannot make ESP: out of luck"},
		{"mcopy", "cannot fill ESP: out of luck"},
		{"mke2fs", "cannot make var file system: out of luck"},
	} {
		t.Run(strings.ReplaceAll(test.tool, "/", "_"), func(t *testing.T) {
			o := testOptions(t, test.tool)
			_, err := Build(t.Context(), o)
			want := strings.Replace(test.want, "RUNNER", o.Spec.Runner.Path, 1)
			if err == nil || err.Error() != want || !errors.Is(err, errTool) {
				t.Errorf("got %v, want %s", err, want)
			}
			if got := list(t, o.OutDir); len(got) != 0 {
				t.Errorf("the output has %q", got)
			}
			noWorkLeft(t, o)
		})
	}
}

// TestBuildKeepsOlderImage lets the last step fail: an image under the same
// name stays.
func TestBuildKeepsOlderImage(t *testing.T) {
	for _, test := range []struct {
		summary string
		spoil   func(*Options)
	}{
		{"the last tool fails", func(o *Options) { o.Executor = testOptions(t, "mke2fs").Executor }},
		{"a partition is too small", func(o *Options) { o.Spec.Disk.Verity = 0 }},
	} {
		t.Run(test.summary, func(t *testing.T) {
			o := testOptions(t, "")
			test.spoil(&o)
			if err := os.MkdirAll(o.OutDir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(Name(o.OutDir, o.Spec), []byte("older"), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := Build(t.Context(), o); err == nil {
				t.Fatal("the build succeeded")
			}
			if data, err := os.ReadFile(Name(o.OutDir, o.Spec)); err != nil || string(data) != "older" {
				t.Errorf("got %q, %v", data, err)
			}
			if got := list(t, o.OutDir); !slices.Equal(got, []string{"runner_1.0.img"}) {
				t.Errorf("the output has %q", got)
			}
		})
	}
}

func TestGuestBase(t *testing.T) {
	o := testOptions(t, "")
	if err := GuestBase(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(o.OutDir, "etc/machine-id")); err != nil {
		t.Errorf("the tree is not complete: %v", err)
	}
	want := []string{"agent", "agent.1", "cache", "out", "runner.tar"}
	if got := list(t, filepath.Dir(o.OutDir)); !slices.Equal(got, want) {
		t.Errorf("the directory has %q", got)
	}
	noWorkLeft(t, o)
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func noWorkLeft(t *testing.T, o Options) {
	t.Helper()
	for _, pattern := range []string{"work/*", "*/.new-*"} {
		if left, _ := filepath.Glob(filepath.Join(o.CacheDir, pattern)); len(left) != 0 {
			t.Errorf("left behind %q", left)
		}
	}
}
