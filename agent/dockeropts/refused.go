package dockeropts

// refusal returns why guests do not honour an option of docker-create(1) and
// what to do instead. It is empty for an unknown option.
func refusal(name string) string {
	switch name {
	case "--attach", "--detach", "--interactive", "--tty":
		return "the actions runner attaches to the container itself; remove it"
	case "--cgroup-parent":
		return "the broker chooses a guest's cgroup; remove it, and use --cpus, --memory and --pids-limit for limits"
	case "--cgroupns", "--ipc", "--pid", "--userns", "--uts":
		return "a guest has namespaces of its own; remove it"
	case "--dns", "--dns-opt", "--dns-option", "--dns-search":
		return "a guest uses the name servers of the host; remove it, or name single hosts with --add-host"
	case "--env-file":
		return "files of the host are not read; write `env:` or --env NAME=VALUE"
	case "--gpus":
		return "a guest has no driver for GPUs; remove it, or use --device for a device that config.env allows"
	case "--link":
		return "the containers of a job reach each other by name already; remove it, and use --network-alias for another name"
	case "--mount", "--volume", "--volumes-from":
		return "volumes have a key of their own in a workflow; use `volumes:`"
	case "--net", "--network":
		return "the containers of a job share a network of their own; remove it"
	case "--privileged":
		return "a guest is already root in its own user namespace; remove it"
	case "--publish", "--publish-all":
		return "ports have a key of their own in a workflow; use `ports:`"
	case "--restart":
		return "a service that ends is not started again; remove it"
	case "--runtime":
		return "guests are started by systemd-nspawn(1) alone; remove it"
	case "--security-opt":
		return "all guests are confined alike; remove it"
	case "--sysctl":
		return "kernel settings belong to the host; remove it"
	case "--ulimit":
		return "a process inherits the limits of its guest; remove it, or use ulimit in the step's shell"
	}
	return ""
}
