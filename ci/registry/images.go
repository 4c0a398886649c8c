package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is a file of a layer.
type File struct {
	Content  string
	Mode     int64 // 0 for 0644, or 0755 of a directory
	UID, GID int
	Link     string // symbolic, if not empty
	Dir      bool
}

// Layer makes a layer of files by name. Directories above them are made too.
func Layer(files map[string]File) (v1.Layer, error) {
	all := maps.Clone(files)
	for name := range files {
		for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
			if _, own := files[dir]; !own {
				all[dir] = File{Dir: true}
			}
		}
	}

	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := all[name].write(w, name); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	})
}

func (f File) write(w *tar.Writer, name string) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: f.Mode, Uid: f.UID, Gid: f.GID, Size: int64(len(f.Content))}
	switch {
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.Link, 0
	case f.Dir:
		h.Typeflag, h.Name, h.Size = tar.TypeDir, name+"/", 0
	}
	if h.Mode == 0 {
		h.Mode = 0o644
		if f.Dir {
			h.Mode = 0o755
		}
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.WriteString(w, f.Content)
	return err
}

// Image makes an image of layers, the lowest first.
func Image(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	return Derive(empty.Image, func(c *v1.Config) { *c = config }, layers...)
}

// Derive puts layers on an image and changes its configuration.
func Derive(image v1.Image, change func(*v1.Config), layers ...v1.Layer) (v1.Image, error) {
	image, err := mutate.AppendLayers(image, layers...)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	change(&file.Config)
	return mutate.ConfigFile(image, file)
}

// heavy is what images of trees do without: compilers, interpreters and systemd,
// documentation, and what exists only while a system runs.
var heavy = []string{
	"usr/lib/gcc", "usr/libexec", "usr/include", "usr/share/doc", "usr/share/nodejs", "usr/lib/python3*",
	"usr/share/perl*", "usr/lib/git-core", "usr/share/python-wheels", "usr/share/i18n", "usr/lib/file",
	"usr/lib/podman", "usr/lib/systemd", "usr/lib/x86_64-linux-gnu/*.a", "usr/lib/x86_64-linux-gnu/lib*san.so*",
	"usr/lib/x86_64-linux-gnu/libnode*", "usr/lib/x86_64-linux-gnu/perl*", "usr/lib/x86_64-linux-gnu/libperl*",
	"usr/lib/x86_64-linux-gnu/*gprofng*", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/systemd",
	"usr/bin/x86_64-linux-gnu-*", "usr/bin/*gprofng*", "usr/bin/node*", "usr/bin/python3*", "usr/bin/perl*",
	"usr/bin/git*", "usr/bin/scalar", "usr/bin/buildah", "var/cache", "var/lib/apt", "proc/*", "sys/*", "dev/*",
	"run/*",
}

// TreeLayer makes a layer of a directory, in a new file of dir, as it is on disk
// but for what exclude names.
func TreeLayer(ctx context.Context, tree, dir string, exclude ...string) (v1.Layer, error) {
	file, err := os.CreateTemp(dir, "layer-*.tar")
	if err != nil {
		return nil, err
	}
	defer file.Close()

	args := []string{
		"--create", "--directory", tree, "--numeric-owner", "--xattrs", "--xattrs-include=*", "--sort=name",
		// Nothing that differs when the same tree is made, or archived, again:
		// what is newer than its packages was written by whoever made it.
		"--clamp-mtime", "--mtime=@1754697600", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
	}
	for _, e := range exclude {
		args = append(args, "--exclude=./"+e)
	}

	hash, said := sha256.New(), bytes.Buffer{}
	archive := exec.CommandContext(ctx, "tar", append(args, ".")...)
	archive.Stdout, archive.Stderr = io.MultiWriter(file, hash), &said
	if err := archive.Run(); err != nil {
		return nil, fmt.Errorf("tar: %w: %s", err, said.Bytes())
	}
	size, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	digest := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(hash.Sum(nil))}
	return partial.CompressedToLayer(plainLayer{file: file.Name(), digest: digest, size: size})
}

// plainLayer is a layer that is not compressed, which the library's own tarball
// always is: that takes seconds for a tree, and so does unpacking it.
type plainLayer struct {
	file   string
	digest v1.Hash
	size   int64
}

func (l plainLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l plainLayer) DiffID() (v1.Hash, error)            { return l.digest, nil }
func (l plainLayer) Size() (int64, error)                { return l.size, nil }
func (l plainLayer) MediaType() (types.MediaType, error) { return types.DockerUncompressedLayer, nil }
func (l plainLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.file) }

// Debian is an image of the guest base tree, in a file of dir.
func Debian(ctx context.Context, base, dir string) (v1.Image, error) {
	layer, err := TreeLayer(ctx, base, dir, append([]string{"usr/lib/x86_64-linux-gnu/libicu*"}, heavy...)...)
	if err != nil {
		return nil, err
	}
	return Image(v1.Config{
		Env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "IMAGE_ENV=from-image", "CLASH=image",
		},
		Cmd: []string{"bash"},
	}, layer)
}

