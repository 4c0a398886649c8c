package dockeropts

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Create is what docker create and docker run are asked for. Besides the options
// that a workflow can set it has those that the actions runner sets itself.
type Create struct {
	Options
	Name           string // of the container; "" for none
	Labels         map[string]string
	Network        string // name, "" for none
	Input          bool   // standard input is for the container
	Detach, Remove bool   // of docker run
	Image          string
	Command        []string
}

// ParseCreate parses what follows "docker create" or "docker run". env holds values
// for the variables that are named without one; one that it lacks is left out, as
// docker does.
func ParseCreate(args []string, env map[string]string) (Create, error) {
	words, err := SplitCreate(args)
	if err != nil {
		return Create{}, err
	}
	c := creator{env: env, made: Create{Image: words.Image, Command: words.Command}}
	for rest := words.Options; len(rest) > 0; {
		arg, err := readArgument(rest[0])
		if err != nil {
			return Create{}, err
		}
		if rest, err = c.apply(arg, rest[1:]); err != nil {
			return Create{}, err
		}
	}
	if err := c.finish(); err != nil {
		return Create{}, err
	}
	c.made.Options = c.Options
	return c.made, nil
}

// creator parses the options that a workflow cannot set, and leaves the others to
// its parser.
type creator struct {
	parser
	made Create // but for Options
	env  map[string]string
}

// apply is that of a parser.
func (c *creator) apply(arg argument, rest []string) ([]string, error) {
	switches := map[string]*bool{
		"--detach": &c.made.Detach, "--interactive": &c.made.Input, "--rm": &c.made.Remove,
	}
	if set, ok := switches[arg.name]; ok && !arg.joined {
		on, err := arg.on()
		*set = on
		return rest, err
	}
	if set, ok := switches[arg.name]; ok { // -dit
		*set = true
		return append([]string{"-" + arg.value}, rest...), nil
	}

	valued := map[string]func(value string) (handled bool, err error){
		"--env": c.setEnv, "--label": c.setLabel, "--name": c.setName, "--net": c.setNetwork, "--network": c.setNetwork,
		"--volume": c.setVolume,
	}
	set, ok := valued[arg.name]
	if !ok {
		return c.parser.apply(arg, rest)
	}
	value, after := arg.value, rest
	if !arg.hasValue {
		value, after = rest[0], rest[1:] // SplitCreate has made sure of it
	}
	handled, err := set(value)
	if err != nil {
		return nil, fmt.Errorf("option %s: %w", arg.name, err)
	}
	if handled {
		return after, nil
	}
	return c.parser.apply(arg, rest)
}

// setEnv takes a variable without a value, which is the caller's.
func (c *creator) setEnv(value string) (bool, error) {
	if value == "" || strings.Contains(value, "=") {
		return false, nil
	}
	text, ok := c.env[value]
	if !ok {
		return true, nil
	}
	return true, c.addEnv(value + "=" + text)
}

func (c *creator) setLabel(value string) (bool, error) {
	if c.made.Labels == nil {
		c.made.Labels = map[string]string{}
	}
	name, text, _ := strings.Cut(value, "=")
	c.made.Labels[name] = text
	return true, nil
}

// setName takes a name, which others reach the container by if it is one of a host.
func (c *creator) setName(value string) (bool, error) {
	const limit = 255
	if len(value) > limit || !isWord(value, alphanumeric, alphanumeric+"_.-") {
		return true, fmt.Errorf("%.80q is not a name; write letters, digits, hyphens, dots and underscores", value)
	}
	c.made.Name = value
	if isName(value) {
		c.Aliases = appendNew(c.Aliases, value)
	}
	return true, nil
}

func (c *creator) setNetwork(value string) (bool, error) {
	c.made.Network = value
	return true, nil
}

// setVolume leaves out the socket of Docker, which the actions runner asks for
// always.
func (c *creator) setVolume(value string) (bool, error) {
	return value == dockerSocket+":"+dockerSocket, nil
}

// CreateWords is what follows "docker create" or "docker run", split.
type CreateWords struct {
	Options []string // as they were given
	Image   string
	Command []string
	Input   bool // standard input is for the container, -i
	Detach  bool // -d
}

// SplitCreate splits the arguments of docker create or run into options, image and
// command. Options are not checked, but for whether they have a value.
func SplitCreate(args []string) (CreateWords, error) {
	var c CreateWords
	rest := args
	for len(rest) > 0 && len(rest[0]) > 1 && rest[0][0] == '-' {
		word := rest[0]
		if word == "--" {
			rest = rest[1:]
			break
		}

		n := 1
		switch long := strings.HasPrefix(word, "--"); {
		case long && !strings.Contains(word, "=") && !slices.Contains(switchNames(), word):
			n = 2
		case !long && word[len(word)-1] != '=' && wantsNext(word):
			n = 2
		}
		if n > len(rest) {
			return c, errors.New("the last option has no value")
		}
		c.Input = c.Input || isSet(word, "i", "--interactive")
		c.Detach = c.Detach || isSet(word, "d", "--detach")
		c.Options = append(c.Options, rest[:n]...)
		rest = rest[n:]
	}

	if len(rest) == 0 || rest[0] == "" {
		return c, errors.New("there is no image")
	}
	c.Image, c.Command = rest[0], rest[1:]
	return c, nil
}

// shortSwitches are the short options without a value, which may share a word.
const shortSwitches = "ditPq"

// wantsNext reports whether the last option of a word of short ones has its value
// in the next word.
func wantsNext(word string) bool {
	rest := strings.TrimLeft(word[1:], shortSwitches)
	return len(rest) == 1
}

// isSet reports whether a word of options contains a switch.
func isSet(word, short, long string) bool {
	if strings.HasPrefix(word, "--") {
		return word == long || word == long+"=true"
	}
	switches := word[1 : len(word)-len(strings.TrimLeft(word[1:], shortSwitches))]
	return strings.Contains(switches, short)
}

// switchNames are the options of docker-create(1) and docker-run(1) without a
// value.
func switchNames() []string {
	return []string{
		"--detach", "--disable-content-trust", "--init", "--interactive", "--no-healthcheck", "--oom-kill-disable",
		"--privileged", "--publish-all", "--quiet", "--read-only", "--rm", "--sig-proxy", "--tty", "--use-api-socket",
	}
}
