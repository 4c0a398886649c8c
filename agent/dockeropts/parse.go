package dockeropts

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mkappliance/mkappliance/agent/shellwords"
)

// Parse parses container.options of a workflow: options in any of the forms of
// docker-create(1), quoted as for a shell. If an option is given twice, the last
// one counts, or each one if it makes a list, as there.
//
// Options that change nothing a job could notice are accepted, among them --init
// and --rm: every guest has an init and is removed when its job ends.
func Parse(line string) (Options, error) {
	words, err := split(line)
	if err != nil {
		return Options{}, err
	}

	var p parser
	for len(words) > 0 {
		arg, err := readArgument(words[0])
		if err != nil {
			return Options{}, err
		}
		if words, err = p.apply(arg, words[1:]); err != nil {
			return Options{}, err
		}
	}
	if err := p.finish(); err != nil {
		return Options{}, err
	}
	return p.Options, nil
}

// finish settles what depends on several options.
func (p *parser) finish() error {
	if p.Health.Disabled && p.Health != (Health{Disabled: true}) {
		return errors.New("option --no-healthcheck contradicts the other options --health-...; remove it or them")
	}
	if err := p.applyQuota(); err != nil {
		return err
	}
	p.applyMemorySwap()
	p.applyCapAdd()
	return nil
}

// parser holds options while some of their values still depend on others.
type parser struct {
	Options
	cpuQuota, cpuPeriod int64  // microseconds; 0: not given
	memorySwap          *int64 // --memory-swap in bytes
	addAll              bool   // --cap-add ALL
}

// apply sets what an option asks for. It takes the option's value from rest if
// the option's own word has none, and returns the words after that.
func (p *parser) apply(arg argument, rest []string) ([]string, error) {
	if set, ok := p.switches()[arg.name]; ok {
		if arg.joined { // -it is -i and -t
			arg.hasValue, rest = false, append([]string{"-" + arg.value}, rest...)
		}
		on, err := arg.on()
		*set = on
		return rest, err
	}

	set, ok := p.valued()[arg.name]
	if !ok {
		return nil, arg.unsupported()
	}

	if !arg.hasValue {
		if len(rest) == 0 {
			return nil, fmt.Errorf("option %s has no value; write %s=VALUE", arg.name, arg.name)
		}
		// Even if it looks like an option, as docker-create(1) does.
		arg.value, rest = rest[0], rest[1:]
	}
	if err := set(arg.value); err != nil {
		return nil, fmt.Errorf("option %s: %w", arg.name, err)
	}
	return rest, nil
}

func split(line string) ([]string, error) {
	invalid := errors.New("the options contain NUL bytes or invalid UTF-8; remove them")
	if !utf8.ValidString(line) {
		return nil, invalid
	}

	words, err := shellwords.Split(line)
	switch {
	case errors.Is(err, shellwords.ErrQuote):
		return nil, errors.New("the options have a quote that is not closed; close it, or put a backslash before the quote")
	case errors.Is(err, shellwords.ErrEscape):
		return nil, errors.New("the options end in a backslash; remove it")
	case strings.Contains(strings.Join(words, ""), "\x00"): // which an escape can stand for
		return nil, invalid
	}
	return words, err
}

// argument is an option with the value in its own word.
type argument struct {
	name     string // the long one, "--memory"; "-x" if there is only a short one
	value    string
	hasValue bool
	joined   bool // the value follows a short name at once
}

// readArgument reads --name, --name=value, -n, -nvalue or -n=value.
func readArgument(word string) (argument, error) {
	if len(word) < 2 || word[0] != '-' || word == "--" {
		return argument{}, fmt.Errorf("%.80q is not an option; remove it, or quote the value it belongs to", word)
	}
	if strings.HasPrefix(word, "--") {
		name, value, hasValue := strings.Cut(word, "=")
		return argument{name: name, value: value, hasValue: hasValue}, nil
	}

	_, size := utf8.DecodeRuneInString(word[1:])
	short, value := word[:1+size], word[1+size:]
	a := argument{name: short, value: value, hasValue: value != "", joined: value != ""}
	if after, ok := strings.CutPrefix(value, "="); ok {
		a.value, a.joined = after, false
	}
	if long, ok := longNames()[short]; ok {
		a.name = long
	}
	return a, nil
}

