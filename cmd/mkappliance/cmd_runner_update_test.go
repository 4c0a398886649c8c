package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/cli"
)

// TestRunnerUpdate answers as GitHub does, and reads what images.toml becomes.
func TestRunnerUpdate(t *testing.T) {
	good, err := os.ReadFile("../../images.toml")
	if err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("a1", 32)
	for _, test := range []struct {
		summary, newest, out string
		args                 []string
		status               int
		changed              bool
	}{
		{summary: "newer", newest: "99.0.0", out: "-> 99.0.0\n", changed: true},
		{summary: "check", newest: "99.0.0", args: []string{"--check"}, out: "-> 99.0.0\n", status: 3},
		{summary: "as JSON", newest: "99.0.0", args: []string{"--json"}, out: `"newest":"99.0.0"}` + "\n", changed: true},
		{summary: "older", newest: "2.3.0", args: []string{"--check"}},
		{summary: "broken answer", newest: "latest", status: cli.StatusFailed},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for _, dir := range []string{"overlays/host", "overlays/guest"} {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile("images.toml", good, 0o640); err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"tag_name": "v%s", "assets": [{"name": "actions-runner-linux-x64-%[1]s.tar.gz",
					"digest": "sha256:%s", "browser_download_url": "https://github.test/%[1]s.tar.gz"}]}`, test.newest, sum)
			}))
			defer server.Close()
			t.Setenv("GITHUB_API_URL", server.URL)

			var out, stderr bytes.Buffer
			root := newRootCommand()
			root.SetOut(&out)
			status := cli.Run(t.Context(), root, append([]string{"runner-update"}, test.args...), &stderr)
			if status != test.status || !strings.HasSuffix(out.String(), test.out) {
				t.Errorf("got status %d, %q, %q; want %d, %q", status, &out, &stderr, test.status, test.out)
			}

			data, err := os.ReadFile("images.toml")
			if err != nil {
				t.Fatal(err)
			}
			if changed := !bytes.Equal(data, good); changed != test.changed {
				t.Errorf("images.toml changed: %v, want %v", changed, test.changed)
			}
			if want := "version = \"99.0.0\"\nurl = \"https://github.test/99.0.0.tar.gz\"\nsha256 = " +
				"\"" + sum + "\"\n"; test.changed &&
				!strings.Contains(string(data), want) {
				t.Errorf("images.toml lacks %q:\n%s", want, data)
			}
			if info, err := os.Stat("images.toml"); err != nil || info.Mode() != 0o640 {
				t.Errorf("got %v, %v", info, err)
			}
		})
	}
}
