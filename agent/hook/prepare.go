package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"mkappliance/agent/broker"
)

// Where the runner wants its directories in a job's container
// (ContainerInfo.cs).
const (
	workTarget      = "/__w"
	externalsTarget = "/__e"
	dockerSocket    = "/var/run/docker.sock" // always asked for
)

// prepare asks for the job's guest and answers with its description. A guest
// whose description cannot be given would be lost to the runner, so it is
// ended.
func (h *Hook) prepare(ctx context.Context, p *Payload) error {
	r, err := p.Prepare.request()
	if err != nil {
		return err
	}
	if r == nil {
		return respond(p.ResponseFile, struct{}{})
	}
	reply, err := h.Broker.Prepare(ctx, *r)
	if err != nil {
		return fmt.Errorf("cannot prepare job: %w", err)
	}
	if err := respond(p.ResponseFile, newResponse(reply)); err != nil {
		return errors.Join(err, h.cleanup(ctx, reply.Job))
	}
	return nil
}

// request is nil for a job that needs no guest.
func (p *Prepare) request() (*broker.PrepareRequest, error) {
	c := p.Container
	switch {
	case p.Services > 0:
		return nil, &Unsupported{"service containers; remove services from the job"}
	case c == nil:
		return nil, nil
	case c.Options != "":
		return nil, &Unsupported{fmt.Sprintf("container options (%.200q); remove options from the job's container", c.Options)}
	case len(c.Ports) > 0:
		return nil, &Unsupported{"ports of the job container; remove ports from the job's container"}
	}
	mounts, err := c.mounts()
	if err != nil {
		return nil, err
	}
	env := map[string]string{"GITHUB_ACTIONS": "true", "CI": "true", "HOME": "/github/home"}
	maps.Copy(env, c.Env)
	return &broker.PrepareRequest{Image: c.Image, Env: env, Mounts: mounts}, nil
}

// mounts translates volumes into what the broker can be asked for.
func (c *Container) mounts() ([]broker.Mount, error) {
	root := ""
	for _, v := range c.SystemVolumes {
		if v.Target == workTarget {
			root = path.Clean(v.Source)
		}
	}
	if !path.IsAbs(root) {
		return nil, fmt.Errorf("cannot prepare job: no directory is to be mounted at %s; the runner must have a work root", workTarget)
	}
	var mounts []broker.Mount
	for _, v := range c.SystemVolumes {
		switch {
		case v.Target == dockerSocket: // there is no Docker here
		case v.Target == externalsTarget:
			mounts = append(mounts, broker.Mount{Target: v.Target, ReadOnly: true, Externals: true})
		case !path.IsAbs(v.Source):
			return nil, fmt.Errorf("cannot prepare job: the source of %s is no absolute path", v.Target)
		default:
			mounts = append(mounts, v.mount(root))
		}
	}
	for _, v := range c.UserVolumes {
		switch {
		case v.Source == "":
			return nil, &Unsupported{fmt.Sprintf("anonymous volumes (%q); give a directory of the host before it", v.Target)}
		case !path.IsAbs(v.Source):
			return nil, &Unsupported{fmt.Sprintf("named volumes (%q); give a directory of the host instead", v.Source)}
		}
		mounts = append(mounts, v.mount(root))
	}
	return mounts, nil
}

// mount names a directory beneath the work root by its path there; any other
// has to be allowed by the broker.
func (v Volume) mount(root string) broker.Mount {
	m := broker.Mount{Target: v.Target, ReadOnly: v.ReadOnly}
	switch source := path.Clean(v.Source); {
	case source == root:
		m.Work = "."
	case strings.HasPrefix(source, strings.TrimSuffix(root, "/")+"/"):
		m.Work = strings.TrimPrefix(source, strings.TrimSuffix(root, "/")+"/")
	default:
		m.Volume = source
	}
	return m
}

// response is what the runner reads back (PrepareJobResponse.cs). Ports and
// services must not be null.
type response struct {
	IsAlpine bool            `json:"isAlpine"`
	State    state           `json:"state"`
	Context  responseContext `json:"context"`
}

// state comes back with every further call. The job can write to the response
// file, so it holds nothing but an id.
type state struct {
	Job string `json:"job"`
}

type responseContext struct {
	Container containerContext   `json:"container"`
	Services  []containerContext `json:"services"`
}

type containerContext struct {
	ID      string            `json:"id"`
	Network string            `json:"network"`
	Ports   map[string]string `json:"ports"`
}

func newResponse(r *broker.PrepareReply) response {
	return response{IsAlpine: r.Alpine, State: state{Job: r.Job}, Context: responseContext{
		Container: containerContext{ID: r.Job, Network: r.Network, Ports: map[string]string{}},
		Services:  []containerContext{},
	}}
}

// respond writes into the file that the runner has made, or makes it. It lies
// where jobs can write, hence no symbolic link is followed.
func respond(name string, answer any) error {
	data, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("cannot write response: %w", err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write response: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write response: %w", err)
	}
	return nil
}
