package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// maxDockerContainers bounds how many containers a job's docker command may have
// made and not removed. Each costs the broker what it keeps of its output.
const maxDockerContainers = 64

// maxDockerImages bounds how many names of images a job may have pulled or built.
const maxDockerImages = 256

// dockerState is what the docker command in the guest of a job's worker has made.
// Its containers join a job one at a time, unlike those of the hook.
type dockerState struct {
	network    string // name of the job's network; "" while it has none
	containers []*dockerContainer
	images     map[string]rootFS // that the job has pulled or built, by name; each kept until it ends
}

// answerDocker carries out a request of the docker command in the job's guest.
func (j *job) answerDocker(
	ctx context.Context,
	cancel context.CancelFunc,
	client *wire.Conn,
	r brokerapi.Docker,
) error {
	switch {
	case r.Run != nil:
		status, err := j.dockerRun(ctx, newCaller(client, cancel), *r.Run)
		return sendExit(client, status, err)
	case r.Exec != nil:
		status, err := j.dockerExec(ctx, newCaller(client, cancel), *r.Exec)
		return sendExit(client, status, err)
	case r.Logs != nil:
		return sendExit(client, 0, j.dockerLogs(ctx, newCaller(client, cancel), *r.Logs))
	case r.Build != nil:
		return sendExit(client, 0, j.dockerBuild(ctx, newCaller(client, cancel), *r.Build))
	}

	awaitHangup(client, cancel)
	reply, err := j.callDocker(ctx, reportTo(client), r)
	return sendReply(client, reply, err)
}

// callDocker carries out a request that follows no process.
func (j *job) callDocker(ctx context.Context, report reporter, r brokerapi.Docker) (reply any, err error) {
	reply = struct{}{}
	switch {
	case r.List != nil:
		reply = j.listContainers()
	case r.Network != nil:
		err = j.nameNetwork(*r.Network)
	case r.Pull != nil:
		err = j.dockerPull(ctx, *r.Pull, report)
	case r.Create != nil:
		reply, err = j.dockerCreate(ctx, *r.Create, report)
	case r.Start != nil:
		err = j.dockerStart(ctx, r.Start.Container)
	case r.Stop != nil:
		err = j.dockerStop(ctx, *r.Stop)
	case r.Wait != nil:
		reply, err = j.dockerWait(ctx, r.Wait.Container)
	case r.Remove != nil:
		err = j.dockerRemove(*r.Remove)
	default:
		err = errors.New("cannot carry out the request: it asks for nothing")
	}
	return reply, err
}

// nameNetwork sets the name of the job's network, or takes it away. A job has one.
func (j *job) nameNetwork(r brokerapi.DockerNetwork) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case r.Remove && (j.docker.network != r.Name || r.Name == ""):
		return wire.WithCode(wire.CodeNotFound, fmt.Errorf("network %.80s not found", r.Name))
	case r.Remove:
		j.docker.network = ""
		return nil
	case !keyPattern.MatchString(r.Name):
		return fmt.Errorf("%.80q is not a name of a network", r.Name)
	case j.docker.network != "" && j.docker.network != r.Name:
		return wire.Unsupported("the job has the network %s already, and no other", j.docker.network)
	}
	j.docker.network = r.Name
	return nil
}

// dockerPull pulls an image, and keeps it until the job ends.
func (j *job) dockerPull(ctx context.Context, r brokerapi.DockerPull, report reporter) error {
	ctx, done, err := j.enter(ctx)
	if err != nil {
		return j.explain(err)
	}
	defer done()

	root, err := j.findRoot(ctx, brokerapi.Container{Image: r.Image, Credentials: r.Credentials}, report)
	if err != nil {
		return j.explain(err)
	}
	return j.keepImage(root, r.Image)
}

// keepImage keeps a root file system until the job ends, by names under which
// containers can be made of it. Its registry is not asked again, as with Docker.
func (j *job) keepImage(root rootFS, names ...string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.docker.images == nil {
		j.docker.images = map[string]rootFS{}
	}
	if len(j.docker.images)+len(names) > maxDockerImages || len(j.early) >= 2*maxDockerImages {
		root.release()
		return fmt.Errorf("the job has pulled or built %d images already", maxDockerImages)
	}
	j.early = append(j.early, root)
	for _, name := range names {
		j.docker.images[name] = root
	}
	return nil
}

