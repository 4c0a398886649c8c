// Package register registers the runner with GitHub, once. How it tells an
// interrupted registration from the wish to register again is written down in
// docs/decisions/0003-registration-marker.md.
package register

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/run"
)

// Installer holds where things are and how to do them.
type Installer struct {
	Config    string // path of config.env
	StateDir  string // holds the marker and what belongs to it
	WorkDir   string // the runner's work root
	OSRelease string // os-release(5), for the image version

	// Credential is the user to register as, who owns the identity; nil
	// means the calling one. Home is that user's home directory.
	Credential *syscall.Credential
	Home       string

	Executor run.Executor
	Log      io.Writer // one line per event
	Now      func() time.Time
}

// Marker is the content of StateDir/installed. Its presence means: registered.
type Marker struct {
	Schema       int       `json:"schema"`
	RegisteredAt time.Time `json:"registered_at"`
	Name         string    `json:"name"`
	URL          string    `json:"url"`
	ImageVersion string    `json:"image_version,omitempty"` // IMAGE_VERSION of os-release(5)
}

const markerSchema = 1

// MarkerPath is the file that says that registration is done.
func (in *Installer) MarkerPath() string { return filepath.Join(in.StateDir, "installed") }

// recordPath names the identity the last marker was written for, by its
// fingerprint. It outlives the marker: an identity that is on record but has
// no marker is one whose marker was deleted.
func (in *Installer) recordPath() string { return filepath.Join(in.StateDir, "identity.sha256") }

// savedDir holds the identity that stood before, while a new one is fetched.
func (in *Installer) savedDir() string { return filepath.Join(in.StateDir, "identity.previous") }

// Run registers the runner unless the marker says that it is registered. Its
// error is one line that says what is wrong and what to do, and leaves the
// runner as it was.
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
			return nil // what config.env says no longer matters
		}
		return in.tidy(identity{dir: cfg.ActionsRunnerDir})
	}
	if err != nil {
		return err
	}
	id := identity{dir: cfg.ActionsRunnerDir, owner: in.Credential}
	if id.complete(cfg) && id.fingerprint() != in.recorded() {
		in.logf("the runner is configured already, as %s, but for its marker", cfg.Name)
	} else if err := in.register(ctx, id, cfg); err != nil {
		return err
	}
	return in.finish(id, cfg)
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

// lock makes two installs at once impossible; the second one fails.
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

// register runs the runner's configure. When it fails, the identity that
// stood before stands again.
func (in *Installer) register(ctx context.Context, id identity, cfg *config.Config) error {
	listener := filepath.Join(cfg.ActionsRunnerDir, "bin", "Runner.Listener")
	if _, err := os.Stat(listener); err != nil {
		return fmt.Errorf("cannot find the actions runner: %w; name its directory in RUNNER_ACTIONS_RUNNER_DIR, or bake the image with a runner component", err)
	}
	if id.whole() {
		in.logf("the marker is gone: registering again, in place of the identity that stands")
		if err := id.save(in.savedDir()); err != nil {
			return fmt.Errorf("cannot keep the present identity: %w", err)
		}
	}
	if err := id.remove(); err != nil {
		return err
	}
	in.logf("registering %s with %s", cfg.Name, cfg.GitHubURL)
	err := in.configure(ctx, cfg)
	if err == nil && !id.complete(cfg) {
		err = fmt.Errorf("the runner says it is registered, but its files in %s are incomplete; look for a full disk, the unit tries again by itself", id.dir)
	}
	if err == nil {
		return nil
	}
	if undo := in.rollBack(id); undo != nil {
		return fmt.Errorf("%w (and the identity that stood before could not be put back: %v)", err, undo)
	}
	return err
}

func (in *Installer) rollBack(id identity) error {
	if err := id.remove(); err != nil {
		return err
	}
	if err := id.restore(in.savedDir()); err != nil {
		return err
	}
	return os.RemoveAll(in.savedDir())
}

// finish makes the identity durable, then writes the marker, then the rest.
func (in *Installer) finish(id identity, cfg *config.Config) error {
	if err := id.sync(); err != nil {
		return err
	}
	m := Marker{Schema: markerSchema, RegisteredAt: in.Now().UTC(), Name: cfg.Name, URL: cfg.GitHubURL, ImageVersion: imageVersion(in.OSRelease)}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(in.MarkerPath(), append(data, '\n'), 0o644); err != nil {
		return err
	}
	in.logf("registered as %s", cfg.Name)
	return in.tidy(id)
}

// tidy puts the identity that has a marker on record and drops the saved one.
// It runs at every start, so a power cut right after the marker does no harm.
func (in *Installer) tidy(id identity) error {
	if now := id.fingerprint(); now != "" && now != in.recorded() {
		if err := atomicfile.Write(in.recordPath(), []byte(now+"\n"), 0o600); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(in.savedDir()); err != nil {
		return fmt.Errorf("cannot drop the old identity: %w", err)
	}
	return nil
}

// recorded is the fingerprint on record; "" if there is none.
func (in *Installer) recorded() string {
	data, err := os.ReadFile(in.recordPath())
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// configureArgs is the argument vector of the runner's configure. The token is
// not in it: every user of the machine may read it.
func configureArgs(cfg *config.Config, work string) []string {
	args := []string{filepath.Join(cfg.ActionsRunnerDir, "bin", "Runner.Listener"), "configure", "--unattended",
		"--url", cfg.GitHubURL, "--name", cfg.Name, "--work", work, "--replace", "--disableupdate"}
	if len(cfg.Labels) > 0 {
		args = append(args, "--labels", strings.Join(cfg.Labels, ","))
	}
	if cfg.Group != "" {
		args = append(args, "--runnergroup", cfg.Group)
	}
	return args
}

// configureEnv is its whole environment. The runner takes every option from
// ACTIONS_RUNNER_INPUT_NAME too, and clears the variable after reading it.
func configureEnv(cfg *config.Config, home string) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + home,
		"LANG=C.UTF-8",
		"ACTIONS_RUNNER_INPUT_TOKEN=" + cfg.Token.Reveal(),
	}
	return append(env, cfg.Proxy...)
}

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
		return fmt.Errorf("cannot start the actions runner: %w; bake the image again with a runner for this architecture", err)
	}
	return explain(relay.said, exit.Status, cfg)
}

func (in *Installer) sysProcAttr() *syscall.SysProcAttr {
	if in.Credential == nil {
		return nil
	}
	return &syscall.SysProcAttr{Credential: in.Credential}
}

func (in *Installer) logf(format string, args ...any) { fmt.Fprintf(in.Log, format+"\n", args...) }

// imageVersion reads IMAGE_VERSION of os-release(5); "" if there is none.
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
