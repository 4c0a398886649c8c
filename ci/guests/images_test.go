package guests

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/mkappliance/mkappliance/ci/registry"
)

// shelf is a registry with the names of its images.
type shelf struct {
	*registry.Registry
	debian, private, nonRoot, alpine, scratch, healthy, distroless string
}

// newShelf starts a registry in the lab's network and fills it.
func (l *lab) newShelf() *shelf {
	l.Helper()
	return l.fillShelf(l.listen(registryAddr), l.dial)
}

// fillShelf fills a registry that serves on a listener, which dial reaches.
func (l *lab) fillShelf(
	listener net.Listener, dial func(context.Context, string, string) (net.Conn, error),
) *shelf {
	l.Helper()
	for _, program := range []string{"/bin/busybox", "/usr/bin/musl-gcc"} {
		if _, err := os.Stat(program); err != nil {
			l.Skipf("images need busybox-static and musl-tools: %v", err)
		}
	}
	dir := l.TempDir()
	s := &shelf{Registry: registry.Serve(listener, dir, dial)}
	l.Cleanup(func() { _ = s.Close() })
	push := func(name string, image v1.Image, err error) string {
		l.Helper()
		if err != nil {
			l.Fatal(err)
		}
		whole, err := s.Push(l.Context(), name, image)
		if err != nil {
			l.Fatal(err)
		}
		return whole
	}

	debian, err := registry.Debian(l.Context(), os.Getenv("MKAPPLIANCE_TEST_BASE"), dir)
	s.debian = push("debian:13", debian, err)
	s.private = push("private/debian:13", debian, nil)
	nonRoot, err := registry.NonRoot(debian)
	s.nonRoot = push("non-root:1", nonRoot, err)
	alpine, err := registry.Alpine()
	s.alpine = push("alpine:3.22", alpine, err)
	scratch, err := registry.Scratch(l.Context(), dir)
	s.scratch = push("tools/app:1", scratch, err)
	distroless, err := registry.Derive(scratch, func(c *v1.Config) {
		c.Cmd = []string{"serve", "80"}
		c.Healthcheck = &v1.HealthConfig{Test: []string{"CMD", "/app", "exit", "0"}}
	})
	s.distroless = push("distroless:1", distroless, err)
	healthy, err := registry.Derive(alpine, func(c *v1.Config) {
		c.Cmd = []string{"/bin/sh", "-c", "sleep 0.5; touch /tmp/up; exec sleep 1000"}
		c.Healthcheck = &v1.HealthConfig{Test: []string{"CMD-SHELL", "test -e /tmp/up"}}
	})
	s.healthy = push("healthy:1", healthy, err)
	return s
}

// addNode puts programs in the place of node.js: for Debian a script that runs
// the guest's own; for Alpine one that is linked with musl and prints its
// arguments.
func (l *lab) addNode() {
	l.Helper()
	for _, version := range []string{"node20", "node24"} {
		for _, name := range []string{version, version + "_alpine"} {
			if err := os.MkdirAll(l.path("runner/externals/"+name+"/bin"), 0o755); err != nil {
				l.Fatal(err)
			}
		}
		const script = "#!/bin/sh\nexec /usr/bin/node \"$@\"\n"
		if err := os.WriteFile(l.path("runner/externals/"+version+"/bin/node"), []byte(script), 0o755); err != nil {
			l.Fatal(err)
		}
		musl := exec.Command("musl-gcc", "-o", l.path("runner/externals/"+version+"_alpine/bin/node"),
			filepath.Join("testdata", "musl.c"))
		if out, err := musl.CombinedOutput(); err != nil {
			l.Fatalf("%v\n%s", err, out)
		}
	}
}
