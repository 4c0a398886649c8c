package broker

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// member is one container of a job, from the words of a workflow to the guest
// that runs.
type member struct {
	spec      containerSpec
	place     string // where in the workflow it stands, with a colon and a space; or empty
	isService bool

	root      rootFS     // found or pulled
	address   netip.Addr // on the job's network
	container *container // once its guest runs
	service   *service   // once it can be used, if it is one
}

// containerSpec is a container as a workflow asks for it, with Docker's words
// parsed.
type containerSpec struct {
	brokerapi.Container
	options dockeropts.Options
	ports   []dockeropts.Port
	files   map[string]string // further ones to write in the guest: path, content
	makeDir bool              // make the working directory, as docker-create(1) does
	show    []hostDir         // of the host, that no request has to name
}

// newMembers returns the containers of a job: services first, in order, then its
// own.
func newMembers(r brokerapi.PrepareRequest) ([]*member, error) {
	var members []*member
	for i, c := range r.Services {
		m, err := newMember(fmt.Sprintf("service %d: ", i+1), c)
		if err != nil {
			return nil, err
		}
		m.isService, m.spec.makeDir = true, true
		m.addName(c.Name)
		members = append(members, m)
	}

	if r.Container != nil {
		m, err := newMember("container: ", *r.Container)
		if err != nil {
			return nil, err
		}
		members = append(members, m)
	}
	return members, nil
}

// addName adds the name that the workflow has for a service. One that is not a host
// name is left out.
func (m *member) addName(name string) {
	if keyPattern.MatchString(name) {
		m.spec.options.Aliases = append([]string{name}, m.spec.options.Aliases...)
	}
}

// newStep returns a container whose own process is a step.
func newStep(c brokerapi.Container) (*member, error) {
	m, err := newMember("", c)
	if err != nil {
		return nil, err
	}
	m.spec.makeDir = true
	return m, nil
}

// newMember parses Docker's words. An error starts with place, where in the
// workflow they stand.
func newMember(place string, c brokerapi.Container) (*member, error) {
	options, err := dockeropts.Parse(c.Options)
	if err != nil {
		return nil, wire.Unsupported("%soptions: %w", place, err)
	}
	m := newParsedMember(place, c, options)
	for _, text := range c.Ports {
		ports, err := dockeropts.ParsePorts(text)
		if err != nil {
			return nil, wire.Unsupported("%sports: %w", place, err)
		}
		m.spec.ports = append(m.spec.ports, ports...)
	}
	return m, nil
}

// newParsedMember returns a container with options in place of those that c has.
func newParsedMember(place string, c brokerapi.Container, options dockeropts.Options) *member {
	spec := containerSpec{Container: c, options: options, ports: slices.Clone(options.Ports)}
	spec.Mounts = slices.Clone(c.Mounts)
	for _, v := range options.Volumes {
		spec.Mounts = append(spec.Mounts, brokerapi.Mount{
			Target: v.Target, ReadOnly: v.ReadOnly,
			Source: v.Source, Volume: v.Name, Scratch: v.Source == "" && v.Name == "",
		})
	}
	return &member{spec: spec, place: place}
}

// notify reports what some of the options mean here.
func (m *member) notify(report reporter) {
	for _, notice := range m.spec.options.Notices {
		report("%soptions: %s", m.place, notice)
	}
}

// argv returns the container's own process, from the workflow or the image. An
// entrypoint of the workflow makes the image's command void, as in
// docker-run(1).
func (m *member) argv() []string {
	entrypoint, args := m.root.config.Entrypoint, m.root.config.Cmd
	if option := m.spec.options.Entrypoint; option != nil {
		entrypoint, args = nil, nil
		if *option != "" {
			entrypoint = []string{*option}
		}
	}
	if len(m.spec.Entrypoint) > 0 {
		entrypoint, args = m.spec.Entrypoint, nil
	}
	if len(m.spec.Args) > 0 {
		args = m.spec.Args
	}
	return slices.Concat(entrypoint, args)
}

// environment returns that of the image, overridden by the options, overridden
// by the workflow.
func (m *member) environment(home string) map[string]string {
	env := map[string]string{"HOME": home}
	maps.Copy(env, parseEnviron(m.root.config.Env))
	maps.Copy(env, m.spec.options.Env)
	maps.Copy(env, m.spec.Env)
	if env["PATH"] == "" {
		env["PATH"] = layout.Path
	}
	return env
}

// user returns who the container's processes run as.
func (m *member) user() (oci.User, error) {
	user, err := oci.FindUser(m.root.tree, cmp.Or(m.spec.options.User, m.root.config.User))
	if err != nil {
		return user, err
	}
	further, err := oci.FindGroups(m.root.tree, m.spec.options.Groups)
	user.Groups = append(user.Groups, further...)
	return user, err
}

// rlimits returns the limits that its processes start with, where they differ from
// the guest's.
func (m *member) rlimits() []guestapi.Rlimit {
	var limits []guestapi.Rlimit
	for _, u := range m.spec.options.Ulimits {
		limits = append(limits, guestapi.Rlimit(u))
	}
	return limits
}
