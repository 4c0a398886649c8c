package guests

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// TestJavaScript runs an action that is made of GitHub's own toolkit, from npm,
// in a guest: its outputs, state and files reach the runner.
func TestJavaScript(t *testing.T) {
	l := newLab(t, "RUNNER_KEEP_WORK=true") // to look at it afterwards
	l.addNode()
	action := l.path("action")
	if err := os.CopyFS(action, os.DirFS("testdata/action")); err != nil {
		t.Fatal(err)
	}
	npm := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = action
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}

	const name = "octo/toolkit/v1"
	r := l.job(miniworker.Job{Name: "javascript", Actions: map[string]string{name: action},
		Container: &miniworker.Container{Image: "debian:13"},
		Steps: []miniworker.Step{
			{Name: "main", Action: name, Main: "index.js", With: map[string]string{"who to greet": "Mona the Octocat"}},
			{Name: "later", Run: "echo $FROM_ACTION; greet; cat $RUNNER_TOOL_CACHE/my-tool/1.2.3/*/tool.txt; echo; " +
				"echo say the-secret-of-the-action"},
			{Name: "post", Action: name, Main: "post.js"},
		}})

	main := r.Step("main")
	if main.Conclusion != miniworker.Success {
		t.Fatalf("step %v", main)
	}
	wantOutputs := map[string]string{
		"greeting": "hello Mona the Octocat\nand a second line", "exec": "5: /tmp, two words",
		"tool": "/__w/_tool/my-tool/1.2.3/x64",
	}
	if diff := cmp.Diff(wantOutputs, main.Outputs); diff != "" {
		t.Errorf("outputs (-want +got):\n%s", diff)
	}

	said := strings.Join(main.Output, "\n")
	for _, want := range []string{"::add-mask::***", "it is ***", "::warning::a warning",
		"::group::a group\nin the group\n::endgroup::"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	if want := "<h2>Result</h2>\nall is well"; main.Summary != want {
		t.Errorf("the summary is %q, want %q", main.Summary, want)
	}

	l.said(r, map[string]string{"later": "exported value\ngreetings\nthe tool\nsay ***",
		"post": "state: for the post file"})
	for _, file := range []string{"repo/repo/bin/greet", "_tool/my-tool/1.2.3/x64/tool.txt"} {
		info, err := os.Stat(l.path("work/" + file))
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != runnerID {
			t.Errorf("%s: %v, %v; want it the runner's", file, info, err)
		}
	}
	l.noResidue()
}
