package broker

import (
	"slices"
	"testing"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
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
