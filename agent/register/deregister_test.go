package register

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/run/runtest"
)

// deregister runs a removal whose unit prints output and ends with status.
func deregister(t *testing.T, status int, output string) (log, environment string, calls []run.Cmd, err error) {
	t.Helper()
	var written bytes.Buffer
	executor := &runtest.Fake{Handle: func(_ context.Context, c run.Cmd) error {
		for _, arg := range c.Args {
			if file, ok := strings.CutPrefix(arg, "--property=EnvironmentFile="); ok {
				content, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				environment = string(content)
			}
		}
		fmt.Fprint(c.Stdout, output)
		if status != 0 {
			return &run.ExitError{Tool: "systemd-run", Status: status}
		}
		return nil
	}}
	cfg := &config.Config{ActionsRunnerDir: layout.ActionsRunner, Proxy: []string{`https_proxy=http://u:"$x@p:1`}}
	d := &Deregistration{Config: cfg, Token: config.NewToken("SECRET"), RunDir: t.TempDir(), Executor: executor,
		Log: &written}
	err = d.Run(t.Context())
	if files, _ := filepath.Glob(filepath.Join(d.RunDir, "*")); len(files) != 0 {
		t.Errorf("%v is left", files)
	}
	return written.String(), environment, executor.Calls(), err
}

func TestDeregister(t *testing.T) {
	log, environment, calls, err := deregister(t, 0, "removing with SECRET\n")
	if err != nil || log != "runner: removing with [redacted]\n" {
		t.Errorf("got %q, %v", log, err)
	}
	wantEnvironment := `LANG="C.UTF-8"
ACTIONS_RUNNER_INPUT_TOKEN="SECRET"
https_proxy="http://u:\"\$x@p:1"
`
	if environment != wantEnvironment {
		t.Errorf("the environment is\n%s", environment)
	}

	args := strings.Join(calls[0].Args, " ")
	want := "--property=BindReadOnlyPaths=-/run/runner/actions-runner/externals:" +
		"/var/lib/runner/actions-runner/externals /usr/bin/env /var/lib/runner/actions-runner/bin/Runner.Listener remove"
	if !strings.HasSuffix(args, want) || strings.Contains(args, "SECRET") || !strings.Contains(args, "=User=runner ") {
		t.Errorf("got %s", args)
	}
}

func TestDeregisterFails(t *testing.T) {
	_, _, _, err := deregister(t, 1, "connecting\nHttp response code: NotFound\n")
	want := "cannot deregister: the actions runner ended with status 1, its last line was: Http response code: " +
		"NotFound; " +
		"check the token, one is valid for 1 hour"
	if fmt.Sprint(err) != want {
		t.Errorf("got %v", err)
	}
	_, _, _, err = deregister(t, 1, "")
	if want := "cannot deregister: systemd-run failed with status 1"; fmt.Sprint(err) != want {
		t.Errorf("got %v", err)
	}
}
