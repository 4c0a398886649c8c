package broker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/agent/oci"
)

// job is the job that has guests.
type job struct {
	id        string
	network   Network
	container *container // nil for a job that has services only
	services  []*service
	hosts     [][]string // address and names of each service
	roots     []rootFS
	stopWatch context.CancelFunc

	mu    sync.Mutex
	cause error // why the broker itself ended it
}

// endCause returns why the broker itself ended the job, or nil.
func (j *job) endCause() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cause
}

// prepare ends the guests of an earlier job and starts those of one.
func (s *Server) prepare(ctx context.Context, r brokerapi.PrepareRequest, report progress) (*brokerapi.PrepareReply, error) {
	// A workflow that asks for too much is refused before anything changes.
	specs, err := newContainerSpecs(r)
	if err != nil {
		return nil, err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.endJobLocked(); err != nil {
		return nil, err
	}
	if !s.settings.KeepWork {
		if err := s.settings.workRoot().RemoveLeftovers(r.Workspace); err != nil {
			return nil, err
		}
	}
	j := &job{id: newID(), stopWatch: func() {}}
	reply, err := s.startJob(ctx, j, specs, len(r.Services), report)
	if err != nil {
		return nil, errors.Join(err, s.stopJob(j))
	}
	s.job = j
	s.watch(j)
	s.log.Info("job started", "job", j.id, "services", len(j.services))
	return reply, nil
}

// startJob starts what a job needs, services first in specs; on an error the
// caller stops what is there.
func (s *Server) startJob(ctx context.Context, j *job, specs []containerSpec, services int, report progress) (*brokerapi.PrepareReply, error) {
	if err := s.findRoots(ctx, j, specs, report); err != nil {
		return nil, err
	}
	var err error
	if j.network, err = s.parts.Networks.NewNetwork(); err != nil {
		return nil, err
	}
	taken := aliases{}
	for i := range specs {
		if specs[i].address, err = j.network.Reserve(); err != nil {
			return nil, err
		}
		if i < services {
			j.hosts = append(j.hosts, append([]string{specs[i].address.String()}, taken.assign(specs[i])...))
		} else if aliases := specs[i].options.Aliases; len(aliases) > 0 {
			j.hosts = append(j.hosts, append([]string{specs[i].address.String()}, aliases...))
		}
	}
	if err := s.startGuests(ctx, j, specs, services, report); err != nil {
		return nil, err
	}
	return j.reply(specs, services)
}

// newContainerSpecs are the containers of a job: services first, in order, then
// its own.
func newContainerSpecs(r brokerapi.PrepareRequest) ([]containerSpec, error) {
	var specs []containerSpec
	for i, c := range r.Services {
		spec, err := newContainerSpec(fmt.Sprintf("service %d", i+1), c)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	if r.Container != nil {
		spec, err := newContainerSpec("container", *r.Container)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// findRoots finds the root file systems of all containers at once.
func (s *Server) findRoots(ctx context.Context, j *job, specs []containerSpec, report progress) error {
	errs := make([]error, len(specs))
	var pulls sync.WaitGroup
	for i := range specs {
		pulls.Go(func() { specs[i].root, errs[i] = s.findRoot(ctx, specs[i].Container, report) })
	}
	pulls.Wait()
	for _, spec := range specs {
		if spec.root.release != nil {
			j.roots = append(j.roots, spec.root)
		}
	}
	return errors.Join(errs...)
}

// startGuests starts the job's own container beside its services, and waits
// until all can be used.
func (s *Server) startGuests(ctx context.Context, j *job, specs []containerSpec, services int, report progress) error {
	errs := make([]error, len(specs))
	started := make([]*container, len(specs))
	j.services = make([]*service, services)
	var starts sync.WaitGroup
	for i := range specs {
		specs[i].hosts, specs[i].volumes = j.hosts, s.volumes(j)
		starts.Go(func() {
			if i < services {
				j.services[i], errs[i] = s.startService(ctx, specs[i], j.network, report)
			} else {
				started[i], errs[i] = s.launch(ctx, specs[i], j.network)
			}
		})
	}
	starts.Wait()
	if len(specs) > services {
		j.container = started[services]
	}
	return errors.Join(errs...)
}

// reply describes the job's guests and publishes their ports.
func (j *job) reply(specs []containerSpec, services int) (*brokerapi.PrepareReply, error) {
	r := &brokerapi.PrepareReply{Job: j.id, Network: j.network.ID()}
	for i, spec := range specs {
		ports, err := publish(j.network, spec.ports, spec.address)
		if err != nil {
			return nil, err
		}
		if i < services {
			r.Services = append(r.Services, brokerapi.Started{ID: j.services[i].id, Ports: ports})
		} else {
			r.Container = &brokerapi.Started{ID: j.container.id, Ports: ports}
			r.Alpine = oci.IsAlpine(spec.root.tree)
		}
	}
	return r, nil
}

// publish makes ports of a guest reachable on the host and says where.
func publish(n Network, ports []dockeropts.Port, to netip.Addr) (map[string]string, error) {
	published := map[string]string{}
	for _, p := range ports {
		host, err := n.Publish(network.Port{Host: p.Host, Container: p.Container, Protocol: p.Protocol}, to)
		if err != nil {
			return nil, err
		}
		published[strconv.Itoa(int(p.Container))] = strconv.Itoa(host)
	}
	return published, nil
}

func (s *Server) cleanup(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job == nil || s.job.id != id {
		return nil
	}
	return s.endJobLocked()
}

func (s *Server) endJob() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endJobLocked()
}

func (s *Server) endJobLocked() error {
	if s.job == nil {
		return nil
	}
	if err := s.stopJob(s.job); err != nil {
		return err
	}
	s.log.Info("job ended", "job", s.job.id)
	s.job = nil
	s.startSpare()
	return nil
}

// stopJob ends a job's guests, all at once, and gives what they left in the
// work root to the runner, which has to be able to delete it. It may be called
// again if it failed.
func (s *Server) stopJob(j *job) error {
	j.stopWatch()
	guests := []*container{}
	if j.container != nil {
		guests = append(guests, j.container)
	}
	for _, service := range j.services {
		if service != nil {
			guests = append(guests, service.container)
		}
	}
	errs := make([]error, len(guests))
	var stops sync.WaitGroup
	for i, c := range guests {
		stops.Go(func() { errs[i] = c.stop() })
	}
	stops.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if j.network != nil {
		if err := j.network.Close(); err != nil {
			return err
		}
		j.network = nil
	}
	for _, i := range j.roots {
		i.release()
	}
	j.roots = nil
	if err := os.RemoveAll(s.volumes(j)); err != nil {
		return fmt.Errorf("cannot remove volumes: %w", err)
	}
	return s.restoreOwnership()
}

// volumes is where the named volumes of a job lie, among what guests write.
func (s *Server) volumes(j *job) string {
	return filepath.Join(s.settings.JobsDir, "v-"+j.id[:8])
}

// restoreOwnership makes the runner the owner of all that guests left in its work
// root.
func (s *Server) restoreOwnership() error {
	return s.settings.workRoot().RestoreOwnership(guest.SubordinateBase)
}

// aliases are the names on a job's network that are taken.
type aliases map[string]bool

// assign returns the names of a service: those its options ask for, its host
// name, and that of its image, with a number behind it if that name is taken.
func (n aliases) assign(c containerSpec) []string {
	var list []string
	for _, name := range append(slices.Clone(c.options.Aliases), c.options.Hostname) {
		if name != "" && !slices.Contains(list, name) {
			n[name] = true
			list = append(list, name)
		}
	}
	base := dockeropts.Alias(c.Image)
	alias := base
	for i := 2; n[alias] && !slices.Contains(list, alias); i++ {
		alias = fmt.Sprintf("%s-%d", base, i)
	}
	if base != "" && !slices.Contains(list, alias) {
		n[alias] = true
		list = append(list, alias)
	}
	return list
}
