// Package guestapi is what the guest agent, runner-shim inside a guest, can be
// asked for. The broker asks; package guestinit answers. It holds the types of
// the requests alone, so that the broker does not contain the agent.
package guestapi

import "strings"

// Request is the first frame of a conversation: exactly one of its members.
type Request struct {
	Exec      *Process `json:"exec,omitempty"`
	Configure *Config  `json:"configure,omitempty"`
}

// Process is a process to start in a guest.
type Process struct {
	Argv []string `json:"argv"` // Argv[0] is looked up in the PATH of Env
	Env  []string `json:"env"`  // the whole environment, KEY=VALUE
	Dir  string   `json:"dir"`  // working directory; empty for "/"

	UID    uint32   `json:"uid,omitempty"` // of the guest
	GID    uint32   `json:"gid,omitempty"`
	Groups []uint32 `json:"groups,omitempty"` // besides GID

	// DropCapabilities are taken from the process and all it starts, by name
	// without CAP_, capabilities(7); ALL stands for all.
	DropCapabilities []string `json:"drop_capabilities,omitempty"`
	// NoNewPrivileges keeps set-user-ID programs and the like from granting more to
	// it and all it starts, prctl(2).
	NoNewPrivileges bool     `json:"no_new_privileges,omitempty"`
	Rlimits         []Rlimit `json:"rlimits,omitempty"` // of it and all it starts

	// InputFD adds two descriptors to the process: at 3 a pipe to read, with
	// what comes as wire.Stdin frames, and at 4 a pipe to write, whose content
	// is discarded. The worker of the actions runner is started with such a pair. In
	// a guest that boots, the process starts at once, and its input waits until the
	// init system is ready.
	InputFD bool `json:"input_fd,omitempty"`

	// Stdin has the process read, as its standard input, what comes as wire.Stdin
	// frames. Otherwise there is nothing to read. It excludes InputFD.
	Stdin bool `json:"stdin,omitempty"`
}

// Rlimit is a limit of getrlimit(2). A hard limit above the guest's is an error.
type Rlimit struct {
	Resource int    `json:"resource"` // RLIMIT_...
	Soft     uint64 `json:"soft"`     // math.MaxUint64: no limit
	Hard     uint64 `json:"hard"`
}

// Config makes a running guest the one that a container asks for. The broker
// sends it before any process of a job, and later again with Files alone.
type Config struct {
	Hostname   string            `json:"hostname,omitempty"`
	Domainname string            `json:"domainname,omitempty"` // as setdomainname(2) has it
	Files      map[string]string `json:"files,omitempty"`      // path: content, replaced as a whole
	Dirs       []string          `json:"dirs,omitempty"`       // made if they do not exist
	Mounts     []Mount           `json:"mounts,omitempty"`
	Tmpfs      []Tmpfs           `json:"tmpfs,omitempty"`
	Sysctls    map[string]string `json:"sysctls,omitempty"` // as in sysctl.conf(5), with dots
	// ReadOnlyRoot has the root file system written no more from then on; mounts in
	// it are not affected.
	ReadOnlyRoot bool `json:"read_only_root,omitempty"`
	// CACerts are certificate authorities in PEM that programs of the guest trust
	// from then on, as far as they use its store. They are in CACertsFile as well.
	CACerts string `json:"ca_certs,omitempty"`
}

// CACertsFile is the file of CACerts in the guest, where Debian's
// update-ca-certificates(8) finds it.
const CACertsFile = "/usr/local/share/ca-certificates/runner.crt"

// Mount shows the tree or file at Source, a path in the guest, at Target as well.
type Mount struct {
	Source string `json:"source"`
	Target string `json:"target"`
	// Fill has an empty Source filled with what Target shows before.
	Fill bool `json:"fill,omitempty"`
}

// Tmpfs mounts an empty file system in memory, tmpfs(5).
type Tmpfs struct {
	Target  string   `json:"target"`
	Flags   []string `json:"flags,omitempty"`   // of ro, noexec, nosuid, nodev
	Options string   `json:"options,omitempty"` // "size=1024,mode=1777"
}

// Hosts returns the content of hosts(5) for localhost and for lines, each an
// address and its names. A line without names is left out.
func Hosts(lines ...[]string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, line := range lines {
		if len(line) > 1 {
			b.WriteString(line[0] + "\t" + strings.Join(line[1:], " ") + "\n")
		}
	}
	return b.String()
}
