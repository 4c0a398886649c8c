package rebuild

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/store"
	"github.com/mkappliance/mkappliance/rootfs"
)

// layerCache names, for this program run again as another user, the cache to
// make a layer in.
const layerCache = "REBUILD_LAYER_CACHE"

func TestMain(m *testing.M) {
	dir := os.Getenv(layerCache)
	if dir == "" {
		os.Exit(m.Run())
	}
	path, err := makeLayer(context.Background(), dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(path)
}

// makeLayer makes a small layer, in a user namespace if it is not root's.
func makeLayer(ctx context.Context, dir string) (string, error) {
	if err := rootfs.EnterUserNamespace(); err != nil {
		return "", err
	}
	sources, err := rootfs.FindSources(ctx, run.Local{}, "trixie", "")
	if err != nil {
		return "", err
	}
	builder := rootfs.Builder{Store: &store.Store{Dir: dir}, Executor: run.Local{}}
	path, _, err := builder.Layer(ctx, &rootfs.Layer{Name: "test", Variant: "essential", Architecture: "amd64",
		Suite: "trixie", Sources: sources, Epoch: 1754697600}, io.Discard)
	return path, err
}

// TestLayerRootless makes a layer of packages as root and as the builder: the
// archives must be the same, with owners, modes and times.
func TestLayerRootless(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user takes root")
	}
	ensureBuilder(t)
	dir := builderDirectory(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "make-layer")
	runTool(t, "cp", self, program)
	runTool(t, "chown", "--recursive", builder+":", dir)
	asRoot := runTool(t, "env", layerCache+"="+t.TempDir(), program)
	rootless := runTool(t, "setpriv", "--reuid="+builder, "--regid="+builder, "--init-groups", "--reset-env", "--",
		"env", layerCache+"="+filepath.Join(dir, "cache"), program)
	if got, want := hash(t, strings.TrimSpace(rootless)), hash(t, strings.TrimSpace(asRoot)); got != want {
		t.Errorf("the rootless layer has sha256 %s, root's has %s", got, want)
	}
}
