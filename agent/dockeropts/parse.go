package dockeropts

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mkappliance/mkappliance/agent/shellwords"
)

// Parse parses container.options of a workflow: options in any of the forms of
// docker-create(1), quoted as for a shell. If an option is given twice, the last
// one counts, or each one if it makes a list, as there.
//
// --init and --rm are accepted and change nothing, since every guest has an
// init and is removed when its job ends.
func Parse(line string) (Options, error) {
	words, err := split(line)
	if err != nil {
		return Options{}, err
	}

	var o Options
	for len(words) > 0 {
		arg, err := readArgument(words[0])
		if err != nil {
			return Options{}, err
		}
		if words, err = o.apply(arg, words[1:]); err != nil {
			return Options{}, err
		}
	}

	if o.Health.Disabled && o.Health != (Health{Disabled: true}) {
		return Options{}, errors.New("option --no-healthcheck contradicts the other options --health-...; remove it or them")
	}
	o.applyCapAdd()
	return o, nil
}

// apply sets what an option asks for. It takes the option's value from rest if
// the option's own word has none, and returns the words after that.
func (o *Options) apply(arg argument, rest []string) ([]string, error) {
	if set, ok := o.switches()[arg.name]; ok {
		on, err := arg.on()
		*set = on
		return rest, err
	}

	set, ok := o.valued()[arg.name]
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
	a := argument{name: short, value: strings.TrimPrefix(value, "="), hasValue: value != ""}
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
		"-d": "--detach",
		"-e": "--env",
		"-h": "--hostname",
		"-i": "--interactive",
		"-m": "--memory",
		"-p": "--publish",
		"-P": "--publish-all",
		"-t": "--tty",
		"-u": "--user",
		"-v": "--volume",
		"-w": "--workdir",
	}
}

// switches returns the options without a value, and where each is noted.
func (o *Options) switches() map[string]*bool {
	return map[string]*bool{
		"--init":           new(bool),
		"--no-healthcheck": &o.Health.Disabled,
		"--rm":             new(bool),
	}
}

// valued returns the options with a value, and what each does with it.
func (o *Options) valued() map[string]func(value string) error {
	return map[string]func(string) error{
		"--add-host":              o.addHost,
		"--cap-add":               o.addCapability,
		"--cap-drop":              o.dropCapability,
		"--cpus":                  o.setCPUs,
		"--device":                o.addDevice,
		"--entrypoint":            o.setEntrypoint,
		"--env":                   o.addEnv,
		"--health-cmd":            o.setHealthCmd,
		"--health-interval":       durationOf(&o.Health.Interval),
		"--health-retries":        o.setHealthRetries,
		"--health-start-interval": durationOf(&o.Health.StartInterval),
		"--health-start-period":   durationOf(&o.Health.StartPeriod),
		"--health-timeout":        durationOf(&o.Health.Timeout),
		"--hostname":              o.setHostname,
		"--memory":                o.setMemory,
		"--name":                  o.addAlias,
		"--network-alias":         o.addAlias,
		"--pids-limit":            o.setPidsLimit,
		"--shm-size":              o.setShmSize,
		"--tmpfs":                 o.addTmpfs,
		"--user":                  o.setUser,
		"--workdir":               o.setWorkdir,
	}
}
