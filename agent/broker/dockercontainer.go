package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// dockerContainer is a container that the docker command of a job has made. Its
// guest lives from its first start until it is removed.
//
//	created --start--> running --its process ends--> exited
//	                      ^-------------start-----------'
type dockerContainer struct {
	job     *job
	id      string // lower-case hex, 64 digits
	words   dockeropts.Create
	argv    []string // its own process
	created time.Time
	log     outputLog

	changing sync.Mutex // held while it is started or removed
	member   *member    // its container is set under changing and mu

	mu        sync.Mutex // guards what follows
	process   *dockerProcess
	health    *brokerapi.ContainerHealth // nil without a health check
	published map[string][]brokerapi.PortBinding
	removed   bool
}

// dockerProcess is one run of a container's own process.
type dockerProcess struct {
	began   time.Time
	signals chan os.Signal
	exited  chan struct{} // closed when it has ended; the rest is set then

	ended  time.Time
	status int
	err    error // why there is no status
}

// outputKept bounds what the broker keeps of a container's output, in bytes.
const outputKept = 1 << 20

func (c *dockerContainer) name() string { return c.words.Name }

// state returns the process that ran last, nil if there was none, and whether it
// still runs.
func (c *dockerContainer) state() (p *dockerProcess, running bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return nil, false
	}
	select {
	case <-c.process.exited:
		return c.process, false
	default:
		return c.process, true
	}
}

