// Package dockeropts parses the container settings of a workflow that are
// written for Docker: options, which are those of docker-create(1), and ports.
// Nothing is ignored silently: an option that guests cannot honour is an error that
// says what to write instead, or leaves a notice of what it means here.
package dockeropts

import "time"

// Options is the subset of docker-create(1) that guests honour. The zero value
// asks for nothing. Parse returns no Options outside the bounds noted here.
type Options struct {
	CPUs       float64           // processors, 0.01 to 4096; 0: no limit of its own
	CPUWeight  uint64            // beside other guests, 1 to 10000 as in cgroups(7); 0: the default
	CPUSet     string            // a list of processors such as 0-2,4; empty: all
	Memory     int64             // bytes, 6 MiB to 1 PiB; 0: no limit of its own
	PidsLimit  int64             // processes and threads, to 4194304; 0: no limit of its own
	Env        map[string]string // by name; no name is empty
	Hostname   string            // labels of RFC 1123, 63 characters at most
	Domainname string            // as Hostname
	Aliases    []string          // names on the job's network, without repeats
	AddHosts   []HostEntry
	DNS        []string          // IPv4 addresses of name servers; none: those of the host
	DNSSearch  []string          // domains, of resolv.conf(5)
	DNSOptions []string          // of resolv.conf(5)
	Sysctls    map[string]string // by name, each beneath net
	Ports      []Port            // to publish, besides those of ports:
	User       string            // USER, UID, USER:GROUP or UID:GID, numbers to 65535
	Groups     []string          // further ones of its processes, names or numbers to 65535
	Workdir    string            // absolute, clean
	Entrypoint *string           // nil: the image's; "": none
	ReadOnly   bool              // the root file system cannot be written
	Volumes    []Volume          // besides those of volumes:
	Tmpfs      []Tmpfs
	ShmSize    int64 // bytes of /dev/shm, to 1 PiB; 0: the default
	// CapDrop names the capabilities that are dropped, "ALL" or in the form
	// "NET_RAW". It contains none of CapAdd.
	CapDrop []string
	// CapAdd names capabilities that a guest keeps, in the form "NET_RAW". It
	// has them anyway unless they are dropped.
	CapAdd          []string
	NoNewPrivileges bool     // of its processes, prctl(2)
	Ulimits         []Ulimit // one for each resource at most
	Devices         []Device
	Health          Health

	// Notices are for the author of the options: what some of them mean here.
	Notices []string
}

// HostEntry is a line of hosts(5).
type HostEntry struct {
	Name    string
	Address string // IPv4 or IPv6; empty if Gateway is set
	Gateway bool   // the address of where the job's steps run that have no container
}

// Device is a device of the host and its path in the guest, which reads and
// writes it. Both paths are beneath /dev.
type Device struct {
	Host  string
	Guest string
}

// Health describes how the broker checks whether a service is ready. Zero
// values leave it to the image, and then to the defaults of docker-create(1).
type Health struct {
	Disabled      bool          // all other fields are zero then
	Cmd           string        // for /bin/sh -c
	Interval      time.Duration // each duration is 1 ms to 24 h, or 0
	Timeout       time.Duration
	StartPeriod   time.Duration
	StartInterval time.Duration
	Retries       int // to 1000
}
