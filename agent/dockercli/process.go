package dockercli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/wire"
)

func (c *call) create(ctx context.Context, args []string) (int, error) {
	if !c.ownNetwork(ctx, args) {
		return 0, ErrElsewhere
	}
	r, _ := c.createRequest(args)
	id, err := c.make(ctx, r)
	if err != nil {
		return StatusFailed, err
	}
	_, err = fmt.Fprintln(c.Stdout, id)
	return 0, err
}

// make makes a container and returns its id.
func (c *call) make(ctx context.Context, r *brokerapi.DockerCreate) (id string, err error) {
	var created brokerapi.DockerCreated
	if err := c.Broker.Docker(ctx, brokerapi.Docker{Create: r}, &created, c.Stderr); err != nil {
		return "", err
	}
	for _, warning := range created.Warnings {
		fmt.Fprintln(c.Stderr, "WARNING:", warning)
	}
	return created.ID, nil
}

// createRequest returns the request for a container. Words that the broker will
// refuse pass here.
func (c *call) createRequest(args []string) (*brokerapi.DockerCreate, dockeropts.CreateWords) {
	r := &brokerapi.DockerCreate{Args: args}
	words, err := dockeropts.SplitCreate(args)
	if err != nil {
		return r, dockeropts.CreateWords{}
	}
	r.Env = c.environ(words.Options)
	r.Credentials = c.credentials(words.Image)
	return r, words
}

// runContainer runs a container to its end. The context ends with the first
// signal, which is the container's to answer.
func (c *call) runContainer(ctx context.Context, args []string) (int, error) {
	if !c.ownNetwork(ctx, args) {
		return 0, ErrElsewhere
	}
	r, words := c.createRequest(args)
	if words.Detach {
		return c.runDetached(ctx, r)
	}
	status, err := c.Broker.DockerProcess(context.WithoutCancel(ctx), brokerapi.Docker{Run: r}, c.streams(words.Input))
	if err != nil {
		return StatusNotStarted, err
	}
	return status, nil
}

// runDetached makes a container, starts it and prints its id.
func (c *call) runDetached(ctx context.Context, r *brokerapi.DockerCreate) (int, error) {
	id, err := c.make(ctx, r)
	if err == nil {
		err = c.Broker.Docker(ctx, brokerapi.Docker{Start: &brokerapi.DockerStart{Container: id}}, nil, c.Stderr)
	}
	if err != nil {
		return StatusNotStarted, err
	}
	_, err = fmt.Fprintln(c.Stdout, id)
	return 0, err
}

// ownNetwork reports whether a container is to be one of the job: in its network,
// or nobody else can run it.
func (c *call) ownNetwork(ctx context.Context, args []string) bool {
	if c.Everything {
		return true
	}
	list, err := c.list(ctx)
	if err != nil || list.Network == "" {
		return false
	}
	for i, arg := range args {
		value, ok := strings.CutPrefix(arg, "--network=")
		if !ok {
			value, ok = strings.CutPrefix(arg, "--net=")
		}
		if !ok && (arg == "--network" || arg == "--net") && i+1 < len(args) {
			value, ok = args[i+1], true
		}
		if ok && value == list.Network {
			return true
		}
	}
	return false
}

func (c *call) streams(input bool) wire.Streams {
	s := wire.Streams{Stdout: c.Stdout, Stderr: c.Stderr, Signals: c.Signals}
	if input {
		s.Stdin = c.Stdin
	}
	return s
}

func (c *call) start(ctx context.Context, args []string) (int, error) {
	flags := newFlags("start")
	flags.BoolP("interactive", "i", false, "")
	attach := flags.BoolP("attach", "a", false, "")
	if err := c.parse(flags, "start", args, 1); err != nil {
		return StatusFailed, err
	}
	if *attach {
		return StatusFailed, errors.New("docker start: --attach is not supported; use docker logs --follow")
	}
	return c.each(ctx, flags.Args(), func(id string) error {
		return c.Broker.Docker(ctx, brokerapi.Docker{Start: &brokerapi.DockerStart{Container: id}}, nil, c.Stderr)
	})
}

// each does something to containers, and prints the name of each with which that
// succeeded, as the caller wrote it.
func (c *call) each(ctx context.Context, names []string, do func(id string) error) (int, error) {
	if _, err := c.resolve(ctx, names...); errors.Is(err, ErrElsewhere) {
		return 0, err
	}
	var errs []error
	for _, name := range names {
		if err := do(name); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(c.Stdout, name)
	}
	if err := errors.Join(errs...); err != nil {
		return StatusFailed, err
	}
	return 0, nil
}

func (c *call) exec(ctx context.Context, args []string) (int, error) {
	flags := newFlags("exec")
	flags.SetInterspersed(false)
	input := flags.BoolP("interactive", "i", false, "")
	tty := flags.BoolP("tty", "t", false, "")
	detach := flags.BoolP("detach", "d", false, "")
	flags.Bool("privileged", false, "")
	env := flags.StringArrayP("env", "e", nil, "")
	dir := flags.StringP("workdir", "w", "", "")
	user := flags.StringP("user", "u", "", "")
	if err := c.parse(flags, "exec", args, 2); err != nil {
		return StatusNotStarted, err
	}
	found, err := c.resolve(ctx, flags.Arg(0))
	switch {
	case errors.Is(err, ErrElsewhere):
		return 0, err
	case err != nil:
		return StatusFailed, err
	case *tty:
		return StatusFailed, errors.New("the input device is not a TTY")
	case *detach:
		return StatusNotStarted, errors.New("docker exec: --detach is not supported; start the process with setsid instead")
	}

	r := brokerapi.DockerExec{
		Container: found[0].ID, Argv: flags.Args()[1:], Env: c.values(*env), Dir: *dir, User: *user, Input: *input,
	}
	status, err := c.Broker.DockerProcess(context.WithoutCancel(ctx), brokerapi.Docker{Exec: &r}, c.streams(*input))
	if err != nil {
		return StatusNotStarted, err
	}
	return status, nil
}

