// Package config reads /etc/runner/config.env, the one file an operator
// writes. Its syntax is that of systemd's EnvironmentFile=, systemd.exec(5).
package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// DefaultPath is where the appliance keeps the file.
const DefaultPath = "/etc/runner/config.env"

// Config is what config.env says, with defaults filled in.
type Config struct {
	GitHubURL string // owner, repository or enterprise, no slash at the end; "" if not given
	Token     Token  // registration token; may be absent once registered
	Name      string // runner name, unique within its group
	Labels    []string
	Group     string // runner group; "" for the default one

	ActionsRunnerDir    string // the runner's writable root directory
	HooksDir            string // holds container-hooks.sh
	RequireJobContainer bool   // refuse jobs that have no container

	BaseRootfs   string        // tree of the base guest
	ReadyTimeout time.Duration // how long a guest may take to start
	Bind, BindRO []Bind        // host directories shown in every guest
	Guests       Guests

	// Proxy holds http_proxy, https_proxy and no_proxy as environment
	// assignments, for what talks to GitHub.
	Proxy []string

	file               string
	urlLine, tokenLine int
}

// Bind shows the host's Source as Target in a guest.
type Bind struct{ Source, Target string }

const (
	defaultActionsRunnerDir = "/var/lib/runner/actions-runner"
	defaultHooksDir         = "/usr/local/lib/runner"
	defaultBaseRootfs       = "/usr/lib/runner/base"
	defaultReadyTimeout     = 120 * time.Second
	maxReadyTimeout         = time.Hour
)

// setting takes the value of one key. It returns what is wrong and how to fix
// it, without the place.
type setting func(c *Config, value string) error

var settings = addGuests(map[string]setting{
	"RUNNER_GITHUB_URL": func(c *Config, v string) (err error) {
		c.GitHubURL, err = parseGitHubURL(v)
		return err
	},
	"RUNNER_REGISTRATION_TOKEN": func(c *Config, v string) (err error) {
		c.Token, err = parseToken(v)
		return err
	},
	"RUNNER_NAME": func(c *Config, v string) error {
		if !namePattern.MatchString(v) {
			return errors.New("RUNNER_NAME is not 1 to 64 letters, digits, dots, dashes or underscores; choose such a name")
		}
		c.Name = v
		return nil
	},
	"RUNNER_LABELS": func(c *Config, v string) (err error) {
		c.Labels, err = parseLabels(v)
		return err
	},
	"RUNNER_GROUP": func(c *Config, v string) error { c.Group = v; return nil },
	"RUNNER_ACTIONS_RUNNER_DIR": func(c *Config, v string) error {
		return setPath(&c.ActionsRunnerDir, "RUNNER_ACTIONS_RUNNER_DIR", v)
	},
	"RUNNER_HOOKS_DIR": func(c *Config, v string) error {
		return setPath(&c.HooksDir, "RUNNER_HOOKS_DIR", v)
	},
	"RUNNER_REQUIRE_JOB_CONTAINER": boolOf("RUNNER_REQUIRE_JOB_CONTAINER", func(c *Config) *bool { return &c.RequireJobContainer }),
	"RUNNER_NSPAWN_BASE_ROOTFS": func(c *Config, v string) error {
		return setPath(&c.BaseRootfs, "RUNNER_NSPAWN_BASE_ROOTFS", v)
	},
	"RUNNER_NSPAWN_READY_TIMEOUT_S": func(c *Config, v string) error {
		n, err := strconv.Atoi(v)
		if d := time.Duration(n) * time.Second; err == nil && n > 0 && n <= int(maxReadyTimeout/time.Second) {
			c.ReadyTimeout = d
			return nil
		}
		return fmt.Errorf("RUNNER_NSPAWN_READY_TIMEOUT_S is not a number of seconds from 1 to %d; write for example 120", maxReadyTimeout/time.Second)
	},
	"RUNNER_NSPAWN_BIND": func(c *Config, v string) (err error) {
		c.Bind, err = parseBinds("RUNNER_NSPAWN_BIND", v)
		return err
	},
	"RUNNER_NSPAWN_BIND_RO": func(c *Config, v string) (err error) {
		c.BindRO, err = parseBinds("RUNNER_NSPAWN_BIND_RO", v)
		return err
	},
})

