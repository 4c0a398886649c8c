package dockercli

import (
	"context"
	"fmt"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
)

func (c *call) networkCreate(ctx context.Context, args []string) (int, error) {
	flags := newFlags("network create")
	flags.StringArray("label", nil, "")
	flags.StringP("driver", "d", "", "")
	if err := c.parse(flags, "network create", args, 1); err != nil {
		return StatusFailed, err
	}
	if !c.Everything {
		return 0, ErrElsewhere
	}
	name := flags.Arg(0)
	r := brokerapi.Docker{Network: &brokerapi.DockerNetwork{Name: name}}
	if err := c.Broker.Docker(ctx, r, nil, nil); err != nil {
		return StatusFailed, err
	}
	_, err := fmt.Fprintln(c.Stdout, name)
	return 0, err
}

func (c *call) networkRemove(ctx context.Context, args []string) (int, error) {
	flags := newFlags("network rm")
	flags.BoolP("force", "f", false, "")
	if err := c.parse(flags, "network rm", args, 1); err != nil {
		return StatusFailed, err
	}
	name := flags.Arg(0)
	if list, err := c.list(ctx); !c.Everything && (err != nil || list.Network != name) {
		return 0, ErrElsewhere
	}
	r := brokerapi.Docker{Network: &brokerapi.DockerNetwork{Name: name, Remove: true}}
	if err := c.Broker.Docker(ctx, r, nil, nil); err != nil {
		return StatusFailed, err
	}
	_, err := fmt.Fprintln(c.Stdout, name)
	return 0, err
}

// networkPrune has nothing to do: networks go with their jobs.
func (c *call) networkPrune(_ context.Context, args []string) (int, error) {
	flags := newFlags("network prune")
	flags.BoolP("force", "f", false, "")
	flags.StringArray("filter", nil, "")
	if err := c.parse(flags, "network prune", args, 0); err != nil {
		return StatusFailed, err
	}
	if !c.Everything {
		return 0, ErrElsewhere
	}
	return 0, nil
}
