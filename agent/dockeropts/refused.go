package dockeropts

// refusal says why an option of docker-create(1) is not for guests and what to
// do instead. It is empty for an option that is not known.
func refusal(name string) string {
	switch name {
	case "--attach", "--detach", "--interactive", "--tty":
		return "the runner reads and writes what a container does by itself; remove it"
	case "--cgroup-parent":
		return "a guest's cgroup is the machine's to choose; remove it, and use --cpus, --memory and --pids-limit for limits"
	case "--cgroupns", "--ipc", "--pid", "--userns", "--uts":
		return "a guest has namespaces of its own; remove it"
	case "--dns", "--dns-opt", "--dns-option", "--dns-search":
		return "a guest asks the machine's name servers; remove it, or name single hosts with --add-host"
	case "--env-file":
		return "no file of the machine is read; write `env:` or --env NAME=VALUE"
	case "--gpus":
		return "a guest has no driver for it; remove it, or use --device for a device that config.env allows"
	case "--link":
		return "the containers of a job reach each other by name already; remove it, and use --network-alias for another name"
	case "--mount", "--volume", "--volumes-from":
		return "a guest sees what the workflow says elsewhere; use `volumes:`"
	case "--net", "--network":
		return "the containers of a job share a network of their own; remove it"
	case "--privileged":
		return "a guest is root of its own user namespace already; remove it"
	case "--publish", "--publish-all":
		return "ports are what the workflow says elsewhere; use `ports:`"
	case "--restart":
		return "a service that ends is not started again; remove it"
	case "--runtime":
		return "guests are started by systemd-nspawn(1) alone; remove it"
	case "--security-opt":
		return "all guests are confined alike; remove it"
	case "--sysctl":
		return "the kernel's settings are the machine's; remove it"
	case "--ulimit":
		return "a process inherits the limits of its guest; remove it, or use ulimit in the step's shell"
	}
	return ""
}
