package layout

// Paths in a guest in which the actions runner's worker runs. The overlay of the
// guest base makes the directories.
const (
	// WorkerUser is who the worker and its steps are.
	WorkerUser = "runner"
	// WorkerUID is the number of WorkerUser, and of its group.
	WorkerUID = 1001
	// WorkerRunner is the root directory of the actions runner.
	WorkerRunner = "/var/lib/runner/actions-runner"
	// WorkerWork is the work directory of the job.
	WorkerWork = "/var/lib/runner/work"
	// WorkerHooks is the container hook.
	WorkerHooks = "/usr/local/lib/runner/container-hooks.sh"
	// WorkerSocket is where the hook reaches the broker, for this job alone.
	WorkerSocket = "/run/runner/job/guest.sock"
)

// RealWorker is the name of the actions runner's own worker in its directory bin
// on an appliance, where the relay covers Runner.Worker.
const RealWorker = "Runner.Worker.real"
