package dockeropts

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitCreate(t *testing.T) {
	for _, test := range []struct {
		line string
		want Create
		err  string
	}{
		{line: "alpine", want: Create{Image: "alpine"}},
		{line: "alpine echo -i --rm", want: Create{Image: "alpine", Command: []string{"echo", "-i", "--rm"}}},
		{line: "--rm -i alpine cat", want: Create{Options: []string{"--rm", "-i"}, Image: "alpine",
			Command: []string{"cat"}, Input: true}},
		{line: "-dit --name=x alpine", want: Create{Options: []string{"-dit", "--name=x"}, Image: "alpine", Input: true}},
		{line: "-itw /a alpine", want: Create{Options: []string{"-itw", "/a"}, Image: "alpine", Input: true}},
		{line: "-w/i -e A -eB=i alpine", want: Create{Options: []string{"-w/i", "-e", "A", "-eB=i"}, Image: "alpine"}},
		{line: "--name -i alpine", want: Create{Options: []string{"--name", "-i"}, Image: "alpine"}},
		{line: "--read-only --init=false --privileged alpine", want: Create{
			Options: []string{"--read-only", "--init=false", "--privileged"}, Image: "alpine"}},
		{line: "--interactive=false -- alpine", want: Create{Options: []string{"--interactive=false"}, Image: "alpine"}},
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
