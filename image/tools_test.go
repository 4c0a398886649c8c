package image

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/run/runtest"
	"github.com/mkappliance/mkappliance/internal/spec"
)

func TestRepartFiles(t *testing.T) {
	got := repartFiles(spec.Disk{ESP: 512 << 20, Root: 2 << 30, Verity: 32 << 20, Var: 256 << 20})
	want := map[string]string{
		"usr/lib/repart.d/10-esp.conf":      "[Partition]\nType=esp\nSizeMinBytes=536870912\nSizeMaxBytes=536870912\n",
		"usr/lib/repart.d/20-verity-a.conf": "[Partition]\nType=root-verity\nSizeMinBytes=33554432\nSizeMaxBytes=33554432\n",
		"usr/lib/repart.d/30-root-a.conf":   "[Partition]\nType=root\nSizeMinBytes=2147483648\nSizeMaxBytes=2147483648\n",
		"usr/lib/repart.d/40-verity-b.conf": "[Partition]\nType=root-verity\nSizeMinBytes=33554432\nSizeMaxBytes=33554432\nLabel=_empty\n",
		"usr/lib/repart.d/50-root-b.conf":   "[Partition]\nType=root\nSizeMinBytes=2147483648\nSizeMaxBytes=2147483648\nLabel=_empty\n",
		"usr/lib/repart.d/60-var.conf":      "[Partition]\nType=var\nLabel=runner-var\nSizeMinBytes=268435456\n",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// inside gives what a sandboxed command runs.
func inside(c run.Cmd) []string { return c.Args[slices.Index(c.Args, "--")+1:] }

func TestToolArguments(t *testing.T) {
	const uuid = "11111111-2222-3333-4444-555555555555"
	hash := strings.Repeat("ab", 32)
	for _, test := range []struct {
		summary string
		do      func(context.Context, toolbox) error
		want    []string // one command a line
	}{
		{"erofs, compressed", func(ctx context.Context, b toolbox) error {
			return b.makeErofs(ctx, "root", "root.erofs", "lz4hc,9", uuid)
		},
			[]string{"mkfs.erofs --quiet -T 7 -U " + uuid + " -L runner-root -zlz4hc,9 -C65536 -Efragments /mnt/root.erofs /mnt/root"}},
		{"erofs, not compressed", func(ctx context.Context, b toolbox) error {
			return b.makeErofs(ctx, "root", "root.erofs", "none", uuid)
		},
			[]string{"mkfs.erofs --quiet -T 7 -U " + uuid + " -L runner-root /mnt/root.erofs /mnt/root"}},
		{"verity", func(ctx context.Context, b toolbox) error {
			got, err := b.makeVerity(ctx, "root.erofs", "root.verity", uuid, "5a17")
			if got != hash {
				t.Errorf("got root hash %q", got)
			}
			return err
		}, []string{"veritysetup format --uuid " + uuid + " --salt 5a17 --data-block-size 4096 --hash-block-size 4096 /mnt/root.erofs /mnt/root.verity"}},
		{"UKI", func(ctx context.Context, b toolbox) error {
			return b.makeUKI(ctx, "vmlinuz", "initrd", "os-release", "6.12", "uki.efi", []string{"ro", "quiet"})
		}, []string{"ukify build --stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub --linux=/mnt/vmlinuz --initrd=/mnt/initrd" +
			" --os-release=@/mnt/os-release --uname=6.12 --cmdline=ro quiet --output=/mnt/uki.efi"}},
		{"ESP", func(ctx context.Context, b toolbox) error {
			return b.makeESP(ctx, "esp.vfat", "uki.efi", "1.0", "deadbeef", mebibyte)
		},
			[]string{
				"mkfs.vfat -F 32 -n ESP -i deadbeef /mnt/esp.vfat",
				"mmd -i /mnt/esp.vfat ::EFI ::EFI/BOOT ::EFI/systemd ::EFI/Linux ::loader",
				"mcopy -i /mnt/esp.vfat /usr/lib/systemd/boot/efi/systemd-bootx64.efi ::EFI/BOOT/BOOTX64.EFI",
				"mcopy -i /mnt/esp.vfat /usr/lib/systemd/boot/efi/systemd-bootx64.efi ::EFI/systemd/systemd-bootx64.efi",
				"mcopy -i /mnt/esp.vfat /mnt/uki.efi ::EFI/Linux/runner_1.0+3.efi",
				"mcopy -i /mnt/esp.vfat /mnt/esp-file-0 ::loader/loader.conf",
				"mcopy -i /mnt/esp.vfat /mnt/esp-file-1 ::startup.nsh",
			}},
		{"ext4", func(ctx context.Context, b toolbox) error {
			return b.makeExt4(ctx, "var", "var.ext4", "runner-var", uuid, mebibyte)
		},
			[]string{"mke2fs -q -F -t ext4 -b 4096 -m 1 -L runner-var -U " + uuid + " -O metadata_csum_seed -i 16384" +
				" -E hash_seed=" + uuid + ",lazy_itable_init=1,root_owner=0:0 -d /mnt/var /mnt/var.ext4 256"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			fake := &runtest.Fake{Handle: func(_ context.Context, c run.Cmd) error {
				if inside(c)[0] == "veritysetup" {
					_, _ = io.WriteString(c.Stdout, "Root hash:      \t"+hash+"\n")
				}
				return nil
			}}
			box := toolbox{run: fake, tree: "/tools", work: t.TempDir(), epoch: 7}
			if err := test.do(t.Context(), box); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, c := range fake.Calls() {
				got = append(got, strings.Join(inside(c), " "))
				if head := strings.Join(c.Args[:4], " "); head != "bwrap --ro-bind /tools /" {
					t.Errorf("the sandbox begins with %q", head)
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

// tools plays every tool of a build, but the one named failing.
type tools struct {
	failing string
	work    string // seen from the sandboxes
}

var errTool = errors.New("out of luck")

func (f *tools) run(_ context.Context, c run.Cmd) error {
	args := c.Args
	if args[0] == "bwrap" {
		if i := slices.Index(args, "--chdir"); i > 0 {
			f.work = args[i-2]
		}
		args = inside(c)
	}
	if strings.HasPrefix(strings.Join(args, " "), f.failing) {
		return errTool
	}
	write := func(path string) error {
		return os.WriteFile(strings.Replace(path, "/mnt/", f.work+"/", 1), []byte(args[0]), 0o644)
	}
	last := args[len(args)-1]
	switch args[0] {
	case "apt-get":
		_, _ = io.WriteString(c.Stdout, "http://archive.test/debian|Debian|Debian\n")
	case "/usr/lib/apt/apt-helper":
		return write(last)
	case "mmdebstrap":
		return write(args[len(args)-2])
	case "tar":
		return f.unpack(args)
	case "dracut":
		return write(filepath.Join(c.Args[2], last))
	case "mkfs.erofs":
		return write(args[len(args)-2])
	case "veritysetup":
		_, _ = io.WriteString(c.Stdout, "Root hash: "+strings.Repeat("ab", 32)+"\n")
		return write(last)
	case "ukify":
		return write(strings.TrimPrefix(last, "--output="))
	}
	return nil
}

// unpack makes the least of a tree that composing it takes.
func (f *tools) unpack(args []string) error {
	dir := args[slices.Index(args, "--directory")+1]
	for _, sub := range []string{"usr/lib", "usr/local/bin", "etc", "boot", "home", "root", "var/lib/dpkg"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "usr/lib/os-release"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "boot/vmlinuz-6.12"), nil, 0o644))
}

func testOptions(t *testing.T, failing string) Options {
	dir := t.TempDir()
	for _, name := range []string{"agent", "runner.tar"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fake := &tools{failing: failing}
	return Options{
		Spec: &spec.Image{Name: "runner", Architecture: "amd64", Suite: "trixie", Version: "1.0",
			// The hash of the empty file.
			Runner: spec.Component{Version: "1", Path: filepath.Join(dir, "runner.tar"), SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
			Disk:   spec.Disk{ESP: 64 << 20, Root: 16 << 20, Verity: 2 << 20, Var: 32 << 20, Compression: "lz4"}},
		Programs: []string{filepath.Join(dir, "agent")}, OutDir: filepath.Join(dir, "out"), CacheDir: filepath.Join(dir, "cache"),
		Executor: &runtest.Fake{Handle: fake.run},
		Progress: progress.New(io.Discard, progress.Plain),
	}
}

func TestBuild(t *testing.T) {
	o := testOptions(t, "nothing")
	result, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(o.OutDir, "runner_1.0.img"); result.Image != want || result.Bytes != 116<<20 {
		t.Errorf("got %+v", result)
	}
	m, err := readManifest(result.Image)
	if err != nil || m.SHA256 != result.SHA256 || m.Image != "runner_1.0.img" || m.RootHash != strings.Repeat("ab", 32) {
		t.Errorf("got manifest %+v, %v", m, err)
	}
	if got := list(t, o.OutDir); !slices.Equal(got, []string{"runner_1.0.img", "runner_1.0.json"}) {
		t.Errorf("the output has %q", got)
	}
	noWorkLeft(t, o)
}

// TestBuildFails lets one tool after the other fail.
func TestBuildFails(t *testing.T) {
	for _, test := range []struct{ tool, want string }{
		{"apt-config", "cannot read the apt configuration of this host: out of luck"},
		{"/usr/lib/apt/apt-helper", "cannot read the archive's index: out of luck"},
		{"mmdebstrap", "cannot make tools tree: out of luck"},
		{"tar --extract --file -", "cannot unpack the actions runner: cannot unpack RUNNER: out of luck"},
		{"systemd-sysusers", "cannot create users: out of luck"},
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
			if want := strings.Replace(test.want, "RUNNER", o.Spec.Runner.Path, 1); err == nil || err.Error() != want || !errors.Is(err, errTool) {
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
// name is not touched.
func TestBuildKeepsOlderImage(t *testing.T) {
	o := testOptions(t, "mke2fs")
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
