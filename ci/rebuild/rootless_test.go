// Package rebuild bakes the image again, as another user, and wants the same
// bytes.
package rebuild

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// builder is the unprivileged user that bakes.
const builder = "mkappliance-ci"

// environment returns the value of a variable that ci/test sets.
func environment(t *testing.T, name, what string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Skipf("%s names no %s", name, what)
	}
	return value
}

// TestRebuildRootless takes root's package layers, and makes all the rest again
// as an unprivileged user in a user namespace.
func TestRebuildRootless(t *testing.T) {
	image := environment(t, "MKAPPLIANCE_TEST_IMAGE", "baked image")
	runner := environment(t, "MKAPPLIANCE_TEST_RUNNER", "actions runner archive")
	cache := environment(t, "MKAPPLIANCE_TEST_CACHE", "layer cache")
	if os.Geteuid() != 0 {
		t.Skip("becoming another user takes root")
	}
	ensureBuilder(t)
	dir := builderDirectory(t)
	// The programs that baked the image, not new ones: one of them is in it.
	runTool(t, "cp", "--recursive", "../../bin", "../../images.toml", "../../overlays", dir)
	runTool(t, "cp", runner, dir)
	runTool(t, "mkdir", dir+"/cache")
	runTool(t, "cp", "--recursive", "--reflink=auto", cache+"/layers", dir+"/cache")
	// The modes and owners of a checkout must not matter to the image.
	runTool(t, "chown", "--recursive", "--no-dereference", builder+":", dir)

	t.Log(runTool(t, "setpriv", "--reuid="+builder, "--regid="+builder, "--init-groups", "--reset-env", "--",
		"sh", "-ec", `cd "$1"; shift; umask 077; exec "$@"`, "sh", dir,
		"bin/mkappliance", "build", "runner-amd64", "--runner", filepath.Base(runner),
		"--cache-dir", "cache", "--out", "out"))

	rebuilt := filepath.Join(dir, "out", filepath.Base(image))
	if got, want := hash(t, rebuilt), hash(t, image); got != want {
		diff, _ := exec.Command("cmp", image, rebuilt).CombinedOutput()
		t.Errorf("the rootless image has sha256 %s, root's has %s: %s", got, want, diff)
	}
	set, err := filepath.Glob(strings.TrimSuffix(image, ".img") + ".*")
	if err != nil || len(set) < 5 {
		t.Errorf("got %q, %v beside the image; want its update set", set, err)
	}
	for _, want := range set {
		if got := filepath.Join(filepath.Dir(rebuilt), filepath.Base(want)); want != image && hash(t, got) != hash(t, want) {
			t.Errorf("the rootless %s differs from root's", filepath.Base(want))
		}
	}
	for _, pattern := range []string{"cache/work/*", "cache/*/.new-*", "out/.*"} {
		if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) != 0 {
			t.Errorf("left behind %q", left)
		}
	}
}

// ensureBuilder creates the user, with subordinate ids, if it is missing.
func ensureBuilder(t *testing.T) {
	t.Helper()
	if _, err := user.Lookup(builder); err != nil {
		runTool(t, "useradd", "--system", "--create-home", builder)
	}
	for _, kind := range []string{"uid", "gid"} {
		ids, err := os.ReadFile("/etc/sub" + kind)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if !strings.Contains("\n"+string(ids), "\n"+builder+":") {
			runTool(t, "usermod", "--add-sub"+kind+"s", "200000-265535", builder)
		}
	}
}

// builderDirectory makes a directory that the builder can reach, unlike
// t.TempDir, whose parent is root's alone.
func builderDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rebuild-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// runTool returns the output of a command.
func runTool(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

func hash(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
