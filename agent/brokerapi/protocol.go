// Package brokerapi is what the broker, the root side of container jobs, can be
// asked for, and the client that asks. Callers, the hook among them, run as the
// unprivileged user runner. They send ids, values of a guest, and the words of a
// workflow as they are; the broker decides what a path of the host means and
// parses options and ports itself.
package brokerapi

// DefaultSocket is where the broker listens.
const DefaultSocket = "/run/runner/guest.sock"

// Mount asks for a directory to appear in the guest. Exactly one of Source,
// Externals, Volume and Scratch says which.
type Mount struct {
	Target   string `json:"target"` // absolute path in the guest
	ReadOnly bool   `json:"read_only,omitempty"`

	// Source is a directory of the host, by its path there. It is refused
	// unless it lies beneath the work root, where it is made if it does not
	// exist, or beneath a root that the settings allow.
	Source string `json:"source,omitempty"`
	// Externals is the runner's own directory of node.js builds.
	Externals bool `json:"externals,omitempty"`
	// Volume is the name of an empty directory that all containers of the job
	// see that ask for it, and that goes with the job.
	Volume string `json:"volume,omitempty"`
	// Scratch is an empty directory that goes with the guest.
	Scratch bool `json:"scratch,omitempty"`
}

// Credentials are those of an image's registry.
type Credentials struct {
	Username string `json:"username"`
	Password string `json:"password,omitempty"`
	Server   string `json:"server,omitempty"` // empty: the image's own
}

// Container is a container as a workflow describes it.
type Container struct {
	Name        string       `json:"name,omitempty"`  // of a service in the workflow, if the client knows it
	Image       string       `json:"image,omitempty"` // as the workflow has it
	Credentials *Credentials `json:"credentials,omitempty"`
	// Entrypoint and Args replace the image's own, if given.
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Args       []string          `json:"args,omitempty"`
	Env        map[string]string `json:"env,omitempty"` // overrides the image's
	Dir        string            `json:"dir,omitempty"` // working directory; empty for the image's
	Mounts     []Mount           `json:"mounts,omitempty"`
	Ports      []string          `json:"ports,omitempty"`   // as a workflow has them, see dockeropts.ParsePorts
	Options    string            `json:"options,omitempty"` // as a workflow has them, see dockeropts.Parse
}

// PrepareRequest asks for the guests of a job. Those that an earlier job left
// behind are ended first.
type PrepareRequest struct {
	// Workspace is the directory of the job's repository on the host. It is
	// emptied and stays; what earlier jobs left beside it does not.
	Workspace string      `json:"workspace,omitempty"`
	Container *Container  `json:"container,omitempty"` // nil: its steps run on the host
	Services  []Container `json:"services,omitempty"`
}

// PrepareReply describes the guests of a job.
type PrepareReply struct {
	Job       string    `json:"job"`     // opaque id for the other requests, lower-case hex
	Network   string    `json:"network"` // id of the job's network
	Alpine    bool      `json:"alpine"`  // whether the job container's os-release says ID=alpine
	Container *Started  `json:"container,omitempty"`
	Services  []Started `json:"services,omitempty"` // in the order of the request
}

// Started describes one guest.
type Started struct {
	ID    string            `json:"id"`              // lower-case hex
	Ports map[string]string `json:"ports,omitempty"` // of the container: of the host
}

// ExecRequest runs one process in the guest of a job. Its environment is the
// image's, overridden by the job's, overridden by Env.
type ExecRequest struct {
	Job  string            `json:"job"`           // PrepareReply.Job
	Argv []string          `json:"argv"`          // Argv[0] is looked up in the guest's PATH
	Env  map[string]string `json:"env,omitempty"` // overrides the job's
	// PrependPath goes before the PATH of the environments above.
	PrependPath []string `json:"prepend_path,omitempty"`
	Dir         string   `json:"dir,omitempty"` // working directory in the guest; empty for "/"
}

// ContainerRequest runs a container to its end, in a guest of its own.
type ContainerRequest struct {
	Job string `json:"job,omitempty"` // whose network it joins; empty for one of its own
	Container
	Build *Build `json:"build,omitempty"` // in place of Container.Image
}

// Build names a Dockerfile beneath the work root by its path on the host. The
// directory it lies in is its context.
type Build struct {
	Dockerfile string `json:"dockerfile"`
}

// RunRequest runs one command in a fresh guest of the base tree, by hand.
type RunRequest struct {
	Argv []string          `json:"argv"`
	Env  map[string]string `json:"env,omitempty"`
	Dir  string            `json:"dir,omitempty"`
}

// CleanupRequest ends the guests of a job.
type CleanupRequest struct {
	Job string `json:"job"`
}

// WorkerRequest runs the actions runner's worker in a guest of its own. The
// client sends its input and signals as frames after the request, and at most
// one Job frame with a JobInfo. An earlier job is ended first.
type WorkerRequest struct {
	Env map[string]string `json:"env,omitempty"` // of the listener; the broker decides what of it the worker gets
}

// JobInfo is what the relay read of a job message before the worker did. It
// serves speed, names and logs only: the job runs without it as well.
type JobInfo struct {
	Name      string        `json:"name"`                // as GitHub shows it
	Container string        `json:"container,omitempty"` // image of the job's container; empty if none, or not known
	Services  []ServiceInfo `json:"services,omitempty"`  // in the order of the workflow
	Images    []string      `json:"images,omitempty"`    // that the job will need and anybody may pull, without duplicates
}

// ServiceInfo describes a service of a job.
type ServiceInfo struct {
	Key   string `json:"key"`             // the workflow's name for it, by which steps reach it
	Image string `json:"image,omitempty"` // empty if not known
}

// Envelope is what a client sends first: one verb and its request.
type Envelope struct {
	Prepare   *PrepareRequest   `json:"prepare,omitempty"`
	Exec      *ExecRequest      `json:"exec,omitempty"`
	Container *ContainerRequest `json:"container,omitempty"`
	Cleanup   *CleanupRequest   `json:"cleanup,omitempty"`
	Run       *RunRequest       `json:"run,omitempty"`
	Reset     *struct{}         `json:"reset,omitempty"`
	Worker    *WorkerRequest    `json:"worker,omitempty"`
	Docker    *Docker           `json:"docker,omitempty"` // from a job's guest only
}
