package broker

import (
	"slices"
	"testing"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
)

func TestEnvironment(t *testing.T) {
	merged := mergeEnv(map[string]string{"PATH": "/bin", "A": "image"}, map[string]string{"A": "job", "B": "job"}, map[string]string{"B": "step"})
	merged["NUL"], merged["X=Y"], merged[""] = "a\x00b", "v", "v"
	got := environ(merged)
	if want := []string{"A=job", "B=step", "PATH=/bin"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAliases(t *testing.T) {
	taken := aliases{}
	for i, test := range []struct {
		c    containerSpec
		want []string
	}{
		{containerSpec{Container: brokerapi.Container{Image: "postgres:16"}}, []string{"postgres"}},
		{containerSpec{Container: brokerapi.Container{Image: "registry.example/x/postgres@sha256:0"}}, []string{"postgres-2"}},
		{containerSpec{Container: brokerapi.Container{Image: "redis"}, options: dockeropts.Options{Aliases: []string{"cache", "store"}, Hostname: "cache-1"}},
			[]string{"cache", "store", "cache-1", "redis"}},
		{containerSpec{Container: brokerapi.Container{Image: "redis"}, options: dockeropts.Options{Aliases: []string{"redis"}}}, []string{"redis"}},
	} {
		if got := taken.assign(test.c); !slices.Equal(got, test.want) {
			t.Errorf("%d: got %q, want %q", i, got, test.want)
		}
	}
}

func TestArgv(t *testing.T) {
	empty, own := "", "/own"
	config := oci.Config{Entrypoint: []string{"/entry", "-e"}, Cmd: []string{"cmd"}}
	for i, test := range []struct {
		c    containerSpec
		want []string
	}{
		{containerSpec{}, []string{"/entry", "-e", "cmd"}},
		{containerSpec{Container: brokerapi.Container{Args: []string{"a", "b"}}}, []string{"/entry", "-e", "a", "b"}},
		{containerSpec{Container: brokerapi.Container{Entrypoint: []string{"/x"}}}, []string{"/x"}},
		{containerSpec{Container: brokerapi.Container{Entrypoint: []string{"/x"}, Args: []string{"a"}}}, []string{"/x", "a"}},
		{containerSpec{options: dockeropts.Options{Entrypoint: &own}}, []string{"/own"}},
		{containerSpec{Container: brokerapi.Container{Args: []string{"a"}}, options: dockeropts.Options{Entrypoint: &empty}}, []string{"a"}},
	} {
		spec := test.c
		spec.root.config = config
		if got := spec.argv(); !slices.Equal(got, test.want) {
			t.Errorf("%d: got %q, want %q", i, got, test.want)
		}
	}
}

// TestUnsupportedOptions: the hook passes Docker's words on as they are, and an
// error of theirs has a code and a place in the workflow.
func TestUnsupportedOptions(t *testing.T) {
	for _, test := range []struct {
		summary string
		r       brokerapi.PrepareRequest
		want    string
	}{{
		summary: "option of the job's container",
		r:       brokerapi.PrepareRequest{Container: &brokerapi.Container{Options: "--cpus 2 --privileged"}},
		want:    "container: options: option --privileged is not supported: a guest is already root in its own user namespace; remove it",
	}, {
		summary: "port of the second service",
		r:       brokerapi.PrepareRequest{Services: []brokerapi.Container{{}, {Ports: []string{"80", "1-2"}}}},
		want:    `service 2: ports: port "1-2" is a range; write each port on a line of its own`,
	}} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := newContainerSpecs(test.r)
			if err == nil || err.Error() != test.want || wire.CodeOf(err) != wire.CodeUnsupported {
				t.Errorf("got %v with code %q, want %s", err, wire.CodeOf(err), test.want)
			}
		})
	}
}
