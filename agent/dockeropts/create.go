package dockeropts

import (
	"errors"
	"slices"
	"strings"
)

// Create is what follows "docker create" or "docker run".
type Create struct {
	Options []string // as they were given
	Image   string
	Command []string
	Input   bool // standard input is for the container, -i
}

// SplitCreate splits the arguments of docker create or run into options, image and
// command. Options are not checked, but for whether they have a value.
func SplitCreate(args []string) (Create, error) {
	var c Create
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
		c.Input = c.Input || isInput(word)
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

// isInput reports whether a word of options contains -i.
func isInput(word string) bool {
	if strings.HasPrefix(word, "--") {
		return word == "--interactive" || word == "--interactive=true"
	}
	switches := word[1 : len(word)-len(strings.TrimLeft(word[1:], shortSwitches))]
	return strings.Contains(switches, "i")
}

// switchNames are the options of docker-create(1) and docker-run(1) without a
// value.
func switchNames() []string {
	return []string{
		"--detach", "--disable-content-trust", "--init", "--interactive", "--no-healthcheck", "--oom-kill-disable",
		"--privileged", "--publish-all", "--quiet", "--read-only", "--rm", "--sig-proxy", "--tty", "--use-api-socket",
	}
}
