package register

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

// Deregistration removes a runner at GitHub, and the registration's files with it.
type Deregistration struct {
	Config *config.Config // of the appliance
	Token  config.Token   // a removal token, or a registration token
	RunDir string         // directory in memory, for root alone to write

	Executor run.Executor // starts systemd-run
	Log      io.Writer    // receives the actions runner's output
}

// IsRegistered reports whether there is a registration to remove.
func (d *Deregistration) IsRegistered() bool {
	return registration{dir: d.Config.ActionsRunnerDir}.isReadable()
}

// Run has the actions runner remove itself. runner.service must not run, or it
// would be the one that finds its registration gone.
func (d *Deregistration) Run(ctx context.Context) error {
	file := filepath.Join(d.RunDir, "deregister.env")
	if err := os.MkdirAll(d.RunDir, 0o755); err != nil {
		return fmt.Errorf("cannot deregister: %w", err)
	}
	if err := atomicfile.Write(file, []byte(d.environment()), 0o600); err != nil {
		return fmt.Errorf("cannot deregister: %w", err)
	}
	defer os.Remove(file)

	output := &relay{to: d.Log, token: d.Token}
	err := d.Executor.Exec(ctx, run.Cmd{Args: d.args(file), Stdout: output, Stderr: output})
	output.flush()
	var exit *run.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit) || len(output.output) == 0:
		return fmt.Errorf("cannot deregister: %w", err)
	}
	return fmt.Errorf("cannot deregister: the actions runner ended with status %d, its last line was: %s; "+
		"check the token, one is valid for 1 hour", exit.Status, output.output[len(output.output)-1])
}

// args returns a transient unit: the actions runner needs its programs beside the
// registration, as runner-install.service binds them.
func (d *Deregistration) args(environment string) []string {
	dir := d.Config.ActionsRunnerDir
	args := []string{"systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--unit=runner-deregister",
		"--property=User=runner", "--property=Group=runner", "--property=NoNewPrivileges=yes",
		"--property=WorkingDirectory=" + dir, "--property=EnvironmentFile=" + environment}
	if dir == layout.ActionsRunner {
		for _, name := range []string{"bin", "externals"} {
			args = append(args, "--property=BindReadOnlyPaths=-"+filepath.Join(layout.ActiveActionsRunner, name)+":"+
				filepath.Join(dir, name))
		}
	}
	// systemd-run looks for the program itself, outside of the unit, where it is not.
	return append(args, "/usr/bin/env", filepath.Join(dir, "bin", "Runner.Listener"), "remove")
}

// environment returns a file for EnvironmentFile=, systemd.exec(5): unlike
// Environment= no user can ask systemd for what is in it.
func (d *Deregistration) environment() string {
	variables := slices.Concat([]string{"LANG=C.UTF-8", "ACTIONS_RUNNER_INPUT_TOKEN=" + d.Token.Reveal()},
		d.Config.CACerts.Environ(), d.Config.Proxy)
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`")

	var text strings.Builder
	for _, v := range variables {
		key, value, _ := strings.Cut(v, "=")
		fmt.Fprintf(&text, "%s=\"%s\"\n", key, quote.Replace(value))
	}
	return text.String()
}
