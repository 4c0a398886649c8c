package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/size"
)

// setting is one key of config.env.
type setting struct {
	key string
	// initial is the value, as config.env would write it, that holds if the file
	// does not set the key. "" leaves the field as it is.
	initial string
	value   value
}

// value is the field that a key sets. The error of set says what is wrong and
// how to fix it; its caller puts place and key before it. It never holds v
// where v may be a secret.
type value interface {
	set(v string) error
}

// settings returns the keys of config.env, bound to the fields of c.
// docs/config.env.md describes them.
func (c *Config) settings() []setting {
	g := &c.Guests
	return []setting{
		{key: keyGitHubURL, value: parsed[string]{&c.GitHubURL, parseGitHubURL}},
		{key: keyToken, value: parsed[Token]{&c.Token, parseToken}},
		{key: "RUNNER_NAME", value: parsed[string]{&c.Name, parseName}},
		{key: "RUNNER_LABELS", value: parsed[[]string]{&c.Labels, parseLabels}},
		{key: "RUNNER_GROUP", value: text{&c.Group}},

		{key: keyCACerts, value: parsed[string]{&c.CACerts.File, parseCACertsFile}},

		{key: "RUNNER_ACTIONS_RUNNER_DIR", initial: layout.ActionsRunner,
			value: directory{&c.ActionsRunnerDir, layout.ActionsRunner}},
		{key: "RUNNER_HOOKS_DIR", initial: hooksDir, value: directory{&c.HooksDir, hooksDir}},
		{key: keyJobs, initial: string(defaultJobs), value: parsed[Jobs]{&c.Jobs, parseJobs}},
		{key: keyRequireContainer, value: truth{new(bool)}}, // see replaceRequireContainer
		{key: keyContainers, value: parsed[Containers]{&c.Containers, parseContainers}},

		{key: "RUNNER_NSPAWN_BASE_ROOTFS", initial: layout.GuestBase, value: directory{&c.BaseRootfs, layout.GuestBase}},
		{key: "RUNNER_NSPAWN_READY_TIMEOUT_S", initial: "120",
			value: seconds{&c.ReadyTimeout, time.Hour, "120"}},
		{key: "RUNNER_NSPAWN_BIND", value: parsed[[]Bind]{&c.Bind, parseBinds}},
		{key: "RUNNER_NSPAWN_BIND_RO", value: parsed[[]Bind]{&c.BindRO, parseBinds}},
		{key: "RUNNER_NSPAWN_DEVICES", value: parsed[[]string]{&g.Devices, parseDevices}},

		{key: "RUNNER_GUEST_SUBNET", value: parsed[netip.Prefix]{&g.Subnet, parseSubnet}},
		{key: "RUNNER_GUEST_ALLOW", value: parsed[[]netip.Prefix]{&g.Allow, parsePrefixes}},
		{key: "RUNNER_IMAGES", value: parsed[map[string]string]{&g.Images, parseImages}},
		{key: "RUNNER_INSECURE_REGISTRIES", value: parsed[[]string]{&g.Insecure, parseRegistries}},
		{key: "RUNNER_IMAGE_CACHE", initial: "20G", value: byteCount{&g.ImageCache}},
		{key: "RUNNER_SPARE_GUEST", initial: "true", value: truth{&g.Spare}},
		{key: "RUNNER_KEEP_WORK", initial: "false", value: truth{&g.KeepWork}},
		{key: "RUNNER_TOOL_CACHE_WRITABLE", initial: "false", value: truth{&g.KeepTools}},
		{key: "RUNNER_VOLUMES", value: parsed[[]string]{&g.Volumes, parseVolumes}},

		{key: "RUNNER_JOB_MEMORY", value: byteCount{&g.Memory}},
		{key: "RUNNER_JOB_DISK", value: byteCount{&g.Disk}},
		// 64 processes are the guest's own.
		{key: "RUNNER_JOB_PIDS", initial: "16384", value: count{&g.Pids, 64, 4 << 20, "16384"}},
		{key: "RUNNER_JOB_CPUS", value: decimal{&g.CPUs, 0.1, 4096, "2 or 1.5"}},
		{key: "RUNNER_JOB_TIMEOUT_S", value: seconds{&g.Timeout, 30 * 24 * time.Hour, "21600"}},

		{key: "RUNNER_UPGRADE_SOURCE", value: parsed[string]{&c.Upgrade.Source, parseSource}},
		{key: "RUNNER_UPGRADE_CHANNEL", initial: "stable", value: parsed[string]{&c.Upgrade.Channel, parseChannel}},
		{key: "RUNNER_UPGRADE_USB", initial: "true", value: truth{&c.Upgrade.USB}},
		{key: "RUNNER_UPGRADE_WINDOW", value: parsed[Window]{&c.Upgrade.Window, parseWindow}},
		{key: "RUNNER_UPGRADE_ACTIONS_RUNNER", value: parsed[Renewal]{&c.Upgrade.ActionsRunner, parseRenewal}},
	}
}

