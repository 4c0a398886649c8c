// Package register registers the runner with GitHub, once. A marker file
// records that it is done. How an interrupted registration differs from the
// wish to register again is in docs/decisions/0003-registration-marker.md.
package register

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
)

// Installer registers the runner of an appliance.
type Installer struct {
	Config    string // path of config.env
	StateDir  string // directory of the marker and of what belongs to it
	WorkDir   string // work directory that the actions runner is configured with
	OSRelease string // path of an os-release(5) with the image's version

	// Credential is the user to register as, who owns the registration's files.
	// nil stands for the calling user.
	Credential *syscall.Credential
	Home       string // HOME of that user, for the actions runner

	Executor run.Executor     // starts the actions runner
	Log      io.Writer        // receives one line an event
	Now      func() time.Time // the time that the marker records
}

// Marker is the content of the marker file, StateDir/installed. The runner is
// registered if and only if the file exists.
type Marker struct {
	Schema       int       `json:"schema"`                  // version of this format, 1
	RegisteredAt time.Time `json:"registered_at"`           // UTC
	Name         string    `json:"name"`                    // RUNNER_NAME
	URL          string    `json:"url"`                     // RUNNER_GITHUB_URL
	ImageVersion string    `json:"image_version,omitempty"` // IMAGE_VERSION of os-release(5)
}

const markerSchema = 1

// MarkerPath returns the path of the marker file.
func (in *Installer) MarkerPath() string { return filepath.Join(in.StateDir, "installed") }

// recordPath returns the path of the record: the fingerprint of the
// registration that the last marker was written for. The record outlives the
// marker, so a registration that is on record and has no marker is one whose
// marker was deleted.
func (in *Installer) recordPath() string { return filepath.Join(in.StateDir, "identity.sha256") }

// savedDir returns the directory that keeps the previous registration while a
// new one is made.
func (in *Installer) savedDir() string { return filepath.Join(in.StateDir, "identity.previous") }

// Run registers the runner unless the marker exists. An error is one line with
// cause and fix, and leaves the runner as it was.
func (in *Installer) Run(ctx context.Context) error {
	unlock, err := in.lock()
	if err != nil {
		return err
	}
	defer unlock()

	cfg, err := in.load()
	if _, statErr := os.Lstat(in.MarkerPath()); statErr == nil {
		in.logf("already registered; delete %s and restart the unit to register again", in.MarkerPath())
		if cfg == nil {
			return nil // a mistake in config.env no longer matters
		}
		return in.record(registration{dir: cfg.ActionsRunnerDir})
	}
	if err != nil {
		return err
	}

	reg := registration{dir: cfg.ActionsRunnerDir, owner: in.Credential}
	if reg.matches(cfg) && reg.fingerprint() != in.recorded() {
		// Power was cut after the actions runner had registered.
		in.logf("the runner is already registered as %s; only its marker is missing", cfg.Name)
	} else if err := in.register(ctx, reg, cfg); err != nil {
		return err
	}
	return in.finish(reg, cfg)
}

// load reads config.env and checks that it suffices for registering.
func (in *Installer) load() (*config.Config, error) {
	cfg, warnings, err := config.Load(in.Config)
	for _, w := range warnings {
		in.logf("warning: %s", w)
	}
	if err != nil {
		return nil, err
	}
	return cfg, cfg.CheckRegistration()
}

