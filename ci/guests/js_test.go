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
// in guests: its outputs, state and files reach the runner.
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

	l.serveGitHub()
	l.inBoth(func(l *lab) {
		l.toolkitAction(action, &miniworker.Container{Image: "debian:13"}, "/__w")
		if l.place == onHost {
			l.filesOfToolkit()
		}
		l.noResidue()
	})
	l.run("NoContainer", func(l *lab) {
		l.place = inGuest
		l.toolkitAction(action, nil, l.workDir())
		l.noResidue()
	})
}

// toolkitAction runs the action in a directory in a job with a container, or
// without one. work is the work directory as its steps see it.
func (l *lab) toolkitAction(dir string, container *miniworker.Container, work string) {
	const name = "octo/toolkit/v1"
	r := l.job(miniworker.Job{Name: "javascript", Actions: map[string]string{name: dir}, Container: container,
		Steps: []miniworker.Step{
			{Name: "main", Action: name, Main: "index.js", With: map[string]string{"who to greet": "Mona the Octocat"}},
			{Name: "later", Run: "echo $FROM_ACTION; greet; cat $RUNNER_TOOL_CACHE/my-tool/1.2.3/*/tool.txt; echo; " +
				"echo say the-secret-of-the-action"},
			{Name: "post", Action: name, Main: "post.js"},
		}})

	main := r.Step("main")
	if main.Conclusion != miniworker.Success {
		l.Fatalf("step %v", main)
	}
	wantOutputs := map[string]string{
		"greeting": "hello Mona the Octocat\nand a second line", "exec": "5: /tmp, two words",
		"tool": work + "/_tool/my-tool/1.2.3/x64",
	}
	if diff := cmp.Diff(wantOutputs, main.Outputs); diff != "" {
		l.Errorf("outputs (-want +got):\n%s", diff)
	}

	said := strings.Join(main.Output, "\n")
	for _, want := range []string{"::add-mask::***", "it is ***", "::warning::a warning",
		"::group::a group\nin the group\n::endgroup::"} {
		if !strings.Contains(said, want) {
			l.Errorf("no %q in\n%s", want, said)
		}
	}
	if want := "<h2>Result</h2>\nall is well"; main.Summary != want {
		l.Errorf("the summary is %q, want %q", main.Summary, want)
	}
	l.said(r, map[string]string{"later": "exported value\ngreetings\nthe tool\nsay ***",
		"post": "state: for the post file"})
}

// filesOfToolkit: what the action wrote on the host, from a container, is the
// runner's.
func (l *lab) filesOfToolkit() {
	for _, file := range []string{"repo/repo/bin/greet", "_tool/my-tool/1.2.3/x64/tool.txt"} {
		info, err := os.Stat(l.path("work/" + file))
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != runnerID {
			l.Errorf("%s: %v, %v; want it the runner's", file, info, err)
		}
	}
}
