package imagebuild

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/workroot"
)

// newContext returns a work root with a Dockerfile and its context in
// repo/action, and the path of that directory.
func newContext(t *testing.T) (root workroot.Root, dir string) {
	t.Helper()
	root = workroot.Root{Path: filepath.Join(t.TempDir(), "work"), UID: os.Getuid(), GID: os.Getgid()}
	dir = filepath.Join(root.Path, "repo/action")
	write(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nCOPY src /\n")
	write(t, filepath.Join(dir, "src/main.c"), "int main;")
	if err := os.Symlink("main.c", filepath.Join(dir, "src/link")); err != nil {
		t.Fatal(err)
	}
	return root, dir
}

// newTestBuild returns the build of a Dockerfile, which is discarded when the test
// ends.
func newTestBuild(t *testing.T, root workroot.Root, dockerfile string) (*Build, error) {
	t.Helper()
	b, err := New(t.Context(), root, dockerfile, filepath.Join(t.TempDir(), "copy"))
	if err == nil {
		t.Cleanup(func() {
			if err := b.Discard(); err != nil {
				t.Error(err)
			}
		})
	}
	return b, err
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestKey(t *testing.T) {
	for _, test := range []struct {
		summary string
		change  func(dir string) error
		same    bool
	}{
		{summary: "nothing", change: func(string) error { return nil }, same: true},
		{summary: "a time", change: func(dir string) error {
			return os.Chtimes(filepath.Join(dir, "src/main.c"), time.Unix(1, 0), time.Unix(1, 0))
		}, same: true},
		{summary: "another directory", change: func(dir string) error {
			return os.Mkdir(filepath.Join(dir, "../beside"), 0o755)
		}, same: true},
		{summary: "the Dockerfile", change: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY src x\n"), 0o644)
		}},
		{summary: "bytes of a file", change: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "src/main.c"), []byte("int niam;"), 0o644)
		}},
		{summary: "permissions of a file", change: func(dir string) error {
			return os.Chmod(filepath.Join(dir, "src/main.c"), 0o755)
		}},
		{summary: "permissions of a directory", change: func(dir string) error {
			return os.Chmod(filepath.Join(dir, "src"), 0o700)
		}},
		{summary: "a name", change: func(dir string) error {
			return os.Rename(filepath.Join(dir, "src/main.c"), filepath.Join(dir, "src/niam.c"))
		}},
		{summary: "a new file", change: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644)
		}},
		{summary: "the target of a link", change: func(dir string) error {
			link := filepath.Join(dir, "src/link")
			if err := os.Remove(link); err != nil {
				return err
			}
			return os.Symlink("niam.c", link)
		}},
		{summary: "a FIFO, which has no end", change: func(dir string) error {
			return unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644)
		}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			root, dir := newContext(t)
			dockerfile := filepath.Join(dir, "Dockerfile")
			before, err := newTestBuild(t, root, dockerfile)
			if err != nil {
				t.Fatal(err)
			}
			if err := test.change(dir); err != nil {
				t.Fatal(err)
			}
			after, err := newTestBuild(t, root, dockerfile)
			if err != nil {
				t.Fatal(err)
			}
			if (before.Key == after.Key) != test.same {
				t.Errorf("keys %s and %s, want the same: %v", before.Key, after.Key, test.same)
			}
		})
	}
}

// TestKeyOfName has two Dockerfiles in one directory.
func TestKeyOfName(t *testing.T) {
	root, dir := newContext(t)
	write(t, filepath.Join(dir, "Dockerfile.b"), "FROM scratch\n")
	a, errA := newTestBuild(t, root, filepath.Join(dir, "Dockerfile"))
	b, errB := newTestBuild(t, root, filepath.Join(dir, "Dockerfile.b"))
	if errA != nil || errB != nil || a.Key == b.Key {
		t.Errorf("got %v, %v and %v, %v, want two keys", a, errA, b, errB)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, test := range []struct {
		summary    string
		dockerfile string // DIR is the context
		want       string
	}{
		{
			summary: "outside of the work root", dockerfile: "DIR/../../../Dockerfile",
			want: "it does not lie beneath the work root",
		},
		{summary: "elsewhere", dockerfile: "/etc/passwd", want: "it does not lie beneath the work root"},
		{summary: "a missing file", dockerfile: "DIR/none", want: "there is no such file"},
		{summary: "a directory", dockerfile: "DIR/src", want: "there is no such file"},
		{summary: "a link", dockerfile: "DIR/src/link", want: "there is no such file"},
		{summary: "no name", dockerfile: "DIR/", want: "there is no such file"},
		{summary: "a link on the way", dockerfile: "DIR/../link/Dockerfile", want: "cannot open repo/link beneath"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			root, dir := newContext(t)
			if err := os.Symlink("action", filepath.Join(dir, "../link")); err != nil {
				t.Fatal(err)
			}
			b, err := newTestBuild(t, root, strings.ReplaceAll(test.dockerfile, "DIR", dir))
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %v, %v, want an error %q", b, err, test.want)
			}
		})
	}
}

