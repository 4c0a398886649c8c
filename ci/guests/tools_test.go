package guests

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// addTool is a job that adds a tool, as @actions/tool-cache does, and changes one of
// the image.
const addTool = `set -e
	cd /var/lib/runner/work/_tool
	cat go/1.25.0/x64/go
	echo changed >go/1.25.0/x64/go
	mkdir -p mine/1.0/x64
	echo mine >mine/1.0/x64/tool
	sudo sh -c 'echo root >mine/1.0/x64/of-root'
	ln -s /etc/shadow mine/1.0/x64/link
	touch mine/1.0/x64.complete
	mkdir -p partial/1.0/x64
	ln -s /var/lib mine/2.0
	rm -r go/1.24.0
	exit 100`

// listTools prints what a job sees.
const listTools = `cd /var/lib/runner/work/_tool && cat go/1.25.0/x64/go
	find . -mindepth 3 -printf '%p %u\n' | sort`

// TestTools has jobs that see the tools of the image, and add others.
func TestTools(t *testing.T) {
	const baked = "./go/1.24.0/x64 runner\n./go/1.25.0/x64 runner\n./go/1.25.0/x64.complete runner\n" +
		"./go/1.25.0/x64/go runner"
	for _, test := range []struct {
		summary string
		config  string
		want    string // what the next job sees
	}{
		{summary: "Default", config: "", want: "baked\n" + baked},
		{
			summary: "Writable", config: "RUNNER_TOOL_CACHE_WRITABLE=true",
			want: "baked\n" + baked + "\n./mine/1.0/x64 runner\n./mine/1.0/x64.complete runner\n" +
				"./mine/1.0/x64/link runner\n./mine/1.0/x64/of-root runner\n./mine/1.0/x64/tool runner",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t, test.config)
			for _, dir := range []string{"1.24.0/x64", "1.25.0/x64"} {
				if err := os.MkdirAll(filepath.Join(l.path("tools/go"), dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(
				os.WriteFile(l.path("tools/go/1.25.0/x64/go"), []byte("baked\n"), 0o755),
				os.WriteFile(l.path("tools/go/1.25.0/x64.complete"), nil, 0o644),
			); err != nil {
				t.Fatal(err)
			}

			if status, out := l.work(addTool); status != 100 || out != "baked" {
				t.Errorf("got status %d: %s", status, out)
			}
			if _, out := l.work(listTools); out != test.want {
				t.Errorf("the next job sees\n%s\nwant\n%s", out, test.want)
			}
			if data, err := os.ReadFile(l.path("tools/go/1.25.0/x64/go")); err != nil || string(data) != "baked\n" {
				t.Errorf("the image's tool is %q, %v", data, err)
			}
		})
	}
}

// TestToolsInContainer: a job's container adds tools as its worker does.
func TestToolsInContainer(t *testing.T) {
	l := newLab(t, "RUNNER_TOOL_CACHE_WRITABLE=true")
	const work = "/var/lib/runner/work"
	container := map[string]any{"image": "debian:13", "systemMountVolumes": []any{
		volume(work, "/__w"), volume(work+"/_temp", "/__w/_temp"), volume(work+"/_tool", "/__w/_tool"),
	}}
	step := payload("run_script_step", map[string]any{
		"entryPoint": "sh", "entryPointArgs": []string{
			"-ec", `"cd /__w/_tool; mkdir -p mine/1.0/x64; echo mine >mine/1.0/x64/tool; touch mine/1.0/x64.complete"`,
		},
		"environmentVariables": map[string]string{}, "prependPath": []string{}, "workingDirectory": "/",
	}, `"STATE"`)
	prepare := payload("prepare_job", map[string]any{"container": container}, "")
	status, out := l.work(hookScript + "hook " + quote(prepare) + " || exit 1; hook " + quote(step) + ` || exit 1
		exit 100`)
	if status != 100 {
		t.Errorf("got status %d: %s", status, out)
	}
	if _, out := l.work("cat /var/lib/runner/work/_tool/mine/1.0/x64/tool"); out != "mine" {
		t.Errorf("the next job sees %q", out)
	}
	if !strings.Contains(l.log(), `msg="tools kept"`) {
		t.Errorf("the journal does not name the tools:\n%s", l.log())
	}
}
