package broker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/layout"
)

func TestReadRegistration(t *testing.T) {
	for _, test := range []struct {
		summary string
		content string
		want    string
		err     string
	}{{
		summary: "as the actions runner writes it",
		content: "\ufeff{\"agentId\":12345678901234567890,\"workFolder\":\"_work\",\"useV2Flow\":true}",
		want:    `{"agentId":12345678901234567890,"useV2Flow":true,"workFolder":"` + layout.WorkerWork + "\"}\n",
	}, {
		summary: "another case",
		content: `{"WorkFolder":"_work"}`,
		want:    `{"workFolder":"` + layout.WorkerWork + "\"}\n",
	}, {
		summary: "none",
		content: `{}`,
		want:    `{"workFolder":"` + layout.WorkerWork + "\"}\n",
	}, {
		summary: "empty", content: "", err: ".runner is not a JSON object",
	}, {
		summary: "null", content: "null", err: ".runner is not a JSON object",
	}, {
		summary: "a list", content: "[]", err: ".runner is not a JSON object",
	}, {
		summary: "too long", content: strings.Repeat(" ", maxRegistration+1), err: ".runner is longer than 65536 bytes",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, ".runner"), []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := readRegistration(dir)
			if test.err != "" {
				want := "cannot read the registration: " + test.err + "; is the appliance registered?"
				if err == nil || err.Error() != want {
					t.Errorf("got %v, want %s", err, want)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %s, %v, want %s", got, err, test.want)
			}
		})
	}
}

// TestRegistrationLink: the runner cannot have the broker read another file.
func TestRegistrationLink(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(`{"secret":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, ".runner")); err != nil {
		t.Fatal(err)
	}
	if got, err := readRegistration(dir); err == nil {
		t.Errorf("got %s", got)
	}
}

// TestWorkerEnviron: what concerns the host does not reach the guest, nor does
// the listener's environment put anything in the place of what the guest has.
func TestWorkerEnviron(t *testing.T) {
	listener := map[string]string{
		"HTTPS_PROXY": "http://p", "no_proxy": "a", "TZ": "UTC", "LC_ALL": "C", "CI": "false",
		"GITHUB_ACTIONS_RUNNER_TLS_NO_VERIFY": "1", "WORKER_LOGSIZE": "5", "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER": "true",
		"DOTNET_ThreadPool_ForceMinWorkerThreads": "20",
		"PATH": "/host", "HOME": "/host", "USER": "root", "LD_PRELOAD": "/x.so", "SECRET": "x", "": "y",
		"ACTIONS_RUNNER_CONTAINER_HOOKS": "/host", "ACTIONS_RUNNER_HOOK_JOB_STARTED": "/host",
		"ACTIONS_RUNNER_INPUT_TOKEN": "x", "RUNNER_GITHUB_URL": "x", "RUNNER_TOOL_CACHE": "/host",
	}
	want := map[string]string{
		"HTTPS_PROXY": "http://p", "no_proxy": "a", "TZ": "UTC", "LC_ALL": "C", "CI": "false",
		"GITHUB_ACTIONS_RUNNER_TLS_NO_VERIFY": "1", "WORKER_LOGSIZE": "5", "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER": "true",
		"DOTNET_ThreadPool_ForceMinWorkerThreads": "20",
		"LANG": "C.UTF-8", "GITHUB_ACTIONS": "true",
		"PATH": layout.Path, "USER": "runner", "LOGNAME": "runner", "SHELL": "/bin/bash",
		"ACTIONS_RUNNER_CONTAINER_HOOKS": layout.WorkerHooks,
	}
	if diff := cmp.Diff(want, workerEnviron(listener, false)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	delete(want, "ACTIONS_RUNNER_CONTAINER_HOOKS")
	if diff := cmp.Diff(want, workerEnviron(listener, true)); diff != "" {
		t.Errorf("environment with docker (-want +got):\n%s", diff)
	}
}

func TestSetupInfo(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"host/usr/lib/os-release": "ID=debian\nIMAGE_ID=runner-amd64\nIMAGE_VERSION=1.2.3\nRUNNER_VERSION=2.337.0\n" +
			"RUNNER_AGENT_VERSION=\"v1.2\"\nRUNNER_AGENT_COMMIT=\"abc\"\n",
		"base/usr/lib/os-release": "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	base := filepath.Join(dir, "base")
	got := setupInfo(filepath.Join(dir, "host"), base)
	want := `[{"group":"Operating System","detail":"Debian GNU/Linux 13 (trixie)"},` +
		`{"group":"Runner Image","detail":"Image: runner-amd64\nVersion: 1.2.3\nActions runner: 2.337.0\n` +
		`Agent: v1.2 (abc)\nGuest base: ` + base + "\"}]\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := setupInfo("/no/such", "/no/such"); got != "" {
		t.Errorf("got %q where nothing is known", got)
	}
}
