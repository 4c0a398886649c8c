package dockeropts

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mkappliance/mkappliance/agent/shellwords"
)

// Parse reads container.options as a workflow has it: options in any of the
// forms of docker-create(1), quoted as for a shell. An option given twice counts
// as it does there: the last one, or each if it makes a list.
//
// --init and --rm are accepted and change nothing, since every guest has an
// init and is removed when its job ends.
func Parse(line string) (Options, error) {
	words, err := split(line)
	if err != nil {
		return Options{}, err
	}
	var o Options
	valued, switches := o.valued(), o.switches()
	for len(words) > 0 {
		arg, err := readArgument(words[0])
		if err != nil {
			return Options{}, err
		}
		words = words[1:]
		if set, ok := switches[arg.name]; ok {
			if *set, err = arg.on(); err != nil {
				return Options{}, err
			}
			continue
		}
		set, ok := valued[arg.name]
		if !ok {
			return Options{}, arg.unsupported()
		}
		if !arg.hasValue {
			if len(words) == 0 {
				return Options{}, fmt.Errorf("option %s has no value; write %s=VALUE", arg.name, arg.name)
			}
			arg.value, words = words[0], words[1:]
		}
		if err := set(arg.value); err != nil {
			return Options{}, fmt.Errorf("option %s: %w", arg.name, err)
		}
	}
	if err := o.settle(); err != nil {
		return Options{}, err
	}
	return o, nil
}

func split(line string) ([]string, error) {
	if !utf8.ValidString(line) || strings.ContainsRune(line, 0) {
		return nil, errors.New("the options hold bytes that are NUL or no UTF-8; remove them")
	}
	words, err := shellwords.Split(line)
	switch {
	case errors.Is(err, shellwords.ErrQuote):
		return nil, errors.New("the options have a quote without its end; add it, or put a backslash before the quote")
	case errors.Is(err, shellwords.ErrEscape):
		return nil, errors.New("the options end in a backslash; remove it")
	}
	return words, err
}

// argument is an option with the value that its own word holds.
type argument struct {
	name     string // the long one, "--memory"; "-x" for a short one without
	value    string
	hasValue bool
}

// readArgument reads --name, --name=value, -n, -nvalue or -n=value.
func readArgument(word string) (argument, error) {
	if len(word) < 2 || word[0] != '-' || word == "--" {
		return argument{}, fmt.Errorf("%.80q is no option; remove it, or quote the value it belongs to", word)
	}
	if strings.HasPrefix(word, "--") {
		name, value, hasValue := strings.Cut(word, "=")
		return argument{name, value, hasValue}, nil
	}
	_, size := utf8.DecodeRuneInString(word[1:])
	short, value := word[:1+size], word[1+size:]
	a := argument{short, strings.TrimPrefix(value, "="), value != ""}
	if long, ok := longNames()[short]; ok {
		a.name = long
	}
	return a, nil
}

// on is the value of an option that is either given or not.
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

var optionPattern = regexp.MustCompile(`^--?[A-Za-z0-9][A-Za-z0-9-]{0,77}$`)

func (a argument) unsupported() error {
	if reason := refusal(a.name); reason != "" {
		return fmt.Errorf("option %s is not supported: %s", a.name, reason)
	}
	name := a.name
	if !optionPattern.MatchString(name) {
		name = fmt.Sprintf("%.80q", name)
	}
	return fmt.Errorf("option %s is unknown; docs/containers.md lists what is supported", name)
}

// longNames are the options by their short names, the refused ones as well.
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

// switches are the options without a value.
func (o *Options) switches() map[string]*bool {
	return map[string]*bool{
		"--init":           new(bool),
		"--no-healthcheck": &o.Health.Disabled,
		"--rm":             new(bool),
	}
}

// valued are the options with a value, and what each does with it.
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

// settle does what only all options together tell.
func (o *Options) settle() error {
	if o.Health.Disabled && o.Health != (Health{Disabled: true}) {
		return errors.New("option --no-healthcheck contradicts the other options --health-...; remove it or them")
	}
	if len(o.CapAdd) > 0 {
		o.keepAdded()
	}
	return nil
}

// keepAdded takes what is added from what is dropped, whichever comes first, as
// docker-create(1) does.
func (o *Options) keepAdded() {
	dropped := o.CapDrop
	if slices.Contains(dropped, allCapabilities) {
		dropped = guestCapabilities()
	}
	o.CapDrop = nil
	for _, name := range dropped {
		if !slices.Contains(o.CapAdd, name) {
			o.CapDrop = append(o.CapDrop, name)
		}
	}
}
