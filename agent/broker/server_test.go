package broker

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/oci"
)

func TestEnvironment(t *testing.T) {
	merged := mergeEnv(map[string]string{"PATH": "/bin", "A": "image"}, map[string]string{"A": "job", "B": "job"}, map[string]string{"B": "step"})
	merged["NUL"], merged["X=Y"], merged[""] = "a\x00b", "v", "v"
	got := environ(merged)
	if want := []string{"A=job", "B=step", "PATH=/bin"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAllowed(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "cache/npm"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "cache/link")); err != nil {
		t.Fatal(err)
	}
	s := &Server{settings: Settings{RunnerUID: os.Getuid(), RunnerGID: os.Getgid(), BindRO: []HostBind{{Source: filepath.Join(dir, "cache")}}}}
	for source, ok := range map[string]bool{"cache/npm": true, "cache": true, "cache/link": false, "cache/../other": false, "cached": false, "": false} {
		bind, err := s.allowed(guest.Bind{Target: "/x"}, filepath.Join(dir, source), 0)
		if (err == nil) != ok {
			t.Errorf("%q: got %v, want success %v", source, err, ok)
		}
		if err == nil && !bind.ReadOnly {
			t.Errorf("%q is writable, and RUNNER_NSPAWN_BIND_RO allowed it", source)
		}
		closeBinds([]guest.Bind{bind})
	}
}

func TestNames(t *testing.T) {
	n := newNames()
	for i, test := range []struct {
		c    brokerapi.Container
		want []string
	}{
		{brokerapi.Container{Image: "postgres:16"}, []string{"postgres"}},
		{brokerapi.Container{Image: "registry.example/x/postgres@sha256:0"}, []string{"postgres-2"}},
		{brokerapi.Container{Image: "redis", Options: dockeropts.Options{Aliases: []string{"cache", "store"}, Hostname: "cache-1"}}, []string{"cache", "store", "cache-1", "redis"}},
		{brokerapi.Container{Image: "redis", Options: dockeropts.Options{Aliases: []string{"redis"}}}, []string{"redis"}},
	} {
		if got := n.of(test.c); !slices.Equal(got, test.want) {
			t.Errorf("%d: got %q, want %q", i, got, test.want)
		}
	}
}

func TestArgv(t *testing.T) {
	empty, own := "", "/own"
	config := oci.Config{Entrypoint: []string{"/entry", "-e"}, Cmd: []string{"cmd"}}
	for i, test := range []struct {
		c    brokerapi.Container
		want []string
	}{
		{brokerapi.Container{}, []string{"/entry", "-e", "cmd"}},
		{brokerapi.Container{Args: []string{"a", "b"}}, []string{"/entry", "-e", "a", "b"}},
		{brokerapi.Container{Entrypoint: []string{"/x"}}, []string{"/x"}},
		{brokerapi.Container{Entrypoint: []string{"/x"}, Args: []string{"a"}}, []string{"/x", "a"}},
		{brokerapi.Container{Options: dockeropts.Options{Entrypoint: &own}}, []string{"/own"}},
		{brokerapi.Container{Options: dockeropts.Options{Entrypoint: &empty}, Args: []string{"a"}}, []string{"a"}},
	} {
		spec := containerSpec{Container: test.c, image: image{config: config}}
		if got := spec.argv(); !slices.Equal(got, test.want) {
			t.Errorf("%d: got %q, want %q", i, got, test.want)
		}
	}
}