// Keys that more than the table speaks of.
const (
	keyGitHubURL = "RUNNER_GITHUB_URL"
	keyToken     = "RUNNER_REGISTRATION_TOKEN"
	keyJobs      = "RUNNER_JOBS"
	keyCACerts   = "RUNNER_CA_CERTS"

	keyContainers       = "RUNNER_CONTAINERS"
	keyRequireContainer = "RUNNER_REQUIRE_JOB_CONTAINER"
)

// hooksDir holds the hook as the image carries it.
const hooksDir = "/usr/local/lib/runner"

// setting returns the setting of key, bound to the fields of c.
func (c *Config) setting(key string) (setting, bool) {
	for _, s := range c.settings() {
		if s.key == key {
			return s, true
		}
	}
	return setting{}, false
}

// retiredKeys are keys of appliances that installed themselves at boot, with
// what does their work here.
var retiredKeys = map[string]string{
	"RUNNER_BOOTSTRAP_REPO_URL": "nothing is fetched at boot; put the files into an overlay named by images.toml " +
		"and bake the image again",
	"RUNNER_BOOTSTRAP_REPO_REF": "nothing is fetched at boot; put the files into an overlay named by images.toml " +
		"and bake the image again",
	"APPLIANCE_APT_PACKAGES": "no package is installed at boot; add the names to packages in images.toml " +
		"and bake the image again",
}

// parsed is a value with a syntax of its own, which parse reads.
type parsed[T any] struct {
	to    *T
	parse func(v string) (T, error)
}

func (p parsed[T]) set(v string) error {
	t, err := p.parse(v)
	if err != nil {
		return err
	}
	*p.to = t
	return nil
}

// text is any text.
type text struct{ to *string }

func (t text) set(v string) error {
	*t.to = v
	return nil
}

// truth is true or false.
type truth struct{ to *bool }

func (t truth) set(v string) error {
	if v != "true" && v != "false" {
		return errors.New("is neither true nor false; write one of them")
	}
	*t.to = v == "true"
	return nil
}

// directory is an absolute, clean path other than /.
type directory struct {
	to      *string
	example string
}

func (d directory) set(v string) error {
	if !cleanAbsolute(v) || v == "/" {
		return fmt.Errorf("is not an absolute path in its shortest form; write for example %s", d.example)
	}
	*d.to = v
	return nil
}

// byteCount is a size, such as 8G.
type byteCount struct{ to *int64 }

func (b byteCount) set(v string) error {
	n, err := size.Parse(v, "KMGT")
	switch {
	case errors.Is(err, size.ErrRange):
		return fmt.Errorf("%w; write a size such as 8G", err)
	case err != nil:
		return fmt.Errorf("%w; write a whole number with K, M, G or T, such as 8G", err)
	}
	*b.to = n
	return nil
}

// count is a whole number from min to max.
type count struct {
	to       *int64
	min, max int64
	example  string
}

func (c count) set(v string) error {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < c.min || n > c.max {
		return fmt.Errorf("is not a number from %d to %d; write for example %s", c.min, c.max, c.example)
	}
	*c.to = n
	return nil
}

// decimal is a number from min to max, with a fraction or without.
type decimal struct {
	to       *float64
	min, max float64
	example  string
}

func (d decimal) set(v string) error {
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || !(n >= d.min && n <= d.max) { // NaN is neither
		return fmt.Errorf("is not a number from %v to %v; write for example %s", d.min, d.max, d.example)
	}
	*d.to = n
	return nil
}

// seconds is a time in whole seconds, from 1 s to max.
type seconds struct {
	to      *time.Duration
	max     time.Duration
	example string
}

func (s seconds) set(v string) error {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 1 || n > int64(s.max/time.Second) {
		return fmt.Errorf("is not a number of seconds from 1 to %d; write for example %s", s.max/time.Second, s.example)
	}
	*s.to = time.Duration(n) * time.Second
	return nil
}
