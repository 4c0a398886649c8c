package main

import (
	"os"
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/api"
)

// input is a parsed command line: a verb, switches and values.
type input struct {
	verb   string
	values map[string]string
}

// options of each verb, CommandSettings.validOptions of the real runner. True
// means that the option takes a value.
var options = map[string]map[string]bool{
	"configure": {
		"unattended": false, "replace": false, "disableupdate": false, "ephemeral": false, "runasservice": false,
		"no-default-labels": false, "generateServiceConfig": false,
		"auth": true, "labels": true, "monitorsocketaddress": true, "name": true, "pat": true, "runnergroup": true,
		"token": true, "url": true, "username": true, "work": true,
	},
	"remove": {"token": true, "pat": true, "local": false, "unattended": false},
	"run":    {"once": false, "jitconfig": true, "startuptype": true},
	"warmup": {},
}

// parseInput reads the command line, then ACTIONS_RUNNER_INPUT_NAME for
// options not on it; those variables are taken out of the environment.
func parseInput(argv []string) (input, error) {
	in := input{verb: "run", values: map[string]string{}}
	if len(argv) > 0 && !strings.HasPrefix(argv[0], "-") {
		in.verb, argv = argv[0], argv[1:]
	}
	if len(argv) > 0 && argv[0] == "--version" {
		return input{verb: "version"}, nil
	}

	valid, ok := options[in.verb]
	if !ok {
		return in, unrecognized(in.verb)
	}

	for len(argv) > 0 {
		name, isOption := strings.CutPrefix(argv[0], "--")
		wantsValue, known := valid[name]
		switch {
		case !isOption || !known:
			return in, unrecognized(argv[0])
		case !wantsValue:
			in.values[name], argv = "true", argv[1:]
		case len(argv) == 1:
			return in, unrecognized(argv[0])
		default:
			in.values[name], argv = argv[1], argv[2:]
		}
	}
	return in, in.readEnv()
}

// readEnv moves options from the environment to those that have no value yet.
func (in input) readEnv() error {
	for _, assignment := range slices.Clone(os.Environ()) {
		key, value, _ := strings.Cut(assignment, "=")
		name, ok := strings.CutPrefix(key, "ACTIONS_RUNNER_INPUT_")
		if !ok {
			continue
		}
		if err := os.Unsetenv(key); err != nil {
			return err
		}
		if name = strings.ToLower(name); in.values[name] == "" {
			in.values[name] = value
		}
	}
	return nil
}

func unrecognized(arg string) error {
	return api.Errorf("Unrecognized command-line input arguments: '%s'. For usage refer to: ./config.sh --help", arg)
}
