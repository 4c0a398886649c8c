package rootfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mkappliance/mkappliance/internal/buildinfo"
)

// TestAddFiles: the image says what it is, and has programs and manual pages.
func TestAddFiles(t *testing.T) {
	root, programs := t.TempDir(), t.TempDir()
	for path, content := range map[string]string{
		filepath.Join(root, "usr/lib/os-release"):        "ID=debian\n",
		filepath.Join(root, "usr/local/bin/x"):           "",
		filepath.Join(programs, "runner-agent"):          "program",
		filepath.Join(programs, "runner-agent-broker.1"): "page",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	err := addFiles(root, HostSpec{
		Programs: Programs{
			Paths:   []string{filepath.Join(programs, "runner-agent")},
			Manuals: []string{filepath.Join(programs, "runner-agent-broker.1")},
			Source:  buildinfo.Info{Version: `(devel) "$x\`, Commit: "c0ffee"},
		},
		ImageID: "runner", ImageVersion: "1.4.0", RunnerVersion: "2.337.0",
		Files: map[string]string{"usr/lib/repart.d/10-esp.conf": "[Partition]\n"},
	})
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		summary string
		path    string
		mode    os.FileMode
		content string
	}{
		{summary: "program", path: "usr/local/bin/runner-agent", mode: 0o755, content: "program"},
		{summary: "page", path: "usr/local/share/man/man1/runner-agent-broker.1", mode: 0o644, content: "page"},
		{summary: "file", path: "usr/lib/repart.d/10-esp.conf", mode: 0o644, content: "[Partition]\n"},
		{summary: "os-release", path: "usr/lib/os-release", mode: 0o644, content: `ID=debian
IMAGE_ID=runner
IMAGE_VERSION=1.4.0
RUNNER_VERSION=2.337.0
RUNNER_AGENT_VERSION="(devel) \"\$x\\"
RUNNER_AGENT_COMMIT="c0ffee"
`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			path := filepath.Join(root, test.path)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(content) != test.content || info.Mode() != test.mode {
				t.Errorf("got mode %v and\n%s\nwant %v and\n%s", info.Mode(), content, test.mode, test.content)
			}
		})
	}
}
