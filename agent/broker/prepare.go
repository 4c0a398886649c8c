package broker

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/agent/oci"
)

// prepare starts the members of a job and waits until all can be used. If it
// fails, the caller stops what has been started.
func (j *job) prepare(ctx context.Context, members []*member, report reporter) (*brokerapi.PrepareReply, error) {
	j.mu.Lock()
	j.members = members
	j.mu.Unlock()
	for _, m := range members {
		m.notify(report)
	}
	if err := j.findRoots(ctx, members, report); err != nil {
		return nil, err
	}

	// Every guest knows the addresses of all, so they come before the first starts.
	if err := j.assignAddresses(members, report); err != nil {
		return nil, err
	}
	if err := j.startMembers(ctx, members, report); err != nil {
		return nil, err
	}

	return j.publish(members)
}

// findRoots finds the root file systems of all members at once.
func (j *job) findRoots(ctx context.Context, members []*member, report reporter) error {
	errs := make([]error, len(members))
	var pulls sync.WaitGroup
	for i, m := range members {
		pulls.Go(func() { m.root, errs[i] = j.findRoot(ctx, m.spec.Container, report) })
	}
	pulls.Wait()

	j.mu.Lock()
	for i, m := range members {
		if errs[i] == nil {
			j.roots = append(j.roots, m.root)
		}
	}
	j.mu.Unlock()
	return errors.Join(errs...)
}

// assignAddresses reserves an address for each member, and names for those that
// others can name. The names of services are reported: with the container hook, the
// workflow's own name is not always among them.
func (j *job) assignAddresses(members []*member, report reporter) error {
	taken := aliases{}
	for _, m := range members {
		var err error
		if m.address, err = j.network.Reserve(); err != nil {
			return err
		}

		names := m.spec.options.Aliases
		if m.isService {
			names = taken.assign(m.spec)
			report("service %s is reachable as %s", m.spec.Image, cmp.Or(strings.Join(names, ", "), m.address.String()))
		}
		if len(names) > 0 {
			j.mu.Lock()
			j.hosts = append(j.hosts, append([]string{m.address.String()}, names...))
			j.mu.Unlock()
		}
	}
	return nil
}

// startMembers starts all members at once and waits until all can be used.
func (j *job) startMembers(ctx context.Context, members []*member, report reporter) error {
	errs := make([]error, len(members))
	var starts sync.WaitGroup
	for i, m := range members {
		starts.Go(func() {
			if m.isService {
				errs[i] = j.startService(ctx, m, report)
			} else {
				errs[i] = j.startOwn(ctx, m, report)
			}
		})
	}
	starts.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}

	for _, m := range members {
		if m.service != nil {
			m.service.reportEnd(m.spec.Image, report)
		}
	}

	j.mu.Lock()
	defer j.mu.Unlock()
	for _, m := range members {
		if !m.isService {
			j.own = m
		}
	}
	return nil
}

// publish makes the ports of the members reachable where the job's steps run that
// have no container, and describes the members to the client.
func (j *job) publish(members []*member) (*brokerapi.PrepareReply, error) {
	reply := &brokerapi.PrepareReply{Job: j.id, Network: j.network.ID()}
	for _, m := range members {
		ports, err := j.publishPorts(m.spec.ports, m.address)
		if err != nil {
			return nil, err
		}

		started := brokerapi.Started{ID: m.container.id, Ports: ports}
		if m.isService {
			reply.Services = append(reply.Services, started)
		} else {
			reply.Container = &started
			reply.Alpine = oci.IsAlpine(m.root.tree)
		}
	}
	return reply, nil
}

// publishPorts returns, for each published port of a guest, by which port the
// steps of the job reach it at localhost.
func (j *job) publishPorts(ports []dockeropts.Port, to netip.Addr) (map[string]string, error) {
	published := map[string]string{}
	for _, p := range ports {
		host, err := j.publishPort(network.Port(p), to)
		if err != nil {
			return nil, err
		}
		published[strconv.Itoa(int(p.Container))] = strconv.Itoa(host)
	}
	return published, nil
}

func (j *job) publishPort(p network.Port, to netip.Addr) (int, error) {
	if j.worker == nil {
		return j.network.Publish(p, to)
	}
	return j.network.PublishIn(j.worker.member.container.guest.Leader(), p, to)
}