// baked are keys of appliances that installed themselves at boot, with what
// does their work here.
var baked = map[string]string{
	"RUNNER_BOOTSTRAP_REPO_URL": "nothing is fetched at boot; put the files into an overlay named by images.toml and bake the image again",
	"RUNNER_BOOTSTRAP_REPO_REF": "nothing is fetched at boot; put the files into an overlay named by images.toml and bake the image again",
	"APPLIANCE_APT_PACKAGES":    "no package is installed at boot; add the names to packages in images.toml and bake the image again",
}

var (
	namePattern  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	labelPattern = regexp.MustCompile(`^[^\s,]{1,256}$`)
	ownerPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

// Load reads the file at path. The warnings are for the journal, one line
// each. An error names file, line, and what to do, and never holds the token.
func Load(path string) (*Config, []string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s: there is no such file; write it, for example by cloud-init's write_files, with RUNNER_GITHUB_URL and RUNNER_REGISTRATION_TOKEN", path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	c, warnings, err := Parse(path, data)
	if err != nil {
		return nil, warnings, err
	}
	if c.Name == "" {
		c.Name, err = defaultName()
	}
	return c, warnings, err
}

// Parse reads the content of a config.env; name stands for it in messages.
func Parse(name string, data []byte) (*Config, []string, error) {
	entries, err := parseEnvFile(name, data)
	if err != nil {
		return nil, nil, err
	}
	c := defaults(name)
	var warnings []string
	seen := map[string]int{}
	for _, e := range entries {
		at := fmt.Sprintf("%s:%d: ", name, e.line)
		if first, ok := seen[e.key]; ok {
			return nil, warnings, fmt.Errorf("%s%s is set again, first in line %d; keep one of the two lines", at, e.key, first)
		}
		seen[e.key] = e.line
		warning, err := c.set(e)
		if err != nil {
			return nil, warnings, fmt.Errorf("%s%w", at, err)
		}
		if warning != "" {
			warnings = append(warnings, at+warning)
		}
	}
	c.urlLine, c.tokenLine = seen["RUNNER_GITHUB_URL"], seen["RUNNER_REGISTRATION_TOKEN"]
	return c, warnings, nil
}

// FromEnviron makes a Config of the environment that systemd read from
// config.env for a unit whose user may not read the file. Other variables are
// passed over.
func FromEnviron(environ []string) (*Config, error) {
	c := defaults("environment")
	for _, assignment := range environ {
		key, value, _ := strings.Cut(assignment, "=")
		if _, ok := settings[key]; !ok && !isProxy(key) {
			continue
		}
		if _, err := c.set(entry{key: key, value: value}); err != nil {
			return nil, fmt.Errorf("environment: %w", err)
		}
	}
	return c, nil
}

func defaults(file string) *Config {
	return &Config{
		ActionsRunnerDir: defaultActionsRunnerDir,
		HooksDir:         defaultHooksDir,
		BaseRootfs:       defaultBaseRootfs,
		ReadyTimeout:     defaultReadyTimeout,
		Guests:           defaultGuests(),
		// Steps on the host are not isolated from it.
		RequireJobContainer: true,
		file:                file,
	}
}

// set takes one assignment. An empty value means the default, so that a line
// can be emptied instead of deleted.
func (c *Config) set(e entry) (warning string, err error) {
	if strings.IndexFunc(e.value, isControl) >= 0 {
		return "", fmt.Errorf("the value of %s has a line break or another control character in it; look for a quote or a backslash that joins lines", e.key)
	}
	if set, ok := settings[e.key]; ok {
		if e.value == "" {
			return "", nil
		}
		return "", set(c, e.value)
	}
	if instead, ok := baked[e.key]; ok {
		return fmt.Sprintf("%s is not used by this appliance: %s", e.key, instead), nil
	}
	if isProxy(e.key) {
		c.Proxy = append(c.Proxy, e.key+"="+e.value)
		return "", nil
	}
	if strings.HasPrefix(strings.ToUpper(e.key), "RUNNER_") {
		return "", fmt.Errorf("unknown key %s; %s", e.key, suggestion(e.key))
	}
	return fmt.Sprintf("%s is not used by this appliance; remove the line", e.key), nil
}

// CheckRegistration tells whether c holds what registering needs.
func (c *Config) CheckRegistration() error {
	if c.GitHubURL == "" {
		return c.missing("RUNNER_GITHUB_URL", c.urlLine, "write RUNNER_GITHUB_URL=https://github.com/OWNER or https://github.com/OWNER/REPOSITORY")
	}
	if !c.Token.IsSet() {
		return c.missing("RUNNER_REGISTRATION_TOKEN", c.tokenLine, tokenSource)
	}
	return nil
}

func (c *Config) missing(key string, line int, fix string) error {
	if line > 0 {
		return fmt.Errorf("%s:%d: %s is empty; %s", c.file, line, key, fix)
	}
	return fmt.Errorf("%s: %s is missing; %s", c.file, key, fix)
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func isProxy(key string) bool {
	switch strings.ToLower(key) {
	case "http_proxy", "https_proxy", "no_proxy":
		return true
	}
	return false
}

// parseGitHubURL wants the address of what the runner serves, as a browser
// shows it: https://HOST/OWNER, /OWNER/REPOSITORY or /enterprises/NAME.
func parseGitHubURL(v string) (string, error) {
	const fix = "write https://github.com/OWNER or https://github.com/OWNER/REPOSITORY"
	u, err := url.Parse(v)
	switch {
	case err != nil: // the cause would quote the value, which may hold a password
		return "", fmt.Errorf("RUNNER_GITHUB_URL is not a URL; %s", fix)
	case u.Scheme != "https" && u.Scheme != "http":
		return "", fmt.Errorf("RUNNER_GITHUB_URL does not begin with https://; %s", fix)
	case u.Hostname() == "":
		return "", fmt.Errorf("RUNNER_GITHUB_URL names no host; %s", fix)
	case u.User != nil:
		return "", fmt.Errorf("RUNNER_GITHUB_URL holds a user name or password; %s, and the token in RUNNER_REGISTRATION_TOKEN", fix)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", fmt.Errorf("RUNNER_GITHUB_URL has a '?' or '#' part; %s", fix)
	}
	path := strings.Trim(u.Path, "/")
	if isAPI(u.Hostname(), path) {
		return "", fmt.Errorf("RUNNER_GITHUB_URL is an address of GitHub's API, but the runner wants the page it will serve; %s", fix)
	}
	if err := checkOwnerPath(path, fix); err != nil {
		return "", err
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + "/" + path, nil
}

func isAPI(host, path string) bool {
	return strings.HasPrefix(strings.ToLower(host), "api.") || path == "api/v3" || strings.HasPrefix(path, "api/v3/")
}

func checkOwnerPath(path, fix string) error {
	if path == "" {
		return fmt.Errorf("RUNNER_GITHUB_URL names no owner; %s", fix)
	}
	parts := strings.Split(path, "/")
	for _, p := range parts {
		if !ownerPattern.MatchString(p) || p == "." || p == ".." {
			return fmt.Errorf("RUNNER_GITHUB_URL names no valid owner or repository; %s", fix)
		}
	}
	switch {
	case parts[0] == "enterprises" && len(parts) == 1:
		return errors.New("RUNNER_GITHUB_URL names no enterprise; write https://github.com/enterprises/NAME")
	case len(parts) > 2:
		return fmt.Errorf("RUNNER_GITHUB_URL goes on after the repository; %s", fix)
	case strings.HasSuffix(path, ".git"):
		return errors.New("RUNNER_GITHUB_URL is a clone address; leave out the .git at its end")
	}
	return nil
}

func parseLabels(v string) ([]string, error) {
	labels := strings.Split(v, ",")
	for i := range labels {
		labels[i] = strings.TrimSpace(labels[i])
		if !labelPattern.MatchString(labels[i]) {
			return nil, errors.New("RUNNER_LABELS is not a list of labels; write for example RUNNER_LABELS=gpu,rack-4, without blanks inside a label")
		}
	}
	return labels, nil
}

// machineIDPath names the installation, machine-id(5).
const machineIDPath = "/etc/machine-id"

// defaultName is the host name. The name an image is born with would be the
// same on every appliance, and registering replaces a runner of the same name,
// so that one is told apart by the machine id (hashed, as machine-id(5) asks).
func defaultName() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("cannot find a runner name: %w", err)
	}
	if host != "" && host != "localhost" && host != "runner" {
		return host, nil
	}
	id, err := os.ReadFile(machineIDPath)
	if err != nil {
		return "", fmt.Errorf("cannot find a runner name: %w; set RUNNER_NAME", err)
	}
	sum := sha256.Sum256(append([]byte("runner-name:"), id...))
	return fmt.Sprintf("runner-%x", sum[:4]), nil
}
