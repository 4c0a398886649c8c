package broker

import (
	"slices"
	"testing"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/layout"
)

func TestEnvironment(t *testing.T) {
	m := &member{
		spec: containerSpec{
			Container: brokerapi.Container{Env: map[string]string{"A": "workflow", "B": "workflow"}},
			options:   dockeropts.Options{Env: map[string]string{"B": "options", "C": "options"}},
		},
		root: rootFS{config: oci.Config{Env: []string{"C=image", "D=image=", "PATH=/image"}}},
	}
	env := m.environment("/home/u")
	env["NUL"], env["X=Y"], env[""] = "a\x00b", "v", "v" // those of a step, which cannot be passed on
	want := []string{"A=workflow", "B=workflow", "C=options", "D=image=", "HOME=/home/u", "PATH=/image"}
	if got := environ(env); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}

	m.root.config.Env = nil
	if got := m.environment("/")["PATH"]; got != layout.Path {
		t.Errorf("got PATH %s, want the default", got)
	}
}

func TestAliases(t *testing.T) {
	taken := aliases{}
	for _, test := range []struct {
		summary string // in this order
		image   string
		options dockeropts.Options
		want    []string
	}{
		{summary: "name of the image", image: "postgres:16", want: []string{"postgres"}},
		{summary: "the same name again", image: "registry.example/x/postgres@sha256:0", want: []string{"postgres-2"}},
		{
			summary: "names of its options",
			image:   "redis", options: dockeropts.Options{Aliases: []string{"cache", "store"}, Hostname: "cache-1"},
			want: []string{"cache", "store", "cache-1", "redis"},
		},
		{
			summary: "the taken name, asked for",
			image:   "redis", options: dockeropts.Options{Aliases: []string{"redis"}},
			want: []string{"redis"},
		},
		{
			summary: "one name twice",
			image:   "app", options: dockeropts.Options{Aliases: []string{"db"}, Hostname: "db"},
			want: []string{"db", "app"},
		},
	} {
		got := taken.assign(containerSpec{Container: brokerapi.Container{Image: test.image}, options: test.options})
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.summary, got, test.want)
		}
	}
}

func TestArgv(t *testing.T) {
	empty, own := "", "/own"
	for _, test := range []struct {
		summary string
		spec    containerSpec
		want    []string
	}{{
		summary: "the image's",
		want:    []string{"/entry", "-e", "cmd"},
	}, {
		summary: "arguments replace the command",
		spec:    containerSpec{Container: brokerapi.Container{Args: []string{"a", "b"}}},
		want:    []string{"/entry", "-e", "a", "b"},
	}, {
		summary: "an entrypoint makes the command void",
		spec:    containerSpec{Container: brokerapi.Container{Entrypoint: []string{"/x"}}},
		want:    []string{"/x"},
	}, {
		summary: "both",
		spec:    containerSpec{Container: brokerapi.Container{Entrypoint: []string{"/x"}, Args: []string{"a"}}},
		want:    []string{"/x", "a"},
	}, {
		summary: "option --entrypoint",
		spec:    containerSpec{options: dockeropts.Options{Entrypoint: &own}},
		want:    []string{"/own"},
	}, {
		summary: "an empty option --entrypoint",
		spec: containerSpec{
			Container: brokerapi.Container{Args: []string{"a"}},
			options:   dockeropts.Options{Entrypoint: &empty},
		},
		want: []string{"a"},
	}, {
		summary: "the step's entrypoint before the option's",
		spec: containerSpec{
			Container: brokerapi.Container{Entrypoint: []string{"/x"}},
			options:   dockeropts.Options{Entrypoint: &own},
		},
		want: []string{"/x"},
	}} {
		t.Run(test.summary, func(t *testing.T) {
			config := oci.Config{Entrypoint: []string{"/entry", "-e"}, Cmd: []string{"cmd"}}
			m := &member{spec: test.spec, root: rootFS{config: config}}
			if got := m.argv(); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
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
		want: "container: options: option --privileged is not supported: " +
			"a guest is already root in its own user namespace; remove it",
	}, {
		summary: "port of the second service",
		r:       brokerapi.PrepareRequest{Services: []brokerapi.Container{{}, {Ports: []string{"80", "80/sctp"}}}},
		want:    `service 2: ports: port "80/sctp" has an unknown protocol; write /tcp or /udp, or none for tcp`,
	}} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := newMembers(test.r)
			if err == nil || err.Error() != test.want || wire.CodeOf(err) != wire.CodeUnsupported {
				t.Errorf("got %v with code %q, want %s", err, wire.CodeOf(err), test.want)
			}
		})
	}
}
