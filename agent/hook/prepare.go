package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
)

// prepare asks for the job's guests and answers with their description. Guests
// whose description cannot be given would be lost to the runner, so they are
// ended.
func (h *Hook) prepare(ctx context.Context, p *Payload) error {
	if p.Prepare.Container == nil && len(p.Prepare.Services) == 0 {
		return respond(p.ResponseFile, struct{}{})
	}
	r, err := p.Prepare.request()
	if err != nil {
		return fmt.Errorf("cannot prepare job: %w", err)
	}
	r.Workspace = h.Workspace
	reply, err := h.Broker.Prepare(ctx, *r, h.Stdout)
	if err != nil {
		return fmt.Errorf("cannot prepare job: %w", err)
	}
	if err := respond(p.ResponseFile, newResponse(reply)); err != nil {
		return errors.Join(err, h.cleanup(ctx, reply.Job))
	}
	return nil
}

func (p *Prepare) request() (*brokerapi.PrepareRequest, error) {
	r := &brokerapi.PrepareRequest{}
	if p.Container != nil {
		c, err := p.Container.request()
		if err != nil {
			return nil, err
		}
		setHome(c)
		r.Container = c
	}
	for _, s := range p.Services {
		c, err := s.request()
		if err != nil {
			return nil, err
		}
		r.Services = append(r.Services, *c)
	}
	return r, nil
}

// response is what the runner reads back (PrepareJobResponse.cs). Ports and
// services must not be null; a job without a container must have none here.
type response struct {
	IsAlpine *bool           `json:"isAlpine,omitempty"`
	State    state           `json:"state"`
	Context  responseContext `json:"context"`
}

// state comes back with every further call. The job can write to the response
// file, so it holds nothing but an id.
type state struct {
	Job string `json:"job"`
}

type responseContext struct {
	Container *containerContext  `json:"container,omitempty"`
	Services  []containerContext `json:"services"`
}

type containerContext struct {
	ID      string            `json:"id"`
	Network string            `json:"network"`
	Ports   map[string]string `json:"ports"`
}

func newResponse(r *brokerapi.PrepareReply) response {
	answer := response{State: state{Job: r.Job}, Context: responseContext{Services: []containerContext{}}}
	if r.Container != nil {
		answer.IsAlpine = &r.Alpine
		c := newContext(*r.Container, r.Network)
		answer.Context.Container = &c
	}
	for _, s := range r.Services {
		answer.Context.Services = append(answer.Context.Services, newContext(s, r.Network))
	}
	return answer
}

func newContext(s brokerapi.Started, network string) containerContext {
	c := containerContext{ID: s.ID, Network: network, Ports: map[string]string{}}
	maps.Copy(c.Ports, s.Ports)
	return c
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
