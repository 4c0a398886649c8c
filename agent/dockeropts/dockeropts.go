// Package dockeropts parses the container settings of a workflow that are
// written for Docker: options, which are those of docker-create(1), and ports.
// Nothing is ignored: an option that guests cannot honour is an error that says
// what to write instead.
package dockeropts

import "time"

// Options is the subset of docker-create(1) that guests honour. The zero value
// asks for nothing. Parse returns no Options outside the bounds noted here.
type Options struct {
	CPUs       float64           `json:"cpus,omitempty"`       // processors, 0.01 to 4096; 0: no limit of its own
	Memory     int64             `json:"memory,omitempty"`     // bytes, 6 MiB to 1 PiB; 0: as CPUs
	PidsLimit  int64             `json:"pids_limit,omitempty"` // processes and threads, to 4194304; 0: as CPUs
	Env        map[string]string `json:"env,omitempty"`        // by name; no name is empty
	Hostname   string            `json:"hostname,omitempty"`   // labels of RFC 1123, 63 characters at most
	Aliases    []string          `json:"aliases,omitempty"`    // names on the job's network, without repeats
	AddHosts   []HostEntry       `json:"add_hosts,omitempty"`
	User       string            `json:"user,omitempty"`       // USER, UID, USER:GROUP or UID:GID, numbers to 65535
	Workdir    string            `json:"workdir,omitempty"`    // absolute, clean
	Entrypoint *string           `json:"entrypoint,omitempty"` // nil: the image's; "": none
	Tmpfs      []Tmpfs           `json:"tmpfs,omitempty"`
	ShmSize    int64             `json:"shm_size,omitempty"` // bytes of /dev/shm, to 1 PiB; 0: the default
	// CapDrop names the capabilities that are dropped, "ALL" or in the form
	// "NET_RAW". It contains none of CapAdd.
	CapDrop []string `json:"cap_drop,omitempty"`
	// CapAdd names capabilities that a guest keeps, in the form "NET_RAW". It
	// has them anyway unless they are dropped.
	CapAdd  []string `json:"cap_add,omitempty"`
	Devices []Device `json:"devices,omitempty"`
	Health  Health   `json:"health,omitzero"`
}

// HostEntry is a line of hosts(5).
type HostEntry struct {
	Name    string `json:"name"`
	Address string `json:"address"` // IPv4 or IPv6
}

// Device is a device of the host and its path in the guest, which reads and
// writes it. Both paths are beneath /dev.
type Device struct {
	Host  string `json:"host"`
	Guest string `json:"guest"`
}

// Health describes how the broker checks whether a service is ready. Zero
// values leave it to the image, and then to the defaults of docker-create(1).
type Health struct {
	Disabled      bool          `json:"disabled,omitempty"` // all other fields are zero then
	Cmd           string        `json:"cmd,omitempty"`      // for /bin/sh -c
	Interval      time.Duration `json:"interval,omitempty"` // each duration is 1 ms to 24 h, or 0
	Timeout       time.Duration `json:"timeout,omitempty"`
	StartPeriod   time.Duration `json:"start_period,omitempty"`
	StartInterval time.Duration `json:"start_interval,omitempty"`
	Retries       int           `json:"retries,omitempty"` // to 1000
}
