package layout

// Paths of an appliance that both the build and the agent know. Those below
// /usr are part of the image; those below /var outlive it.
const (
	// GuestBase is the root file system that guests start from.
	GuestBase = "/usr/lib/runner/base"
	// BakedActionsRunner is the actions runner as the image carries it.
	BakedActionsRunner = "/usr/lib/runner/actions-runner"
	// ActiveActionsRunner is a link to the copy of the actions runner that runs: the
	// image's, or one of ActionsRunnerCopies.
	ActiveActionsRunner = "/run/runner/actions-runner"
	// BakedTools is the tool cache as the image carries it, if it does.
	BakedTools = "/usr/lib/runner/tools"
	// Programs is the directory of runner-agent and runner-shim.
	Programs = "/usr/local/bin"
	// UpdateKeys is the directory of the public keys, *.pub, that sign what the
	// appliance may be upgraded to.
	UpdateKeys = "/usr/lib/runner/update-keys"
	// Manuals is the directory of their manual pages.
	Manuals = "/usr/local/share/man/man1"

	// ConfigFile is written by cloud-init and read by the agent.
	ConfigFile = "/etc/runner/config.env"

	// CABundle holds the authorities that programs of the host trust: those of the
	// image, and those of RUNNER_CA_CERTS.
	CABundle = "/etc/ssl/certs/ca-certificates.crt"
	// CACerts holds those of RUNNER_CA_CERTS alone, for every user to read.
	CACerts = "/run/runner/ca-certs.pem"

	// State holds everything that the agent keeps.
	State = "/var/lib/runner"
	// KeptConfigFile is the copy of ConfigFile that outlives a boot.
	KeptConfigFile = State + "/etc/config.env"
	// Registered exists once the appliance is registered.
	Registered = State + "/installed"
	// ActionsRunner is the working copy of the actions runner, with the
	// registration in it.
	ActionsRunner = State + "/actions-runner"
	// ActionsRunnerCopies holds copies of the actions runner that are newer than the
	// image's, each in a directory with the name of its version; root's alone to write.
	ActionsRunnerCopies = State + "/dist"
	// Work is the work directory of the actions runner.
	Work = State + "/work"
	// Jobs holds the writable layers of guests.
	Jobs = State + "/jobs"
	// WorkerLogs holds the last logs of workers that ran in guests.
	WorkerLogs = State + "/worker-logs"
	// KeptTools holds what jobs added to the tool cache, if that is to stay.
	KeptTools = State + "/tools"
	// KeptVolumes holds the named volumes that outlive jobs.
	KeptVolumes = State + "/volumes"
	// OCIImages holds the OCI images that jobs use.
	OCIImages = State + "/images"
)

// User and group of the actions runner on the host, as sysusers.d/runner.conf
// creates them.
const (
	RunnerUID = 900
	RunnerGID = 900
)

// Path is the PATH of every process of a job and of the actions runner, as
// login(1) of Debian sets it for root.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
