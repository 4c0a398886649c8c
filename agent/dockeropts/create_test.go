package dockeropts

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitCreate(t *testing.T) {
	for _, test := range []struct {
		line string
		want CreateWords
		err  string
	}{
		{line: "alpine", want: CreateWords{Image: "alpine"}},
		{line: "alpine echo -i --rm", want: CreateWords{Image: "alpine", Command: []string{"echo", "-i", "--rm"}}},
		{line: "--rm -i alpine cat", want: CreateWords{Options: []string{"--rm", "-i"}, Image: "alpine",
			Command: []string{"cat"}, Input: true}},
		{line: "-dit --name=x alpine", want: CreateWords{
			Options: []string{"-dit", "--name=x"}, Image: "alpine", Input: true, Detach: true,
		}},
		{line: "-itw /a alpine", want: CreateWords{Options: []string{"-itw", "/a"}, Image: "alpine", Input: true}},
		{line: "-w/i -e A -eB=i alpine", want: CreateWords{Options: []string{"-w/i", "-e", "A", "-eB=i"}, Image: "alpine"}},
		{line: "--name -i alpine", want: CreateWords{Options: []string{"--name", "-i"}, Image: "alpine"}},
		{line: "--read-only --init=false --privileged alpine", want: CreateWords{
			Options: []string{"--read-only", "--init=false", "--privileged"}, Image: "alpine"}},
		{line: "--interactive=false -- alpine", want: CreateWords{Options: []string{"--interactive=false"}, Image: "alpine"}},
		{line: "", err: "there is no image"},
		{line: "--rm", err: "there is no image"},
		{line: "--name", err: "the last option has no value"},
		{line: "-e", err: "the last option has no value"},
	} {
		got, err := SplitCreate(strings.Fields(test.line))
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%q: got %v, want %s", test.line, err, test.err)
			}
			continue
		}
		if len(got.Command) == 0 {
			got.Command = nil
		}
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n-want +got:\n%s", test.line, err, diff)
		}
	}
}

func TestParseCreate(t *testing.T) {
	text := func(s string) *string { return &s }
	for _, test := range []struct {
		summary string
		args    []string
		want    Create
		err     string
	}{{
		summary: "the job's container, as the actions runner asks for it",
		args: []string{"--name", "0a_debian13_b1", "--label", "a1b2c3", "--workdir", "/__w/r/r", "--network", "n",
			"--cpus", "1", "-e", "A=b", "-e", "SECRET", "-e", "NOTSET", "-v", "/var/run/docker.sock:/var/run/docker.sock",
			"-v", "/w:/__w", "-v", "/e:/__e:ro", "--entrypoint", "tail", "debian:13", "-f", "/dev/null"},
		want: Create{
			Name: "0a_debian13_b1", Labels: map[string]string{"a1b2c3": ""}, Network: "n", Image: "debian:13",
			Command: []string{"-f", "/dev/null"}, Options: Options{
				Aliases: []string{"0a_debian13_b1"}, Workdir: "/__w/r/r", CPUs: 1, Entrypoint: text("tail"),
				Env:     map[string]string{"A": "b", "SECRET": "hunter2"},
				Volumes: []Volume{{Source: "/w", Target: "/__w"}, {Source: "/e", Target: "/__e", ReadOnly: true}},
			},
		},
	}, {
		summary: "a long name is no host's",
		args:    []string{"--name", strings.Repeat("a", 70), "x"},
		want:    Create{Name: strings.Repeat("a", 70), Image: "x"},
	}, {
		summary: "joined switches",
		args:    []string{"-dit", "--rm", "-eA=b", "--net=n", "-lx=y", "--label=z", "x"},
		want: Create{Detach: true, Input: true, Remove: true, Network: "n", Image: "x",
			Labels:  map[string]string{"x": "y", "z": ""},
			Options: Options{Env: map[string]string{"A": "b"}}},
	}, {
		summary: "options of a workflow are checked as ever",
		args:    []string{"--privileged", "x"},
		err:     "option --privileged is not supported: ",
	}, {
		summary: "a socket elsewhere", args: []string{"-v", "/var/run/docker.sock:/x", "x"},
		err: "option --volume: there is no Docker here",
	}, {
		summary: "name", args: []string{"--name", "-x", "y"}, err: `option --name: "-x" is not a name`,
	}, {
		summary: "nothing", err: "there is no image",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			got, err := ParseCreate(test.args, map[string]string{"SECRET": "hunter2"})
			if test.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), test.err) {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Command) == 0 {
				got.Command = nil
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
