package registry_test

import (
	"archive/tar"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/ci/registry"
)

func serve(t *testing.T) *registry.Registry {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var dialer net.Dialer
	r := registry.Serve(l, t.TempDir(), dialer.DialContext)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// push puts an image in and returns its name.
func push(t *testing.T, r *registry.Registry, repository string, image v1.Image) string {
	t.Helper()
	whole, err := r.Push(t.Context(), repository, image)
	if err != nil {
		t.Fatal(err)
	}
	r.Requests()
	return whole
}

func pull(t *testing.T, whole string, auth authn.Authenticator) (v1.Image, error) {
	t.Helper()
	ref, err := name.ParseReference(whole)
	if err != nil {
		t.Fatal(err)
	}
	return remote.Image(ref, remote.WithContext(t.Context()), remote.WithAuth(auth))
}

func small(t *testing.T) v1.Image {
	t.Helper()
	return must(t, func() (v1.Image, error) {
		layer, err := registry.Layer(map[string]registry.File{"etc/motd": {Content: "hello\n"}})
		if err != nil {
			return nil, err
		}
		return registry.Image(v1.Config{Env: []string{"A=b"}, Cmd: []string{"true"}}, layer)
	})
}

func must[T any](t *testing.T, do func() (T, error)) T {
	t.Helper()
	v, err := do()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func digest(t *testing.T, image v1.Image) string {
	t.Helper()
	return must(t, image.Digest).String()
}

// intact compares what a layer says of itself with its content.
func intact(t *testing.T, layer v1.Layer) {
	t.Helper()
	for _, side := range []struct {
		open func() (io.ReadCloser, error)
		want func() (v1.Hash, error)
	}{{layer.Compressed, layer.Digest}, {layer.Uncompressed, layer.DiffID}} {
		data := must(t, side.open)
		got, _, err := v1.SHA256(data)
		if err := errors.Join(err, data.Close()); err != nil {
			t.Fatal(err)
		}
		if want := must(t, side.want); got != want {
			t.Errorf("the layer's content is %s, it says %s", got, want)
		}
	}
}

// headers lists what a plain archive holds, by name.
func headers(t *testing.T, archive io.ReadCloser) map[string]*tar.Header {
	t.Helper()
	defer archive.Close()
	found := map[string]*tar.Header{}
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[path.Clean(h.Name)] = h
	}
}

func TestPull(t *testing.T) {
	r := serve(t)
	image := small(t)
	whole := push(t, r, "tools/small:1", image)
	if want := r.Addr() + "/tools/small:1"; whole != want {
		t.Errorf("the name is %s, want %s", whole, want)
	}
	got, err := pull(t, whole, authn.Anonymous)
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range must(t, got.Layers) {
		intact(t, layer)
	}
	if got, want := digest(t, got), digest(t, image); got != want {
		t.Errorf("pulled %s, pushed %s", got, want)
	}

	config := must(t, got.ConfigFile)
	if config.OS != "linux" || config.Architecture != "amd64" || !slices.Equal(config.Config.Env, []string{"A=b"}) ||
		!slices.Equal(config.Config.Cmd, []string{"true"}) {
		t.Errorf("the configuration is %+v", config)
	}

	requests := r.Requests()
	for _, want := range []string{"GET /v2/", "GET /v2/tools/small/manifests/1"} {
		if !slices.Contains(requests, want) {
			t.Errorf("no %s among %q", want, requests)
		}
	}
	blobs := slices.DeleteFunc(requests, func(request string) bool {
		return !strings.HasPrefix(request, "GET /v2/tools/small/blobs/sha256:")
	})
	slices.Sort(blobs)
	if blobs = slices.Compact(blobs); len(blobs) != 2 {
		t.Errorf("asked for %q, want one layer and one configuration", blobs)
	}
	if again := r.Requests(); len(again) != 0 {
		t.Errorf("the same requests are returned twice: %q", again)
	}
}

func TestMissing(t *testing.T) {
	r := serve(t)
	push(t, r, "small:1", small(t))
	for _, name := range []string{"small:2", "other:1"} {
		_, err := pull(t, r.Addr()+"/"+name, authn.Anonymous)
		if status := statusOf(err); status != http.StatusNotFound {
			t.Errorf("%s: got status %d, %v", name, status, err)
		}
	}
}

func statusOf(err error) int {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

func TestCredentials(t *testing.T) {
	r := serve(t)
	image := small(t)
	for _, test := range []struct {
		repository string
		private    bool
	}{
		{repository: "private/small:1", private: true},
		{repository: "small:1"},
		{repository: "privateer/small:1"},
	} {
		whole := push(t, r, test.repository, image)
		for _, client := range []struct {
			auth authn.Authenticator
			good bool
		}{
			{auth: authn.Anonymous},
			{auth: &authn.Basic{Username: registry.Username, Password: "wrong"}},
			{auth: &authn.Basic{Username: "other", Password: registry.Password}},
			{auth: &authn.Basic{Username: registry.Username, Password: registry.Password}, good: true},
		} {
			want := 0
			if test.private && !client.good {
				want = http.StatusUnauthorized
			}
			_, err := pull(t, whole, client.auth)
			if got := statusOf(err); got != want || want == 0 && err != nil {
				t.Errorf("%s with %+v: got status %d, %v", test.repository, client.auth, got, err)
			}
		}
	}

	response, err := http.Get("http://" + r.Addr() + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("WWW-Authenticate"); response.StatusCode != http.StatusUnauthorized ||
		got != `Basic realm="tests"` {
		t.Errorf("/v2/ answers %d, %q", response.StatusCode, got)
	}
}

func TestClose(t *testing.T) {
	r := serve(t)
	whole := push(t, r, "small:1", small(t))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := pull(t, whole, authn.Anonymous); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

func TestLayer(t *testing.T) {
	layer := must(t, func() (v1.Layer, error) {
		return registry.Layer(map[string]registry.File{
			"a/b/file": {Content: "x", Mode: 0o4755, UID: 7, GID: 8},
			"a/link":   {Link: "b/file"},
			"home/app": {Dir: true, Mode: 0o700, UID: 9, GID: 9},
			"home":     {Dir: true, UID: 1},
		})
	})
	found := headers(t, must(t, layer.Uncompressed))
	want := map[string]entry{
		"a":        {Kind: tar.TypeDir, Mode: 0o755},
		"a/b":      {Kind: tar.TypeDir, Mode: 0o755},
		"a/b/file": {Kind: tar.TypeReg, Mode: 0o4755, UID: 7, GID: 8, Size: 1},
		"a/link":   {Kind: tar.TypeSymlink, Mode: 0o644, Link: "b/file"},
		"home":     {Kind: tar.TypeDir, Mode: 0o755, UID: 1},
		"home/app": {Kind: tar.TypeDir, Mode: 0o700, UID: 9, GID: 9},
	}
	got := map[string]entry{}
	for name, h := range found {
		got[name] = entry{Kind: h.Typeflag, Mode: h.Mode, UID: h.Uid, GID: h.Gid, Size: h.Size, Link: h.Linkname}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

// entry is what TestLayer compares of a tar header.
type entry struct {
	Kind     byte
	Mode     int64
	UID, GID int
	Size     int64
	Link     string
}

func TestTreeLayer(t *testing.T) {
	tree, dir := t.TempDir(), t.TempDir()
	program := filepath.Join(tree, "usr/bin/program")
	for _, name := range []string{"usr/bin/program", "usr/include/stdio.h", "usr/lib/libc.a", "usr/lib/libc.so"} {
		file := filepath.Join(tree, name)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if err := errors.Join(err, os.WriteFile(file, []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}

	attribute := "trusted.made" // those of users are not on every file system
	if os.Geteuid() != 0 {
		attribute = "user.made"
	}
	if err := errors.Join(
		unix.Setxattr(program, attribute, []byte("by the test"), 0),
		os.Chmod(program, 0o755|os.ModeSetuid),
		os.Link(program, filepath.Join(tree, "usr/bin/same")),
		os.Symlink("program", filepath.Join(tree, "usr/bin/link")),
	); err != nil {
		t.Fatal(err)
	}

	archive := func() v1.Layer {
		return must(t, func() (v1.Layer, error) {
			return registry.TreeLayer(t.Context(), tree, dir, "usr/include", "usr/lib/*.a")
		})
	}

	first := archive()
	found := headers(t, must(t, first.Uncompressed))
	for _, test := range []struct {
		name string
		kind byte
	}{
		{name: "usr/bin/program", kind: tar.TypeReg},
		{name: "usr/bin/same", kind: tar.TypeLink},
		{name: "usr/bin/link", kind: tar.TypeSymlink},
		{name: "usr/lib/libc.so", kind: tar.TypeReg},
	} {
		if h := found[test.name]; h == nil || h.Typeflag != test.kind {
			t.Errorf("%s is %+v", test.name, h)
		}
	}
	if h := found["usr/bin/program"]; h == nil || h.Mode != 0o4755 || h.Uid != os.Getuid() ||
		h.PAXRecords["SCHILY.xattr."+attribute] != "by the test" {
		t.Errorf("the program is %+v", h)
	}
	for _, name := range []string{"usr/include", "usr/include/stdio.h", "usr/lib/libc.a"} {
		if found[name] != nil {
			t.Errorf("%s was to be left out", name)
		}
	}
	intact(t, first)

	// A change of neither content nor mode.
	if later := time.Now().Add(time.Hour); os.Chtimes(program, later, later) != nil {
		t.Fatal("cannot change times")
	}
	if got, want := must(t, archive().Digest), must(t, first.Digest); got != want {
		t.Errorf("the same tree became %s, then %s", want, got)
	}
	intact(t, first) // another layer in the same directory has not changed it
	if _, err := registry.TreeLayer(t.Context(), filepath.Join(tree, "missing"), dir); err == nil ||
		!strings.Contains(err.Error(), "missing: Cannot open: No such file or directory") {
		t.Errorf("got %v", err)
	}
}

func TestDerive(t *testing.T) {
	from := small(t)
	before := digest(t, from)
	derived := must(t, func() (v1.Image, error) {
		return registry.Derive(from, func(c *v1.Config) { c.Entrypoint, c.Env[0] = []string{"/init"}, "A=c" })
	})
	config := must(t, derived.ConfigFile).Config
	if !slices.Equal(config.Entrypoint, []string{"/init"}) || !slices.Equal(config.Env, []string{"A=c"}) ||
		!slices.Equal(config.Cmd, []string{"true"}) {
		t.Errorf("the configuration is %+v", config)
	}
	if env := must(t, from.ConfigFile).Config.Env; env[0] != "A=b" || digest(t, from) != before {
		t.Errorf("the image it was made of has changed: %q", env)
	}
}

// flat is what an image holds.
func flat(t *testing.T, image v1.Image) map[string]*tar.Header {
	t.Helper()
	return headers(t, mutate.Extract(image))
}

func TestScratch(t *testing.T) {
	dir := t.TempDir()
	image := must(t, func() (v1.Image, error) { return registry.Scratch(t.Context(), dir) })
	again := must(t, func() (v1.Image, error) { return registry.Scratch(t.Context(), t.TempDir()) })
	if got, want := digest(t, again), digest(t, image); got != want {
		t.Errorf("made %s, then %s", want, got)
	}
	found := flat(t, image)
	if h := found["app"]; len(found) != 1 || h == nil || h.Mode != 0o755 {
		t.Errorf("it has %v", found)
	}
	config := must(t, image.ConfigFile).Config
	if !slices.Equal(config.Entrypoint, []string{"/app"}) || len(config.Env) != 0 || config.User != "" {
		t.Errorf("the configuration is %+v", config)
	}

	app := exec.Command(filepath.Join(dir, "app"), "show", "two words")
	app.Env, app.Dir = []string{"B=2", "A=1"}, "/usr"
	out, err := app.Output()
	const begin, end = "args [\"show\" \"two words\"]\nenv A=1\nenv B=2\nuid ", " dir /usr\n"
	if err != nil || !strings.HasPrefix(string(out), begin) || !strings.HasSuffix(string(out), end) {
		t.Errorf("it printed %q, %v", out, err)
	}
	for _, test := range []struct {
		args []string
		want int
	}{
		{args: []string{"exit", "5"}, want: 5},
		{args: nil, want: 64},
	} {
		var ended *exec.ExitError
		err := exec.Command(filepath.Join(dir, "app"), test.args...).Run()
		if !errors.As(err, &ended) || ended.ExitCode() != test.want {
			t.Errorf("%q ended with %v, want %d", test.args, err, test.want)
		}
	}
}

func TestAlpine(t *testing.T) {
	if _, err := exec.LookPath("musl-gcc"); err != nil {
		t.Skipf("it takes busybox-static and musl-tools: %v", err)
	}
	image := must(t, registry.Alpine)
	if got, want := digest(t, must(t, registry.Alpine)), digest(t, image); got != want {
		t.Errorf("made %s, then %s", want, got)
	}
	found := flat(t, image)
	for _, test := range []struct{ name, link string }{
		{name: "bin/busybox"},
		{name: "bin/sh", link: "/bin/busybox"},
		{name: "bin/grep", link: "/bin/busybox"},
		{name: "lib/ld-musl-x86_64.so.1"},
		{name: "etc/os-release"},
		{name: "etc/passwd"},
	} {
		h := found[test.name]
		if h == nil || h.Linkname != test.link || (test.link == "") != (h.Typeflag == tar.TypeReg) {
			t.Errorf("%s is %+v", test.name, h)
		}
	}
}

func TestNonRoot(t *testing.T) {
	image := must(t, func() (v1.Image, error) { return registry.NonRoot(small(t)) })
	config := must(t, image.ConfigFile).Config
	if _, volume := config.Volumes["/data"]; config.User != "1001" || config.WorkingDir != "/home/app" || !volume ||
		!slices.Contains(config.Env, "HOME=/home/app") {
		t.Errorf("the configuration is %+v", config)
	}
	if h := flat(t, image)["home/app"]; h == nil || h.Uid != 1001 || h.Gid != 1001 {
		t.Errorf("its home is %+v", h)
	}
}

// largest is what an image of a tree may take, uncompressed, in bytes: every
// test that pulls it waits for that.
const largest = 200e6

func TestDebian(t *testing.T) {
	base := os.Getenv("MKAPPLIANCE_TEST_BASE")
	if base == "" {
		t.Skip("MKAPPLIANCE_TEST_BASE names no guest base tree: run it through 'make test'")
	}
	image := must(t, func() (v1.Image, error) { return registry.Debian(t.Context(), base, t.TempDir()) })
	holds(t, image, "usr/bin/bash", "usr/bin/sh", "usr/bin/env", "usr/bin/grep", "usr/bin/ps", "usr/bin/curl",
		"usr/bin/getent", "bin", "lib", "etc/passwd", "usr/lib/os-release")
	config := must(t, image.ConfigFile).Config
	if !slices.Contains(config.Env, "IMAGE_ENV=from-image") || !slices.Equal(config.Cmd, []string{"bash"}) {
		t.Errorf("the configuration is %+v", config)
	}
}

func TestPostgres(t *testing.T) {
	tree := os.Getenv("MKAPPLIANCE_TEST_POSTGRES")
	if tree == "" {
		t.Skip("MKAPPLIANCE_TEST_POSTGRES names no tree with PostgreSQL: run it through 'make test'")
	}
	server, client, err := registry.Postgres(t.Context(), tree, t.TempDir(), "../postgres/entrypoint.sh")
	if err != nil {
		t.Fatal(err)
	}
	config := must(t, client.ConfigFile).Config
	bin, _, _ := strings.Cut(strings.TrimPrefix(config.Env[0], "PATH=/"), ":")
	holds(t, client, bin+"/psql", bin+"/pg_isready", "usr/bin/bash")
	holds(t, server, bin+"/postgres", bin+"/initdb", "usr/local/bin/entrypoint.sh")
	if len(config.Entrypoint) != 0 || config.User != "" {
		t.Errorf("the client's configuration is %+v", config)
	}
	if _, _, err := registry.Postgres(t.Context(), t.TempDir(), t.TempDir(), "../postgres/entrypoint.sh"); err == nil ||
		err.Error() != "found programs of PostgreSQL in [], want one directory" {
		t.Errorf("got %v", err)
	}
}

func holds(t *testing.T, image v1.Image, names ...string) {
	t.Helper()
	found := flat(t, image)
	for _, name := range names {
		if found[name] == nil {
			t.Errorf("the image has no %s", name)
		}
	}
	var size int64
	for _, layer := range must(t, image.Layers) {
		size += must(t, layer.Size)
	}
	if size > largest {
		t.Errorf("the image has %.0f MB, want %.0f at the most", float64(size)/1e6, largest/1e6)
	}
}