// values returns variables that are set by NAME=VALUE, or NAME for the caller's
// own.
func (c *call) values(list []string) map[string]string {
	env := map[string]string{}
	for _, item := range list {
		name, value, ok := strings.Cut(item, "=")
		if !ok {
			if value, ok = c.Getenv(name); !ok {
				continue
			}
		}
		env[name] = value
	}
	return env
}

func (c *call) logs(ctx context.Context, args []string) (int, error) {
	flags := newFlags("logs")
	flags.Bool("details", false, "")
	follow := flags.BoolP("follow", "f", false, "")
	last := flags.StringP("tail", "n", "all", "")
	if err := c.parse(flags, "logs", args, 1); err != nil {
		return StatusFailed, err
	}
	found, err := c.resolve(ctx, flags.Arg(0))
	if err != nil {
		return StatusFailed, err
	}

	r := brokerapi.Docker{Logs: &brokerapi.DockerLogs{Container: found[0].ID, Follow: *follow}}
	s := wire.Streams{Stdout: c.Stdout, Stderr: c.Stderr}
	if n, err := strconv.Atoi(*last); err == nil && n >= 0 {
		lines := &lastLines{n: n}
		defer func() { _, _ = c.Stdout.Write(lines.text()) }()
		s.Stdout, s.Stderr = lines, lines
	}
	if _, err := c.Broker.DockerProcess(ctx, r, s); err != nil {
		return StatusFailed, err
	}
	return 0, nil
}

// lastLines keeps the last n lines that are written to it.
type lastLines struct {
	n    int
	data []byte
}

// Write implements io.Writer.
func (l *lastLines) Write(p []byte) (int, error) {
	l.data = append(l.data, p...)
	return len(p), nil
}

func (l *lastLines) text() []byte {
	at := len(l.data)
	for lines := 0; at > 0; at-- {
		if l.data[at-1] != '\n' || at == len(l.data) {
			continue
		}
		if lines++; lines == l.n {
			return l.data[at:]
		}
	}
	if l.n == 0 {
		return nil
	}
	return l.data
}

func (c *call) stop(ctx context.Context, args []string) (int, error) {
	flags := newFlags("stop")
	grace := flags.IntP("time", "t", 10, "")
	timeout := flags.Int("timeout", -1, "")
	name := flags.StringP("signal", "s", "", "")
	if err := c.parse(flags, "stop", args, 1); err != nil {
		return StatusFailed, err
	}
	if *timeout >= 0 {
		*grace = *timeout
	}
	signal, err := parseSignal(*name)
	if err != nil {
		return StatusFailed, err
	}
	return c.each(ctx, flags.Args(), func(id string) error {
		r := brokerapi.DockerStop{
			Container: id,
			Signal:    int(signal),
			Grace:     max(time.Millisecond, time.Duration(*grace)*time.Second),
		}
		return c.Broker.Docker(ctx, brokerapi.Docker{Stop: &r}, nil, nil)
	})
}

func (c *call) kill(ctx context.Context, args []string) (int, error) {
	flags := newFlags("kill")
	name := flags.StringP("signal", "s", "KILL", "")
	if err := c.parse(flags, "kill", args, 1); err != nil {
		return StatusFailed, err
	}
	signal, err := parseSignal(*name)
	if err != nil {
		return StatusFailed, err
	}
	return c.each(ctx, flags.Args(), func(id string) error {
		r := brokerapi.DockerStop{Container: id, Signal: int(signal)}
		return c.Broker.Docker(ctx, brokerapi.Docker{Stop: &r}, nil, nil)
	})
}

// parseSignal returns the signal of a number or a name; 0 for an empty one.
func parseSignal(name string) (syscall.Signal, error) {
	if name == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n), nil
	}
	n := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
	if n == 0 {
		return 0, fmt.Errorf("invalid signal: %.80s", name)
	}
	return n, nil
}

func (c *call) wait(ctx context.Context, args []string) (int, error) {
	flags := newFlags("wait")
	if err := c.parse(flags, "wait", args, 1); err != nil {
		return StatusFailed, err
	}
	if _, err := c.resolve(ctx, flags.Args()...); errors.Is(err, ErrElsewhere) {
		return 0, err
	}
	for _, name := range flags.Args() {
		var exited brokerapi.DockerExited
		r := brokerapi.Docker{Wait: &brokerapi.DockerWait{Container: name}}
		if err := c.Broker.Docker(ctx, r, &exited, nil); err != nil {
			return StatusFailed, err
		}
		fmt.Fprintln(c.Stdout, exited.Status)
	}
	return 0, nil
}

func (c *call) remove(ctx context.Context, args []string) (int, error) {
	flags := newFlags("rm")
	force := flags.BoolP("force", "f", false, "")
	flags.BoolP("volumes", "v", false, "")
	if err := c.parse(flags, "rm", args, 1); err != nil {
		return StatusFailed, err
	}
	return c.each(ctx, flags.Args(), func(id string) error {
		r := brokerapi.DockerRemove{Container: id, Force: *force}
		err := c.Broker.Docker(ctx, brokerapi.Docker{Remove: &r}, nil, nil)
		if *force && wire.CodeOf(err) == wire.CodeNotFound {
			fmt.Fprintln(c.Stderr, err)
			return nil
		}
		return err
	})
}
