package dockercli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// newFlags returns the options of a verb. They are docker's; those that change
// nothing here are accepted all the same.
func newFlags(verb string) *pflag.FlagSet {
	flags := pflag.NewFlagSet(verb, pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	flags.SortFlags = false
	return flags
}

// parse parses the arguments of a verb, of which there must be at least some
// besides options.
func (c *call) parse(flags interface {
	Parse(args []string) error
	NArg() int
}, verb string, args []string, atLeast int) error {
	err := flags.Parse(args)
	if err == nil && flags.NArg() < atLeast {
		err = errors.New("too few arguments")
	}
	if err != nil && !c.Everything {
		return ErrElsewhere
	}
	if err != nil {
		return fmt.Errorf("docker %s: %w", verb, err)
	}
	return nil
}

// environ returns the values of the variables that options of docker create or
// run name without one: "-e NAME" stands for the caller's own.
func (c *call) environ(options []string) map[string]string {
	env := map[string]string{}
	for i, arg := range options {
		name, found := "", false
		switch {
		case (arg == "-e" || arg == "--env") && i+1 < len(options):
			name, found = options[i+1], true
		case strings.HasPrefix(arg, "--env="):
			name, found = strings.CutPrefix(arg, "--env=")
		case strings.HasPrefix(arg, "-e"):
			name, found = strings.CutPrefix(arg, "-e")
		}
		if !found || name == "" || strings.Contains(name, "=") {
			continue
		}
		if value, ok := c.Getenv(name); ok {
			env[name] = value
		}
	}
	return env
}