// lock keeps a second registration from running beside this one: it fails.
func (in *Installer) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(in.StateDir, ".install.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w; is /var mounted?", in.StateDir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another registration is under way; wait for it: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// register has the actions runner register. If that fails, the previous
// registration is restored.
func (in *Installer) register(ctx context.Context, reg registration, cfg *config.Config) error {
	listener := filepath.Join(cfg.ActionsRunnerDir, "bin", "Runner.Listener")
	if _, err := os.Stat(listener); err != nil {
		return fmt.Errorf("cannot find the actions runner: %w; name its directory in RUNNER_ACTIONS_RUNNER_DIR, "+
			"or bake the image with a runner component", err)
	}

	if reg.isReadable() {
		in.logf("the marker is gone: registering again; the existing registration will be replaced")
		if err := reg.save(in.savedDir()); err != nil {
			return fmt.Errorf("cannot save the existing registration: %w", err)
		}
	}
	// The actions runner refuses to configure itself over its own files.
	if err := reg.remove(); err != nil {
		return err
	}

	in.logf("registering %s with %s", cfg.Name, cfg.GitHubURL)
	err := in.configure(ctx, cfg)
	if err == nil && !reg.matches(cfg) {
		err = fmt.Errorf("the actions runner reports success, but its files in %s are incomplete; "+
			"look for a full disk, the unit tries again by itself", reg.dir)
	}
	if err == nil {
		return nil
	}

	if undo := in.rollBack(reg); undo != nil {
		return fmt.Errorf("%w (and the previous registration could not be restored: %w)", err, undo)
	}
	return err
}

func (in *Installer) rollBack(reg registration) error {
	if err := reg.remove(); err != nil {
		return err
	}
	if err := reg.restore(in.savedDir()); err != nil {
		return err
	}
	return os.RemoveAll(in.savedDir())
}

// finish makes the registration durable, then writes the marker, then the
// record. A power cut between two of them is harmless in this order alone.
func (in *Installer) finish(reg registration, cfg *config.Config) error {
	if err := reg.sync(); err != nil {
		return err
	}

	data, err := json.Marshal(Marker{
		Schema:       markerSchema,
		RegisteredAt: in.Now().UTC(),
		Name:         cfg.Name,
		URL:          cfg.GitHubURL,
		ImageVersion: imageVersion(in.OSRelease),
	})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(in.MarkerPath(), append(data, '\n'), 0o644); err != nil {
		return err
	}

	in.logf("registered as %s", cfg.Name)
	return in.record(reg)
}

// record puts the registration that has a marker on record and removes the
// saved one. It runs at every start, in case power was cut right after the
// marker was written.
func (in *Installer) record(reg registration) error {
	if now := reg.fingerprint(); now != "" && now != in.recorded() {
		if err := atomicfile.Write(in.recordPath(), []byte(now+"\n"), 0o600); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(in.savedDir()); err != nil {
		return fmt.Errorf("cannot remove the saved registration: %w", err)
	}
	return nil
}

// recorded returns the fingerprint on record, or "" if there is none.
func (in *Installer) recorded() string {
	data, err := os.ReadFile(in.recordPath())
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// configureArgs returns the argument vector that configures the actions runner.
// The token is not in it: every user of the appliance may read it.
func configureArgs(cfg *config.Config, work string) []string {
	args := []string{
		filepath.Join(cfg.ActionsRunnerDir, "bin", "Runner.Listener"), "configure", "--unattended",
		"--url", cfg.GitHubURL, "--name", cfg.Name, "--work", work, "--replace", "--disableupdate",
	}
	if len(cfg.Labels) > 0 {
		args = append(args, "--labels", strings.Join(cfg.Labels, ","))
	}
	if cfg.Group != "" {
		args = append(args, "--runnergroup", cfg.Group)
	}
	return args
}

// configureEnv returns the whole environment for configureArgs. The actions
// runner also takes each option from ACTIONS_RUNNER_INPUT_NAME, and clears the
// variable once it has read it.
func configureEnv(cfg *config.Config, home string) []string {
	env := []string{
		"PATH=" + layout.Path,
		"HOME=" + home,
		"LANG=C.UTF-8",
		"ACTIONS_RUNNER_INPUT_TOKEN=" + cfg.Token.Reveal(),
	}
	return slices.Concat(env, cfg.CACerts.Environ(), cfg.Proxy)
}

// configure runs the actions runner once to register. Its output goes to the
// log.
func (in *Installer) configure(ctx context.Context, cfg *config.Config) error {
	relay := &relay{to: in.Log, token: cfg.Token}
	err := in.Executor.Exec(ctx, run.Cmd{
		Args:        configureArgs(cfg, in.WorkDir),
		Dir:         cfg.ActionsRunnerDir,
		Env:         configureEnv(cfg, in.Home),
		Stdout:      relay,
		Stderr:      relay,
		SysProcAttr: in.sysProcAttr(),
	})
	relay.flush()
	if err == nil {
		return nil
	}

	if ctx.Err() != nil {
		return errors.New("registration was stopped before it was done; it starts over with the next start of the unit")
	}
	var exit *run.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("cannot start the actions runner: %w; "+
			"bake the image again with a runner for this architecture", err)
	}
	return explain(relay.output, exit.Status, cfg)
}

func (in *Installer) sysProcAttr() *syscall.SysProcAttr {
	if in.Credential == nil {
		return nil
	}
	return &syscall.SysProcAttr{Credential: in.Credential}
}

func (in *Installer) logf(format string, args ...any) { fmt.Fprintf(in.Log, format+"\n", args...) }

// imageVersion returns IMAGE_VERSION of an os-release(5), or "" if it has none.
func imageVersion(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "IMAGE_VERSION="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}