// dockerBuild builds an image, and keeps it under its tags until the job ends.
func (j *job) dockerBuild(ctx context.Context, client *caller, r brokerapi.DockerBuild) error {
	ctx, done, err := j.enter(ctx)
	if err != nil {
		return j.explain(err)
	}
	defer done()

	root, err := j.build(ctx, client, j.work, j, brokerapi.Build{Dockerfile: r.Dockerfile})
	if err != nil {
		return j.explain(err)
	}
	return j.keepImage(root, r.Tags...)
}

// dockerRoot returns the root file system of an image's name: one that the job has
// pulled or built, or else one that is pulled now.
func (j *job) dockerRoot(ctx context.Context, c brokerapi.Container, report reporter) (rootFS, error) {
	j.mu.Lock()
	root, ok := j.docker.images[c.Image]
	j.mu.Unlock()
	if ok {
		return root, nil
	}

	root, err := j.findRoot(ctx, c, report)
	if err != nil {
		return rootFS{}, err
	}
	return root, j.keepImage(root, c.Image)
}

// dockerCreate makes a container, which has no guest before it is started.
func (j *job) dockerCreate(
	ctx context.Context, r brokerapi.DockerCreate, report reporter,
) (*brokerapi.DockerCreated, error) {
	c, err := j.newDockerContainer(ctx, r, report)
	if err != nil {
		return nil, err
	}
	return &brokerapi.DockerCreated{ID: c.id, Warnings: c.words.Notices}, nil
}

// newDockerContainer makes a container from the words of docker create.
func (j *job) newDockerContainer(
	ctx context.Context, r brokerapi.DockerCreate, report reporter,
) (*dockerContainer, error) {
	words, err := dockeropts.ParseCreate(r.Args, r.Env)
	if err != nil {
		return nil, wire.WithCode(wire.CodeUnsupported, err)
	}
	if words.Network != "" && words.Network != j.networkName() {
		return nil, wire.WithCode(wire.CodeNotFound, fmt.Errorf("network %.80s not found", words.Network))
	}
	ctx, done, err := j.enter(ctx)
	if err != nil {
		return nil, j.explain(err)
	}
	defer done()

	m := newDockerMember(words)
	m.spec.Credentials = r.Credentials
	if m.root, err = j.dockerRoot(ctx, m.spec.Container, report); err != nil {
		return nil, j.explain(err)
	}
	argv := m.argv()
	if len(argv) == 0 && !m.root.hasInit {
		return nil, fmt.Errorf("no command specified: image %s names none", words.Image)
	}

	c := &dockerContainer{
		job: j, id: newID() + newID(), words: words, member: m, argv: argv, created: time.Now(),
		log: outputLog{limit: outputKept},
	}
	return c, j.addDockerContainer(c)
}

// networkName returns the name that the job's network has.
func (j *job) networkName() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.docker.network
}

// newDockerMember returns the member that docker create asks for.
func newDockerMember(words dockeropts.Create) *member {
	m := newParsedMember("", brokerapi.Container{Image: words.Image, Args: words.Command}, words.Options)
	m.isService, m.spec.makeDir = true, true
	for i, mount := range m.spec.Mounts {
		if mount.Source == layout.WorkerRunner+"/externals" { // by its path in the worker's guest
			m.spec.Mounts[i] = brokerapi.Mount{Target: mount.Target, Externals: true}
		}
	}
	return m
}

// addDockerContainer makes a container one of the job's.
func (j *job) addDockerContainer(c *dockerContainer) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.state == ended:
		return errEnded
	case len(j.docker.containers) >= maxDockerContainers:
		return fmt.Errorf("the job has %d containers already; remove some", maxDockerContainers)
	case c.name() != "" && slices.ContainsFunc(j.docker.containers, c.hasNameOf):
		return fmt.Errorf("the container name %q is in use; remove that container first", c.name())
	}
	j.docker.containers = append(j.docker.containers, c)
	return nil
}

// hasNameOf reports whether another container has the same name.
func (c *dockerContainer) hasNameOf(other *dockerContainer) bool { return c.name() == other.name() }

// findContainer returns the container that a name means.
func (j *job) findContainer(name string) (*dockerContainer, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found *dockerContainer
	name = strings.TrimPrefix(name, "/")
	for _, c := range j.docker.containers {
		switch {
		case name == "":
		case c.id == name || c.name() == name:
			return c, nil
		case strings.HasPrefix(c.id, name) && found != nil:
			return nil, fmt.Errorf("several containers have an id that begins with %.80q", name)
		case strings.HasPrefix(c.id, name):
			found = c
		}
	}
	if found == nil {
		return nil, wire.WithCode(wire.CodeNotFound, fmt.Errorf("there is no container %.80s", name))
	}
	return found, nil
}