// dockerStart starts the process of a container, and its guest if it has none.
func (j *job) dockerStart(ctx context.Context, name string) error {
	c, err := j.findContainer(name)
	if err != nil {
		return err
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	if _, running := c.state(); running {
		return nil
	}
	if err := c.launch(ctx); err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.label(), j.explain(err))
	}

	started := make(chan struct{})
	p := c.begin(
		wire.Streams{Stdout: c.log.writer(wire.Stdout), Stderr: c.log.writer(wire.Stderr), Started: started},
		false,
	)
	select {
	case <-started:
	case <-p.exited: // perhaps before it was started
		if p.err != nil {
			return fmt.Errorf("cannot start container %s: %w", c.label(), j.explain(p.err))
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	go c.watchHealth(p)
	return nil
}

// label returns the name of a container for messages.
func (c *dockerContainer) label() string {
	if c.name() != "" {
		return c.name()
	}
	return c.id[:12]
}

// launch starts the guest of a container, publishes its ports, and has the others
// of the job know its names. The caller holds changing.
func (c *dockerContainer) launch(ctx context.Context) error {
	j, m := c.job, c.member
	if m.container != nil {
		return nil
	}
	if c.removed {
		return errors.New("it was removed")
	}
	var err error
	if m.address, err = j.network.Reserve(); err != nil {
		return err
	}
	j.nameDocker(c)
	err = j.launch(ctx, m)
	if err == nil {
		err = c.publish()
	}
	if err != nil {
		j.unnameDocker(c)
		err = errors.Join(err, j.remove(m))
		m.container = nil
		return err
	}
	j.tellContainers()
	return nil
}

// publish publishes the ports of a container.
func (c *dockerContainer) publish() error {
	bindings := map[string][]brokerapi.PortBinding{}
	for _, p := range c.member.spec.ports {
		host, err := c.job.publishPort(network.Port(p), c.member.address)
		if err != nil {
			return err
		}
		key := fmt.Sprintf("%d/%s", p.Container, p.Protocol)
		for _, ip := range []string{"127.0.0.1", "::1"} {
			bindings[key] = append(bindings[key], brokerapi.PortBinding{HostIP: ip, HostPort: fmt.Sprint(host)})
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.published = bindings
	return nil
}

// begin starts the process of a container whose guest runs. It ends with the guest.
// The caller holds changing.
func (c *dockerContainer) begin(streams wire.Streams, input bool) *dockerProcess {
	p := &dockerProcess{began: time.Now(), signals: make(chan os.Signal, maxSignals), exited: make(chan struct{})}
	if streams.Signals == nil {
		streams.Signals = p.signals
	}
	in := c.member.container
	process := in.process(c.argv, in.env, in.dir)
	process.Stdin = input

	c.mu.Lock()
	c.process, c.health = p, nil
	if len(c.member.health().argv) > 0 {
		c.health = &brokerapi.ContainerHealth{Status: healthStarting}
	}
	c.mu.Unlock()
	go func() {
		defer close(p.exited)
		if len(c.argv) == 0 { // the guest's own init system is the process
			close(streams.Started)
			<-in.guest.Exited()
		} else {
			p.status, p.err = in.guest.Exec(context.Background(), process, streams)
		}
		p.ended = time.Now()
		c.log.end()
	}()
	return p
}

// The states of a health check.
const (
	healthStarting = "starting"
	healthGood     = "healthy"
	healthBad      = "unhealthy"
)

// watchHealth checks the health of a container while a process of it runs.
func (c *dockerContainer) watchHealth(p *dockerProcess) {
	check := c.member.health()
	if len(check.argv) == 0 {
		return
	}
	in, schedule := c.member.container, newHealthSchedule(check, p.began)
	for {
		begin := time.Now()
		status, _, err := in.checkHealth(c.job.ctx, check)
		wait := c.noteHealth(p, schedule, err == nil && status == 0, begin)

		select {
		case <-p.exited:
			c.endHealth(p)
			return
		case <-c.job.ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// noteHealth notes what a check has found that began at a time, and returns how long
// to wait for the next.
func (c *dockerContainer) noteHealth(
	p *dockerProcess, s *healthSchedule, good bool, began time.Time,
) (wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.process != p { // another one runs by now
		return 0
	}
	if good {
		s.failures, s.due = 0, now.Add(s.check.interval)
		c.health.Status, c.health.FailingStreak = healthGood, 0
		return s.check.interval
	}
	if s.failed(began, now) {
		c.health.Status = healthBad
	}
	c.health.FailingStreak = s.failures
	return s.wait(now)
}

// endHealth notes that a process has ended, which Docker too calls unhealthy.
func (c *dockerContainer) endHealth(p *dockerProcess) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == p && c.health != nil {
		c.health.Status = healthBad
	}
}

// dockerRun makes a container, runs its process to its end for the client, and
// removes it if that was asked for.
func (j *job) dockerRun(ctx context.Context, client *caller, r brokerapi.DockerCreate) (status int, err error) {
	report := func(format string, args ...any) {
		_ = client.Send(wire.Stderr, fmt.Appendf(nil, format+"\n", args...))
	}
	c, err := j.newDockerContainer(ctx, r, report)
	if err != nil {
		return 0, err
	}
	for _, notice := range c.words.Notices {
		report("WARNING: %s", notice)
	}
	defer func() {
		if c.words.Remove || err != nil {
			err = errors.Join(err, c.remove())
		}
	}()

	streams := client.streams()
	if c.words.Input {
		streams.Stdin = client.input
	}
	return c.runFor(ctx, streams)
}

// runFor runs the process of a container that was not started for a client. When
// ctx ends, its guest does too.
func (c *dockerContainer) runFor(ctx context.Context, streams wire.Streams) (int, error) {
	c.changing.Lock()
	if err := c.launch(ctx); err != nil {
		c.changing.Unlock()
		return 0, c.job.explain(err)
	}
	started := make(chan struct{})
	streams.Started = started
	p := c.begin(streams, c.words.Input)
	c.changing.Unlock()

	select {
	case <-p.exited:
	case <-ctx.Done():
		c.member.container.guest.Kill()
		<-p.exited
		return 0, context.Cause(ctx)
	}
	return p.status, c.job.explain(p.err)
}

// dockerExec runs a further process in a container that runs.
func (j *job) dockerExec(ctx context.Context, client *caller, r brokerapi.DockerExec) (int, error) {
	c, err := j.findContainer(r.Container)
	if err != nil {
		return 0, err
	}
	if _, running := c.state(); !running {
		return 0, fmt.Errorf("container %s is not running", c.label())
	}
	in := c.member.container
	env := maps.Clone(in.env)
	maps.Copy(env, r.Env)
	process := in.process(r.Argv, env, r.Dir)
	if r.Dir == "" {
		process.Dir = in.dir
	}
	if r.User != "" {
		user, err := oci.FindUser(c.member.root.tree, r.User)
		if err != nil {
			return 0, err
		}
		process.UID, process.GID, process.Groups = user.UID, user.GID, user.Groups
	}

	streams := client.streams()
	if r.Input {
		process.Stdin, streams.Stdin = true, client.input
	}
	status, err := in.guest.Exec(ctx, process, streams)
	return status, j.explain(err)
}

// dockerLogs sends what a container has printed.
func (j *job) dockerLogs(ctx context.Context, client *caller, r brokerapi.DockerLogs) error {
	c, err := j.findContainer(r.Container)
	if err != nil {
		return err
	}
	_, running := c.state()
	return c.log.copy(ctx, r.Follow && running, func(kind wire.Kind, data []byte) error { return client.Send(kind, data) })
}

// dockerStop ends the process of a container.
func (j *job) dockerStop(ctx context.Context, r brokerapi.DockerStop) error {
	c, err := j.findContainer(r.Container)
	if err != nil {
		return err
	}
	p, running := c.state()
	if !running {
		if r.Grace == 0 {
			return fmt.Errorf("container %s is not running", c.label())
		}
		return nil
	}

	signal := syscall.Signal(r.Signal)
	if signal == 0 {
		signal = syscall.SIGTERM
	}
	p.signal(signal)
	if r.Grace == 0 {
		return nil
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(min(r.Grace, maxGrace)):
	}
	p.signal(syscall.SIGKILL)
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// maxGrace bounds the time between SIGTERM and SIGKILL.
const maxGrace = 24 * time.Hour

// signal sends a signal to the process. One too many is dropped.
func (p *dockerProcess) signal(s syscall.Signal) {
	select {
	case p.signals <- s:
	default:
	}
}

// dockerWait waits for the end of a container's process.
func (j *job) dockerWait(ctx context.Context, name string) (*brokerapi.DockerExited, error) {
	c, err := j.findContainer(name)
	if err != nil {
		return nil, err
	}
	p, _ := c.state()
	if p == nil {
		return nil, fmt.Errorf("container %s was not started", c.label())
	}
	select {
	case <-p.exited:
		return &brokerapi.DockerExited{Status: p.exitStatus()}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// exitStatus returns the status of a process that has ended. One that ended with
// its guest was killed.
func (p *dockerProcess) exitStatus() int {
	if p.err != nil {
		return 128 + int(syscall.SIGKILL)
	}
	return p.status
}

// dockerRemove removes a container.
func (j *job) dockerRemove(r brokerapi.DockerRemove) error {
	c, err := j.findContainer(r.Container)
	if err != nil {
		return err
	}
	if _, running := c.state(); running && !r.Force {
		return fmt.Errorf("container %s is running: stop the container before removing or force remove", c.label())
	}
	return c.remove()
}

// remove removes a container with its guest. It may be called again.
func (c *dockerContainer) remove() error {
	c.changing.Lock()
	defer c.changing.Unlock()
	j := c.job
	if c.member.container != nil {
		c.member.container.guest.Kill()
		if err := j.discard(c.member); err != nil {
			return err
		}
		j.unnameDocker(c)
		j.tellContainers()
	}
	c.removed = true

	j.mu.Lock()
	defer j.mu.Unlock()
	j.docker.containers = slices.DeleteFunc(j.docker.containers, func(x *dockerContainer) bool { return x == c })
	return nil
}

// nameDocker adds a container to the names that the job's containers have for each
// other; unnameDocker takes it away again.
func (j *job) nameDocker(c *dockerContainer) {
	line := []string{c.member.address.String()}
	for _, name := range append(slices.Clone(c.words.Aliases), c.words.Hostname) {
		if name != "" && !slices.Contains(line, name) {
			line = append(line, name)
		}
	}
	if len(line) == 1 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.hosts = append(slices.Clone(j.hosts), line)
}

func (j *job) unnameDocker(c *dockerContainer) {
	address := c.member.address.String()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.hosts = slices.DeleteFunc(slices.Clone(j.hosts), func(line []string) bool { return line[0] == address })
}

// tellTimeout bounds how long a guest may take to learn a name: one that does not
// answer must not keep the others waiting.
const tellTimeout = 5 * time.Second

// tellContainers writes the names of the job's containers to all of its guests.
func (j *job) tellContainers() {
	j.mu.Lock()
	containers := slices.Clone(j.docker.containers)
	j.mu.Unlock()
	ctx, cancel := context.WithTimeout(j.ctx, tellTimeout)
	defer cancel()

	var told sync.WaitGroup
	told.Go(func() { j.warnOf(j.tellWorker()) })
	for _, c := range containers {
		if in := c.guestContainer(); in != nil {
			hostname := cmp.Or(c.words.Hostname, in.guest.ID())
			told.Go(func() { j.warnOf(j.tell(ctx, c.member, in.guest, hostname)) })
		}
	}
	told.Wait()
}

func (j *job) warnOf(err error) {
	if err != nil && j.ctx.Err() == nil {
		j.log.Warn("a guest was not told the names of others", "job", j.id, "error", err)
	}
}

// guestContainer returns the running guest of a container, or nil.
func (c *dockerContainer) guestContainer() *container {
	if _, running := c.state(); !running {
		return nil
	}
	return c.member.container
}

// info describes a container as docker inspect does.
func (c *dockerContainer) info(joined string) brokerapi.ContainerInfo {
	m := c.member
	image := m.root.config
	x := brokerapi.ContainerInfo{
		ID: c.id, Created: c.created, Name: "/" + c.name(), Image: c.words.Image, Driver: "overlay", Platform: "linux",
		Config: brokerapi.ContainerConfig{
			Hostname: c.words.Hostname, User: cmp.Or(c.words.User, image.User),
			Env: environ(m.environment("/root")), Image: c.words.Image, WorkingDir: c.words.Workdir,
			Labels: c.words.Labels, Cmd: c.words.Command,
		},
		HostConfig: brokerapi.ContainerHost{NetworkMode: joined, Memory: c.words.Memory, AutoRemove: c.words.Remove},
	}
	if len(c.argv) > 0 {
		x.Path, x.Args = c.argv[0], c.argv[1:]
	}
	for _, v := range c.words.Volumes {
		mount := brokerapi.ContainerMount{Type: "bind", Source: v.Source, Destination: v.Target, RW: !v.ReadOnly}
		if v.Source == "" {
			mount.Type, mount.Name = "volume", v.Name
		}
		x.Mounts = append(x.Mounts, mount)
	}
	c.describeRun(&x, joined)
	return x
}

// describeRun adds what changes while a container runs.
func (c *dockerContainer) describeRun(x *brokerapi.ContainerInfo, joined string) {
	p, running := c.state()
	switch {
	case p == nil:
		x.State = brokerapi.ContainerState{Status: "created"}
	case running:
		x.State = brokerapi.ContainerState{Status: "running", Running: true, StartedAt: p.began}
	default:
		x.State = brokerapi.ContainerState{
			Status: "exited", ExitCode: p.exitStatus(), StartedAt: p.began, FinishedAt: p.ended,
		}
	}

	if check := c.member.health(); len(check.argv) > 0 {
		x.Config.Healthcheck = &brokerapi.ContainerHealthCmd{Test: append([]string{"CMD"}, check.argv...)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.health != nil {
		health := *c.health
		x.State.Health = &health
	}
	x.NetworkSettings.Ports = c.published
	if p != nil {
		address := c.member.address.String()
		x.NetworkSettings.IPAddress = address
		x.NetworkSettings.Networks = map[string]brokerapi.NetworkInfo{
			joined: {IPAddress: address, NetworkID: joined, Aliases: c.words.Aliases},
		}
	}
}

// listContainers describes the containers of the job, the newest first.
func (j *job) listContainers() brokerapi.DockerContainers {
	j.mu.Lock()
	containers, joined := slices.Clone(j.docker.containers), j.docker.network
	j.mu.Unlock()
	list := brokerapi.DockerContainers{Network: joined, Containers: []brokerapi.ContainerInfo{}}
	for _, c := range slices.Backward(containers) {
		list.Containers = append(list.Containers, c.info(joined))
	}
	return list
}
