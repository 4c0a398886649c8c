package dockeropts

// refusal returns why guests do not honour an option of docker-create(1) and
// what to do instead. It is empty for an unknown option.
func refusal(name string) string {
	switch name {
	case "--cgroup-parent":
		return "the broker chooses a guest's cgroup; remove it, and use --cpus, --memory and --pids-limit for limits"
	case "--cpuset-mems":
		return "the broker does not choose memory nodes; remove it, and use --cpuset-cpus for processors"
	case "--detach":
		return "the actions runner attaches to the container itself; remove it"
	case "--env-file", "--label-file":
		return "files of the host are not read; write `env:` or --env NAME=VALUE"
	case "--gpus":
		return "a guest has no driver for GPUs; remove it, or use --device for a device that config.env allows"
	case "--ip", "--ip6", "--link-local-ip", "--mac-address":
		return "the broker chooses the addresses of guests; remove it, and use --network-alias for a name"
	case "--link":
		return "the containers of a job reach each other by name already; remove it, and use --network-alias for another name"
	case "--net", "--network":
		return "the containers of a job share a network of their own; remove it"
	case "--oom-kill-disable":
		return "the kernel has no such setting any more; remove it"
	case "--pid":
		return "a guest sees its own processes alone; remove it"
	case "--privileged":
		return "a guest is already root in its own user namespace; remove it"
	case "--publish-all":
		return "the ports of an image are not published unasked; use `ports:`"
	case "--storage-opt":
		return "the disk of a job has the limit that config.env sets for all; remove it"
	case "--volumes-from":
		return "containers share volumes by name; use `volumes:` with a name in each of them"
	}
	return ""
}