// NonRoot is image with a user 1001 of its own, as whom it runs.
func NonRoot(image v1.Image) (v1.Image, error) {
	layer, err := Layer(map[string]File{
		"home/app":   {Dir: true, UID: 1001, GID: 1001},
		"etc/passwd": {Content: "root:x:0:0:root:/root:/bin/bash\napp:x:1001:1001::/home/app:/bin/bash\n"},
		"etc/group":  {Content: "root:x:0:\napp:x:1001:\nstaff:x:50:app\n"},
		"data":       {Dir: true, UID: 1001, GID: 1001},
	})
	if err != nil {
		return nil, err
	}
	return Derive(image, func(c *v1.Config) {
		c.User, c.WorkingDir, c.Volumes = "1001", "/home/app", map[string]struct{}{"/data": {}}
		c.Env = append(c.Env, "HOME=/home/app")
	}, layer)
}

// Alpine is shaped like Alpine Linux: its os-release, a busybox with links, and
// the musl loader where programs of that system look for it. busybox and musl
// are those of Debian's packages busybox-static and musl.
func Alpine() (v1.Image, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	loader, err2 := os.ReadFile("/lib/ld-musl-x86_64.so.1")
	applets, err3 := exec.Command("/bin/busybox", "--list").Output()
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, fmt.Errorf("%w: install busybox-static and musl", err)
	}

	files := map[string]File{
		"etc/os-release":            {Content: "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.22.0\n"},
		"etc/passwd":                {Content: "root:x:0:0:root:/root:/bin/sh\n"},
		"etc/group":                 {Content: "root:x:0:\n"},
		"bin/busybox":               {Content: string(busybox), Mode: 0o755},
		"lib/ld-musl-x86_64.so.1":   {Content: string(loader), Mode: 0o755},
		"lib/libc.musl-x86_64.so.1": {Link: "ld-musl-x86_64.so.1"},
		"usr/bin":                   {Dir: true}, "root": {Dir: true}, "tmp": {Dir: true, Mode: 0o1777},
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			files["bin/"+applet] = File{Link: "/bin/busybox"}
		}
	}
	layer, err := Layer(files)
	if err != nil {
		return nil, err
	}
	return Image(v1.Config{Env: []string{"PATH=/usr/bin:/bin"}, Cmd: []string{"/bin/sh"}}, layer)
}

// Scratch has a single static program, /app, and nothing else.
func Scratch(ctx context.Context, dir string) (v1.Image, error) {
	program := filepath.Join(dir, "app")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program,
		"github.com/mkappliance/mkappliance/ci/registry/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	layer, err := Layer(map[string]File{"app": {Content: string(data), Mode: 0o755}})
	if err != nil {
		return nil, err
	}
	return Image(v1.Config{Entrypoint: []string{"/app"}, Cmd: []string{"show"}, WorkingDir: "/made"}, layer)
}

// Postgres makes two images of a tree with PostgreSQL, in a file of dir: a server,
// with entrypoint as its script, and a client.
func Postgres(ctx context.Context, tree, dir, entrypoint string) (server, client v1.Image, err error) {
	// Debian's own psql is a script in Perl before this one.
	programs, err := filepath.Glob(filepath.Join(tree, "usr/lib/postgresql/*/bin"))
	if err != nil || len(programs) != 1 {
		return nil, nil, fmt.Errorf("found programs of PostgreSQL in %q, want one directory", programs)
	}
	search := strings.TrimPrefix(programs[0], filepath.Clean(tree)) + ":/usr/local/bin:/usr/bin:/bin"

	// LLVM is for queries that are compiled, which the tests have none of. The
	// packages bring a cluster and a key of their own, other ones in every tree.
	exclude := append([]string{
		"usr/lib/x86_64-linux-gnu/libLLVM*", "usr/lib/x86_64-linux-gnu/libz3*",
		"var/lib/postgresql/*", "etc/ssl/private/*", "etc/ssl/certs/ssl-cert-snakeoil.pem",
	}, heavy...)
	layer, err := TreeLayer(ctx, tree, dir, exclude...)
	if err != nil {
		return nil, nil, err
	}
	script, err := os.ReadFile(entrypoint)
	if err != nil {
		return nil, nil, err
	}
	own, err := Layer(map[string]File{"usr/local/bin/entrypoint.sh": {Content: string(script), Mode: 0o755}})
	if err != nil {
		return nil, nil, err
	}

	if client, err = Image(v1.Config{Env: []string{"PATH=" + search}, Cmd: []string{"bash"}}, layer); err != nil {
		return nil, nil, err
	}
	server, err = Derive(client, func(c *v1.Config) {
		c.Entrypoint, c.Volumes = []string{"entrypoint.sh"}, map[string]struct{}{"/var/lib/postgresql/data": {}}
		c.ExposedPorts = map[string]struct{}{"5432/tcp": {}}
	}, own)
	return server, client, err
}