// TestCopy: no later change of the work root reaches what is built, and no link
// in it leads out.
func TestCopy(t *testing.T) {
	root, dir := newContext(t)
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "secret")
	if err := errors.Join(
		os.Symlink(secret, filepath.Join(dir, "src/abs")),
		os.Chmod(filepath.Join(dir, "src/main.c"), 0o751),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	b, err := newTestBuild(t, root, filepath.Join(dir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "Dockerfile"), "FROM poisoned\n")

	volumes := workroot.Root{Path: filepath.Join(t.TempDir(), "v"), UID: os.Getuid(), GID: os.Getgid()}
	if err := b.Place(volumes); err != nil {
		t.Fatal(err)
	}
	shown, err := volumes.OpenRoot(b.Container().Mounts[0].Volume)
	if err != nil {
		t.Fatal(err)
	}
	defer shown.Close()
	if data, err := shown.ReadFile("Dockerfile"); err != nil || string(data) != "FROM scratch\nCOPY src /\n" {
		t.Errorf("builds from %q, %v", data, err)
	}
	if target, err := shown.Readlink("src/abs"); err != nil || target != secret {
		t.Errorf("a link was copied as %q, %v", target, err)
	}
	if info, err := shown.Stat("src/main.c"); err != nil || info.Mode() != 0o751 || info.Size() != 9 {
		t.Errorf("a file was copied as %v, %v", info, err)
	}
	if _, err := shown.Lstat("fifo"); err == nil {
		t.Error("a FIFO was copied")
	}
}

// TestLimits has contexts that would keep the broker busy, or fill its disk.
func TestLimits(t *testing.T) {
	for _, test := range []struct {
		summary string
		with    func(dir string) error
		ended   bool // the request is, before the build
		want    string
	}{
		{summary: "a sparse file", with: func(dir string) error {
			f, err := os.Create(filepath.Join(dir, "sparse"))
			if err != nil {
				return err
			}
			return errors.Join(f.Truncate(1<<43), f.Close())
		}, want: `"sparse": the directory of the Dockerfile is too large`},
		{summary: "all files together", with: func(dir string) error {
			return errors.Join(
				os.WriteFile(filepath.Join(dir, "a"), make([]byte, 600), 0o644),
				os.WriteFile(filepath.Join(dir, "b"), make([]byte, 600), 0o644))
		}, want: "is too large"},
		{summary: "many files", with: func(dir string) error {
			for i := range 20 {
				if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644); err != nil {
					return err
				}
			}
			return nil
		}, want: "has too many files"},
		{summary: "depth", with: func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", 6)), 0o755)
		}, want: "is nested too deeply"},
		{summary: "a request that ended", with: func(string) error { return nil }, ended: true, want: "context canceled"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			root, dir := newContext(t)
			if err := test.with(dir); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.ended {
				cancel()
			}

			to := filepath.Join(t.TempDir(), "copy")
			l := limits{bytes: 1000, entries: 12, depth: 5}
			b, err := newBuild(ctx, root, filepath.Join(dir, "Dockerfile"), to, l)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, %v, want an error with %q", b, err, test.want)
			}
			if _, err := os.Lstat(to); err == nil {
				t.Error("the copy is left")
			}
		})
	}
}

func TestContainer(t *testing.T) {
	root, dir := newContext(t)
	b, err := newTestBuild(t, root, filepath.Join(dir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	c := b.Container()
	if len(c.Mounts) != 2 {
		t.Fatalf("got mounts %+v, want two", c.Mounts)
	}
	source, output := c.Mounts[0], c.Mounts[1]
	if source.Volume == "" || !source.ReadOnly || output.Volume == "" || output.ReadOnly {
		t.Errorf("got mounts %+v, want the context to be read and a volume to be written", c.Mounts)
	}

	argv := b.Argv()
	if last := argv[len(argv)-1]; last != source.Target+"/Dockerfile" {
		t.Errorf("builds %s, which is not in the context at %s", last, source.Target)
	}
	if !strings.Contains(argv[2], output.Target) {
		t.Errorf("the command does not write to the volume at %s:\n%s", output.Target, argv[2])
	}
}

func TestFiles(t *testing.T) {
	const want = `unqualified-search-registries = ["docker.io"]
[[registry]]
location = "registry.example:5000"
insecure = true
`
	if got := Files([]string{"registry.example:5000"})["/etc/containers/registries.conf"]; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestOpenResult(t *testing.T) {
	for _, test := range []struct {
		summary string
		leave   func(output string) error // what the guest leaves in the volume
		want    string                    // content, or with err the cause
		err     bool
	}{
		{summary: "an archive", leave: func(output string) error {
			return os.WriteFile(filepath.Join(output, archiveName), []byte("tar"), 0o600)
		}, want: "tar"},
		{summary: "nothing", leave: func(string) error { return nil }, want: "no such file", err: true},
		{summary: "a link to a file of the host", leave: func(output string) error {
			return os.Symlink("/etc/passwd", filepath.Join(output, archiveName))
		}, want: "too many levels of symbolic links", err: true},
		{summary: "a FIFO", leave: func(output string) error {
			return unix.Mkfifo(filepath.Join(output, archiveName), 0o644)
		}, want: "not a regular file", err: true},
		{summary: "a directory", leave: func(output string) error {
			return os.Mkdir(filepath.Join(output, archiveName), 0o755)
		}, want: "not a regular file", err: true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			volumes := workroot.Root{Path: t.TempDir()}
			output := filepath.Join(volumes.Path, outputVolume)
			if err := os.Mkdir(output, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := test.leave(output); err != nil {
				t.Fatal(err)
			}

			archive, err := OpenResult(volumes)
			if test.err {
				const prefix = "cannot read the built image: "
				if err == nil || !strings.HasPrefix(err.Error(), prefix) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got error %v, want %s%q", err, prefix, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer archive.Close()
			if data, err := io.ReadAll(archive); err != nil || string(data) != test.want {
				t.Errorf("got %q, %v", data, err)
			}
		})
	}
}
