package brokerapi

import (
	"context"
	"io"
	"time"

	"github.com/mkappliance/mkappliance/agent/wire"
)

// Docker is a request of the docker command in the guest of a job's worker: one
// of its members. It concerns the containers of that job alone. A container is
// named by its id, an unambiguous beginning of that, or its name.
type Docker struct {
	Network *DockerNetwork `json:"network,omitempty"`
	Pull    *DockerPull    `json:"pull,omitempty"`
	Build   *DockerBuild   `json:"build,omitempty"`
	Create  *DockerCreate  `json:"create,omitempty"`
	Start   *DockerStart   `json:"start,omitempty"`
	Run     *DockerCreate  `json:"run,omitempty"` // created, started and removed
	Exec    *DockerExec    `json:"exec,omitempty"`
	List    *struct{}      `json:"list,omitempty"`
	Logs    *DockerLogs    `json:"logs,omitempty"`
	Stop    *DockerStop    `json:"stop,omitempty"`
	Wait    *DockerWait    `json:"wait,omitempty"`
	Remove  *DockerRemove  `json:"remove,omitempty"`
}

// DockerNetwork names the network of the job, which all its containers join. It
// exists before it has a name.
type DockerNetwork struct {
	Name   string `json:"name"`
	Remove bool   `json:"remove,omitempty"` // take the name away again
}

// DockerPull has an image pulled, unless it is there.
type DockerPull struct {
	Image       string       `json:"image"`
	Credentials *Credentials `json:"credentials,omitempty"`
}

// DockerBuild builds an image from a Dockerfile in a directory that lies beneath
// the work directory, both as the guest sees them. Containers of the job can be
// made of it by its tags.
type DockerBuild struct {
	Dockerfile string   `json:"dockerfile"`
	Context    string   `json:"context"`
	Tags       []string `json:"tags"`
}

// DockerCreate makes a container. Args are options, image and command, as they
// stand behind "docker create": the broker parses them.
type DockerCreate struct {
	Args []string          `json:"args"`
	Env  map[string]string `json:"env,omitempty"` // values of the variables that Args name without one
	// Credentials are those of the image's registry, should it have to be pulled.
	Credentials *Credentials `json:"credentials,omitempty"`
}

// DockerCreated describes a container that was made.
type DockerCreated struct {
	ID       string   `json:"id"`                 // lower-case hex, 64 digits
	Warnings []string `json:"warnings,omitempty"` // about options that mean less here
}

// DockerStart starts the process of a container.
type DockerStart struct {
	Container string `json:"container"`
}

// DockerExec runs a further process in a container.
type DockerExec struct {
	Container string            `json:"container"`
	Argv      []string          `json:"argv"`
	Env       map[string]string `json:"env,omitempty"` // overrides the container's
	Dir       string            `json:"dir,omitempty"` // empty for the container's
	User      string            `json:"user,omitempty"`
	Input     bool              `json:"input,omitempty"` // Stdin frames follow
}

// DockerLogs reads what the process of a container has printed, as far as the
// broker keeps it.
type DockerLogs struct {
	Container string `json:"container"`
	Follow    bool   `json:"follow,omitempty"` // until the process ends
}

// DockerStop ends the process of a container by a signal, and by SIGKILL after
// Grace.
type DockerStop struct {
	Container string        `json:"container"`
	Signal    int           `json:"signal,omitempty"` // 0: the image's own, or SIGTERM
	Grace     time.Duration `json:"grace,omitempty"`  // 0: only the signal is sent
}

// DockerWait waits for the end of a container's process.
type DockerWait struct {
	Container string `json:"container"`
}

// DockerExited is the status of a process that has ended.
type DockerExited struct {
	Status int `json:"status"`
}

// DockerRemove removes a container. One whose process runs is refused unless
// Force is set.
type DockerRemove struct {
	Container string `json:"container"`
	Force     bool   `json:"force,omitempty"`
}

// DockerContainers lists the containers of a job, the newest first.
type DockerContainers struct {
	Containers []ContainerInfo `json:"containers"`
	Network    string          `json:"network,omitempty"` // name of the job's network
}

// Docker asks for something that has no process. The broker reports what takes
// long, line by line, to progress. The reply may be nil.
func (c *Client) Docker(ctx context.Context, r Docker, reply any, progress io.Writer) error {
	return c.call(ctx, Envelope{Docker: &r}, reply, progress)
}

// DockerProcess asks for a process, or for what one has printed, and returns its
// status.
func (c *Client) DockerProcess(ctx context.Context, r Docker, s wire.Streams) (int, error) {
	return c.exec(ctx, Envelope{Docker: &r}, s)
}
