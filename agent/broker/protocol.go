// Package broker is the root side of container jobs: it owns the guests. Its
// clients, the hook among them, run as the unprivileged user runner and can
// name only ids, in-guest values and paths beneath the work root; every host
// path, user id and limit comes from the broker's own settings.
package broker

// DefaultSocket is where the broker listens.
const DefaultSocket = "/run/runner/guest.sock"

// Mount asks for a directory of the host to appear in the guest. Exactly one
// of Work, Externals and Volume says which.
type Mount struct {
	Target   string `json:"target"` // absolute path in the guest
	ReadOnly bool   `json:"read_only,omitempty"`

	// Work is a path beneath the work root, relative to it; "." is the work
	// root itself. It is made if it does not exist.
	Work string `json:"work,omitempty"`
	// Externals is the runner's own directory of node.js builds.
	Externals bool `json:"externals,omitempty"`
	// Volume is a host path a workflow asked for. It is refused unless it lies
	// beneath a root that the settings allow.
	Volume string `json:"volume,omitempty"`
}

// PrepareRequest asks for the guest of a job. A guest that an earlier job left
// behind is ended first.
type PrepareRequest struct {
	Image  string            `json:"image"`            // container.image as the workflow has it
	Env    map[string]string `json:"env,omitempty"`    // for every step of the job
	Mounts []Mount           `json:"mounts,omitempty"` // in order: later ones may lie on earlier ones
}

// PrepareReply describes the guest of a job.
type PrepareReply struct {
	Job     string `json:"job"`     // opaque id for the other requests, lower-case hex
	Network string `json:"network"` // id of the job's network
	Alpine  bool   `json:"alpine"`  // whether the image's os-release says ID=alpine
}

// ExecRequest runs one process in the guest of a job. Its environment is the
// image's, overridden by the job's, overridden by Env.
type ExecRequest struct {
	Job  string            `json:"job"`
	Argv []string          `json:"argv"` // Argv[0] is looked up in the guest's PATH
	Env  map[string]string `json:"env,omitempty"`
	// PrependPath goes before the PATH that the environments above give.
	PrependPath []string `json:"prepend_path,omitempty"`
	Dir         string   `json:"dir,omitempty"` // working directory in the guest; empty for "/"
}

// RunRequest runs one command in a fresh guest of the base tree, by hand.
type RunRequest struct {
	Argv []string          `json:"argv"`
	Env  map[string]string `json:"env,omitempty"`
	Dir  string            `json:"dir,omitempty"`
}

// envelope is what a client sends first: one verb and its request.
type envelope struct {
	Prepare *PrepareRequest `json:"prepare,omitempty"`
	Exec    *ExecRequest    `json:"exec,omitempty"`
	Cleanup *CleanupRequest `json:"cleanup,omitempty"`
	Run     *RunRequest     `json:"run,omitempty"`
	Reset   *struct{}       `json:"reset,omitempty"`
}

// CleanupRequest ends the guest of a job.
type CleanupRequest struct {
	Job string `json:"job"`
}
