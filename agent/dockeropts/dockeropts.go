// Package dockeropts reads what a workflow says of a container in words made for
// Docker: options, which are those of docker-create(1), and ports. Nothing is
// ignored: what a guest cannot do is an error that says what to write instead.
package dockeropts

import "time"

// Options is the subset of docker-create(1) that guests honour. The zero value
// asks for nothing.
type Options struct {
	CPUs       float64           `json:"cpus,omitempty"`       // processors' worth of time, 0.01 to 4096; 0: no limit of its own
	Memory     int64             `json:"memory,omitempty"`     // bytes, 6 MiB to 1 PiB; 0: no limit of its own
	PidsLimit  int64             `json:"pids_limit,omitempty"` // processes and threads, to 4194304; 0: no limit of its own
	Env        map[string]string `json:"env,omitempty"`        // no name is empty
	Hostname   string            `json:"hostname,omitempty"`   // labels of RFC 1123, 63 characters at most
	Aliases    []string          `json:"aliases,omitempty"`    // names on the job's network, without repeats
	AddHosts   []HostEntry       `json:"add_hosts,omitempty"`
	User       string            `json:"user,omitempty"`       // USER, UID, USER:GROUP or UID:GID, numbers to 65535
	Workdir    string            `json:"workdir,omitempty"`    // absolute, clean
	Entrypoint *string           `json:"entrypoint,omitempty"` // nil: the image's; "": none
	Tmpfs      []Tmpfs           `json:"tmpfs,omitempty"`
	ShmSize    int64             `json:"shm_size,omitempty"` // bytes of /dev/shm, to 1 PiB; 0: the default
	// CapDrop names the capabilities that are taken from the guest, "ALL" or
	// such as "NET_RAW". Those of CapAdd, which a guest has unless they are
	// dropped, are not among them.
	CapDrop []string `json:"cap_drop,omitempty"`
	CapAdd  []string `json:"cap_add,omitempty"`
	Devices []Device `json:"devices,omitempty"`
	Health  Health   `json:"health,omitzero"`
}

// HostEntry is a line of hosts(5).
type HostEntry struct {
	Name    string `json:"name"`
	Address string `json:"address"` // IPv4 or IPv6
}

// Device is a device of the host and where it appears in the guest, to be read
// and written. Both lie beneath /dev.
type Device struct {
	Host  string `json:"host"`
	Guest string `json:"guest"`
}

// Health says how to find out whether a service can be used. Zero values leave
// it to the image, and then to the defaults of docker-create(1).
type Health struct {
	Disabled      bool          `json:"disabled,omitempty"` // then all else is zero
	Cmd           string        `json:"cmd,omitempty"`      // for /bin/sh -c
	Interval      time.Duration `json:"interval,omitempty"` // each 1 ms to 24 h
	Timeout       time.Duration `json:"timeout,omitempty"`
	StartPeriod   time.Duration `json:"start_period,omitempty"`
	StartInterval time.Duration `json:"start_interval,omitempty"`
	Retries       int           `json:"retries,omitempty"` // to 1000
}
