package hook

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/shellwords"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// Where the runner wants its directories in a job's container
// (ContainerInfo.cs).
const (
	externalsTarget = "/__e"
	dockerSocket    = "/var/run/docker.sock" // always asked for
)

// containerStep runs a docker:// or Dockerfile action. The context ends with
// the first signal, which is the process's to answer, as in step.
func (h *Hook) containerStep(ctx context.Context, p *Payload) (int, error) {
	c, err := p.Container.request()
	if err != nil {
		return 0, fmt.Errorf("cannot run container%s: %w", p.Container.step(), err)
	}
	setHome(c)
	r := brokerapi.ContainerRequest{Job: p.Job, Container: *c}
	if p.Container.Dockerfile != "" {
		r.Build = &brokerapi.Build{Dockerfile: p.Container.Dockerfile}
	}

	out := &lineWriter{to: h.Stdout}
	status, err := h.Broker.Container(context.WithoutCancel(ctx), r,
		wire.Streams{Stdout: out, Stderr: h.Stderr, Signals: h.Signals})
	if err != nil {
		return 0, fmt.Errorf("cannot run container%s: %w", p.Container.step(), err)
	}
	out.explain("the container's process", status)
	return status, nil
}

// setHome names the home directory that the runner mounts into a container.
func setHome(c *brokerapi.Container) {
	if c.Env["HOME"] == "" {
		c.Env["HOME"] = "/github/home"
	}
}

// request translates a container into what the broker can be asked for. Options
// and ports, Docker's words, are the broker's to parse.
func (c *Container) request() (*brokerapi.Container, error) {
	r := &brokerapi.Container{
		Name: c.ContextName, Image: c.Image, Credentials: c.Credentials, Dir: c.Dir, Ports: c.Ports, Options: c.Options,
		Env: map[string]string{"GITHUB_ACTIONS": "true", "CI": "true"},
	}
	maps.Copy(r.Env, c.Env)

	var err error
	if r.Entrypoint, err = shellwords.Split(c.EntryPoint); err != nil {
		return nil, fmt.Errorf("entrypoint: %w", err)
	}
	if r.Args, err = shellwords.Split(strings.Join(c.Args, " ")); err != nil {
		return nil, fmt.Errorf("arguments: %w", err)
	}
	r.Mounts, err = c.mounts()
	return r, err
}

// unsupported says where in the workflow it asks for what cannot be had.
func (c *Container) unsupported(key string, err error) error {
	where := key
	if c.path != "" {
		where = c.path + ": " + key
	}
	return wire.Unsupported("%s: %w", where, err)
}

// step is what the runner calls the step, after a space, or nothing.
func (c *Container) step() string { return stepName(c.Env) }

// mounts translates volumes.
func (c *Container) mounts() ([]brokerapi.Mount, error) {
	var mounts []brokerapi.Mount
	for _, v := range c.SystemVolumes {
		switch {
		case v.Target == dockerSocket: // there is no Docker here
		case v.Target == externalsTarget:
			mounts = append(mounts, brokerapi.Mount{Target: v.Target, ReadOnly: true, Externals: true})
		case !path.IsAbs(v.Source):
			return nil, fmt.Errorf("the source of %s is not an absolute path", v.Target)
		default:
			mounts = append(mounts, brokerapi.Mount{Target: v.Target, ReadOnly: v.ReadOnly, Source: path.Clean(v.Source)})
		}
	}
	for _, v := range c.UserVolumes {
		m, err := v.mount()
		if err != nil {
			return nil, c.unsupported("volumes", err)
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// mount translates a volume of a workflow: a directory of the host, a name, or
// neither, as docker-run(1) distinguishes them.
func (v Volume) mount() (brokerapi.Mount, error) {
	m := brokerapi.Mount{Target: path.Clean(v.Target), ReadOnly: v.ReadOnly}
	switch {
	case m.Target == dockerSocket:
		return m, errors.New("there is no Docker here, and no socket of it; remove the volume")
	case path.IsAbs(v.Source):
		m.Source = path.Clean(v.Source)
	case strings.Contains(v.Source, "/"):
		return m, fmt.Errorf("%.80q is neither a name nor an absolute path", v.Source)
	case v.Source != "":
		m.Volume = v.Source
	default:
		m.Scratch = true
	}
	return m, nil
}
