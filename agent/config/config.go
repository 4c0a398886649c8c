// Package config reads /etc/runner/config.env, the one file an operator
// writes. Its syntax is that of systemd's EnvironmentFile=, systemd.exec(5).
package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Config is the content of config.env, with defaults filled in.
type Config struct {
	GitHubURL string   // owner, repository or enterprise, no slash at the end; "" if not set
	Token     Token    // registration token; may be absent once registered
	Name      string   // runner name, unique within its group
	Labels    []string // labels beyond those that the actions runner sets itself
	Group     string   // runner group; "" for the default one

	ActionsRunnerDir string // the actions runner's writable root directory
	HooksDir         string // holds container-hooks.sh
	Jobs             Jobs   // where jobs run
	// Containers is how the worker asks for the containers of jobs.
	Containers Containers

	BaseRootfs   string        // guest base
	ReadyTimeout time.Duration // how long a guest may take to start
	Bind, BindRO []Bind        // host directories shown in every guest, writable and read-only
	Guests       Guests        // guests of container jobs
	Upgrade      Upgrade       // upgrades of the image

	// CACerts are trusted besides the authorities of the system.
	CACerts CACerts

	// Proxy holds http_proxy, https_proxy and no_proxy as environment
	// assignments, for the programs that talk to GitHub.
	Proxy []string

	file  string         // source, for messages
	lines map[string]int // of the keys that the file has
}

// Bind is a directory of the host that every guest sees. Both paths are
// absolute and clean.
type Bind struct {
	Source string // on the host
	Target string // in the guest
}

// Load reads the file at path. The warnings are for the journal, one line
// each. An error names file, line and fix, and never holds the token.
func Load(path string) (*Config, []string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s: there is no such file; write it, for example by cloud-init's write_files, "+
			"with RUNNER_GITHUB_URL and RUNNER_REGISTRATION_TOKEN", path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read configuration: %w", err)
	}

	c, warnings, err := Parse(path, data)
	if err != nil {
		return nil, warnings, err
	}

	warning, err := c.readCACerts(time.Now())
	if err != nil {
		return nil, warnings, err
	}
	if warning != "" {
		warnings = append(warnings, warning)
	}
	if c.Name == "" {
		c.Name, err = defaultName()
	}
	return c, warnings, err
}

// Parse reads the content of a config.env; name stands for it in messages.
// Warnings and errors are those of Load.
func Parse(name string, data []byte) (*Config, []string, error) {
	entries, err := parseEnvFile(name, data)
	if err != nil {
		return nil, nil, err
	}

	c := newConfig(name)
	var warnings []string
	seen := map[string]int{}
	values := map[string]string{}
	for _, e := range entries {
		at := fmt.Sprintf("%s:%d: ", name, e.line)
		if first, ok := seen[e.key]; ok {
			return nil, warnings, fmt.Errorf("%s%s is set again, first in line %d; keep one of the two lines",
				at, e.key, first)
		}
		seen[e.key], values[e.key] = e.line, e.value

		warning, err := c.set(e)
		if err != nil {
			return nil, warnings, fmt.Errorf("%s%w", at, err)
		}
		if warning != "" {
			warnings = append(warnings, at+warning)
		}
	}

	c.lines = seen
	warning, err := c.replaceRequireContainer(values)
	if err != nil {
		return nil, warnings, fmt.Errorf("%s%w", c.at(keyRequireContainer), err)
	}
	if warning != "" {
		warnings = append(warnings, c.at(keyRequireContainer)+warning)
	}
	if err := c.settleContainers(); err != nil {
		return nil, warnings, fmt.Errorf("%s%w", c.at(keyContainers), err)
	}
	return c, warnings, nil
}

// FromEnviron returns the Config of an environment that systemd read from
// config.env, for a unit whose user may not read the file. It ignores other
// variables.
func FromEnviron(environ []string) (*Config, error) {
	c := newConfig("environment")
	values := map[string]string{}
	for _, assignment := range environ {
		key, value, _ := strings.Cut(assignment, "=")
		if _, ok := c.setting(key); !ok && !isProxy(key) {
			continue
		}
		if _, err := c.set(entry{key: key, value: value}); err != nil {
			return nil, fmt.Errorf("environment: %w", err)
		}
		values[key] = value
	}
	if _, err := c.replaceRequireContainer(values); err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	if err := c.settleContainers(); err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	return c, nil
}

// newConfig returns the defaults; file stands for their source in messages.
func newConfig(file string) *Config {
	c := &Config{file: file}
	for _, s := range c.settings() {
		if s.initial == "" {
			continue
		}
		if err := s.value.set(s.initial); err != nil {
			panic(fmt.Sprintf("default of %s: %v", s.key, err)) // a constant of settings
		}
	}
	return c
}

// set applies one assignment. An empty value means the default, so that a line
// can be emptied instead of deleted.
func (c *Config) set(e entry) (warning string, err error) {
	if strings.IndexFunc(e.value, isControl) >= 0 {
		return "", fmt.Errorf("the value of %s has a line break or another control character in it; "+
			"look for a quote or a backslash that joins lines", e.key)
	}

	if s, ok := c.setting(e.key); ok {
		if e.value == "" {
			return "", nil
		}
		if err := s.value.set(e.value); err != nil {
			return "", fmt.Errorf("%s %w", e.key, err)
		}
		return "", nil
	}

	if instead, ok := retiredKeys[e.key]; ok {
		return fmt.Sprintf("%s is not used by this appliance: %s", e.key, instead), nil
	}
	if isProxy(e.key) {
		c.Proxy = append(c.Proxy, e.key+"="+e.value)
		return "", nil
	}
	if strings.HasPrefix(strings.ToUpper(e.key), "RUNNER_") {
		return "", fmt.Errorf("unknown key %s; %s", e.key, c.suggestion(e.key))
	}
	return fmt.Sprintf("%s is not used by this appliance; remove the line", e.key), nil
}

// CheckRegistration returns an error with place and fix if c lacks what
// registering needs.
func (c *Config) CheckRegistration() error {
	if c.GitHubURL == "" {
		return c.missing(keyGitHubURL, c.lines[keyGitHubURL], "write RUNNER_GITHUB_URL=https://github.com/OWNER "+
			"or https://github.com/OWNER/REPOSITORY")
	}
	if !c.Token.IsSet() {
		return c.missing(keyToken, c.lines[keyToken], tokenSource)
	}
	// An appliance that is registered goes on without them: its network may not
	// need them.
	if message, all := c.CACerts.expired(time.Now()); all {
		return fmt.Errorf("%s%s %s", c.at(keyCACerts), keyCACerts, message)
	}
	return nil
}

// at returns the place of a key for the beginning of a message.
func (c *Config) at(key string) string { return fmt.Sprintf("%s:%d: ", c.file, c.lines[key]) }

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

// machineIDPath names the installation, machine-id(5).
const machineIDPath = "/etc/machine-id"

// defaultName returns the host name. The host name of the image itself would
// be the same on every appliance, and registering replaces a runner of the same
// name; part of the hashed machine id takes its place. machine-id(5) asks for
// the hash.
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
