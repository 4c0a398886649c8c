package dockercli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// Exit statuses of docker(1). That of a process which ran is the process's own.
const (
	StatusFailed     = 1
	StatusNotStarted = 125 // of docker run and docker exec
)

// Broker is what the command needs of the owner of the guests.
type Broker interface {
	// Docker reports what takes long to progress.
	Docker(ctx context.Context, r brokerapi.Docker, reply any, progress io.Writer) error
	// DockerProcess returns the status of a process, or an error if there is none.
	DockerProcess(ctx context.Context, r brokerapi.Docker, s wire.Streams) (status int, err error)
}

// CLI answers calls of docker.
type CLI struct {
	Broker         Broker
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(name string) (value string, ok bool)
	Signals        <-chan os.Signal // passed on to a process that runs
	Dir            string           // working directory, for relative paths

	// Everything is set where nobody else can answer: the caller is the actions
	// runner, or there is no Docker in this guest.
	Everything bool
}

// ErrElsewhere is the error of a call that is not about the job's containers.
// Nothing has been done or printed.
var ErrElsewhere = errors.New("this is not about a container of the job")

// call is one call of the command, with its global options.
type call struct {
	*CLI
	config string // directory of docker's config.json; empty for the user's own
}

// verb is a verb of docker and what carries it out.
type verb struct {
	name string
	run  func(c *call, ctx context.Context, args []string) (status int, err error)
}

func verbs() []verb {
	return []verb{
		{"version", (*call).version},
		{"network create", (*call).networkCreate},
		{"network rm", (*call).networkRemove},
		{"network prune", (*call).networkPrune},
		{"login", (*call).login},
		{"logout", (*call).logout},
		{"pull", (*call).pull},
		{"build", (*call).build},
		{"create", (*call).create},
		{"start", (*call).start},
		{"run", (*call).runContainer},
		{"exec", (*call).exec},
		{"ps", (*call).ps},
		{"inspect", (*call).inspect},
		{"port", (*call).port},
		{"logs", (*call).logs},
		{"stop", (*call).stop},
		{"kill", (*call).kill},
		{"wait", (*call).wait},
		{"rm", (*call).remove},
	}
}

// Run carries out a command line, without the name of the program, and returns
// the exit status. An error has not been printed.
func (c *CLI) Run(ctx context.Context, args []string) (status int, err error) {
	flags := newFlags("docker")
	flags.SetInterspersed(false)
	config := flags.String("config", "", "")
	flags.StringP("log-level", "l", "", "")
	flags.BoolP("debug", "D", false, "")
	host := flags.StringP("host", "H", "", "")
	name := flags.StringP("context", "c", "", "")
	if err := flags.Parse(args); err != nil || *host != "" || *name != "" {
		return c.elsewhere(args)
	}

	word, rest := splitVerb(flags.Args())
	i := slices.IndexFunc(verbs(), func(v verb) bool { return v.name == word })
	if i < 0 {
		return c.elsewhere(args)
	}
	return verbs()[i].run(&call{CLI: c, config: *config}, ctx, rest)
}

// elsewhere answers what only a Docker can.
func (c *CLI) elsewhere(args []string) (int, error) {
	if !c.Everything {
		return 0, ErrElsewhere
	}
	return StatusFailed, fmt.Errorf("cannot run docker %.80q: there is no Docker in this guest; "+
		"add docker.io to the packages of its guest base in images.toml", args)
}

// splitVerb splits the verb from its arguments. "docker container VERB" is the
// long form of "docker VERB".
func splitVerb(args []string) (word string, rest []string) {
	if len(args) > 1 && args[0] == "container" {
		args = args[1:]
	}
	switch {
	case len(args) == 0:
		return "", nil
	case args[0] == "ls" || args[0] == "list":
		return "ps", args[1:]
	case (args[0] == "network" || args[0] == "image") && len(args) > 1:
		return args[0] + " " + args[1], args[2:]
	}
	return args[0], args[1:]
}