// on returns the value of an option that is either given or not.
func (a argument) on() (bool, error) {
	if !a.hasValue {
		return true, nil
	}
	on, err := strconv.ParseBool(a.value)
	if err != nil {
		return false, fmt.Errorf("option %s: %.80q is neither true nor false; write %s", a.name, a.value, a.name)
	}
	return on, nil
}

// unsupported returns the error for an option that guests do not honour.
func (a argument) unsupported() error {
	if reason := refusal(a.name); reason != "" {
		return fmt.Errorf("option %s is not supported: %s", a.name, reason)
	}

	name := a.name
	if bare := strings.TrimPrefix(name[1:], "-"); len(bare) > 78 || !isWord(bare, alphanumeric, alphanumeric+"-") {
		name = fmt.Sprintf("%.80q", name)
	}
	return fmt.Errorf("option %s is unknown; docs/containers.md lists what is supported", name)
}

// longNames returns the options by their short names, refused ones included.
func longNames() map[string]string {
	return map[string]string{
		"-a": "--attach",
		"-c": "--cpu-shares",
		"-d": "--detach",
		"-e": "--env",
		"-h": "--hostname",
		"-i": "--interactive",
		"-l": "--label",
		"-m": "--memory",
		"-p": "--publish",
		"-P": "--publish-all",
		"-q": "--quiet",
		"-t": "--tty",
		"-u": "--user",
		"-v": "--volume",
		"-w": "--workdir",
	}
}

// switches returns the options without a value, and where each is noted.
func (p *parser) switches() map[string]*bool {
	return map[string]*bool{
		"--disable-content-trust": new(bool),
		"--init":                  new(bool),
		"--interactive":           new(bool),
		"--no-healthcheck":        &p.Health.Disabled,
		"--quiet":                 new(bool),
		"--read-only":             &p.ReadOnly,
		"--rm":                    new(bool),
		"--tty":                   new(bool),
	}
}

// valued returns the options with a value, and what each does with it.
func (p *parser) valued() map[string]func(value string) error {
	options := p.ignored()
	maps.Copy(options, map[string]func(string) error{
		"--add-host":              p.addHost,
		"--cap-add":               p.addCapability,
		"--cap-drop":              p.dropCapability,
		"--cpu-period":            p.setCPUPeriod,
		"--cpu-quota":             p.setCPUQuota,
		"--cpu-shares":            p.setCPUShares,
		"--cpus":                  p.setCPUs,
		"--cpuset-cpus":           p.setCPUSet,
		"--device":                p.addDevice,
		"--dns":                   p.addDNS,
		"--dns-opt":               p.addDNSOption,
		"--dns-option":            p.addDNSOption,
		"--dns-search":            p.addDNSSearch,
		"--domainname":            p.setDomainname,
		"--entrypoint":            p.setEntrypoint,
		"--env":                   p.addEnv,
		"--group-add":             p.addGroup,
		"--health-cmd":            p.setHealthCmd,
		"--health-interval":       durationOf(&p.Health.Interval),
		"--health-retries":        p.setHealthRetries,
		"--health-start-interval": durationOf(&p.Health.StartInterval),
		"--health-start-period":   durationOf(&p.Health.StartPeriod),
		"--health-timeout":        durationOf(&p.Health.Timeout),
		"--hostname":              p.setHostname,
		"--memory":                p.setMemory,
		"--memory-swap":           p.setMemorySwap,
		"--mount":                 p.addMount,
		"--name":                  p.addAlias,
		"--network-alias":         p.addAlias,
		"--pids-limit":            p.setPidsLimit,
		"--publish":               p.publish,
		"--security-opt":          p.addSecurityOption,
		"--shm-size":              p.setShmSize,
		"--sysctl":                p.addSysctl,
		"--tmpfs":                 p.addTmpfs,
		"--ulimit":                p.addUlimit,
		"--user":                  p.setUser,
		"--volume":                p.addVolume,
		"--workdir":               p.setWorkdir,
	})
	return options
}
