package workroot

import (
	"slices"
	"testing"
)

func TestHiddenBeneath(t *testing.T) {
	for _, test := range []struct {
		summary string
		name    string
		want    []string
	}{
		{summary: "the work root", name: ".",
			want: []string{"_temp/_runner_hook_responses", "_update", "_PipelineMapping"}},
		{summary: "a directory with one", name: "_temp", want: []string{"_runner_hook_responses"}},
		{summary: "beside one", name: "_temp/_github_home"},
		{summary: "a hidden one itself", name: "_update"},
		{summary: "a workspace", name: "repo"},
		{summary: "begins alike", name: "_temporary"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if got := HiddenBeneath(test.name); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestCheckVisible(t *testing.T) {
	for _, test := range []struct {
		summary string
		name    string
		ok      bool
	}{
		{summary: "the work root", name: ".", ok: true},
		{summary: "a directory with a hidden one", name: "_temp", ok: true},
		{summary: "begins alike", name: "_updates", ok: true},
		{summary: "a hidden one", name: "_update"},
		{summary: "beneath a hidden one", name: "_update/a"},
		{summary: "the mapping of another repository", name: "_PipelineMapping/org/repo"},
		{summary: "a hidden one on a detour", name: "_temp/x/../_runner_hook_responses"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if err := CheckVisible(test.name); (err == nil) != test.ok {
				t.Errorf("got %v, want success %v", err, test.ok)
			}
		})
	}
}

func TestCheckTarget(t *testing.T) {
	for _, test := range []struct {
		target string
		ok     bool
	}{
		{target: "/data", ok: true},
		{target: "/a/b c", ok: true},
		{target: "/"},
		{target: ""},
		{target: "data"},
		{target: "/data/"},
		{target: "/a/../b"},
		{target: "//data"},
	} {
		if err := CheckTarget(test.target); (err == nil) != test.ok {
			t.Errorf("%q: got %v, want success %v", test.target, err, test.ok)
		}
	}
}
