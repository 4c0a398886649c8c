package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// podman measures containers on the same tree with podman and runc. Its
// containers have no user namespace of their own, and none of systemd-nspawn's
// system call filter is compared.
func (b *bench) podman(ctx context.Context) (starts, steps []row, err error) {
	command := func(args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, "podman", append([]string{"--root", b.path("podman"),
			"--runroot", b.path("podman-run"), "--runtime", "runc", "--cgroup-manager", "cgroupfs"}, args...)...)
	}
	run := func(option string, argv ...string) *exec.Cmd {
		// podman's own limits may be above those that this host lets it set.
		args := []string{"run", option, "--network", "none", "--ulimit", "nofile=1024:1024",
			"--ulimit", "nproc=1000:1000", "--rootfs", b.base + ":O"}
		return command(append(args, argv...)...)
	}

	start, err := measure("podman run --rm /bin/true, start to end", 11, func() (time.Duration, error) {
		return clocked(func() error { return silent(run("--rm", "/bin/true")) })
	})
	if err != nil {
		return nil, nil, err
	}

	out, err := run("--detach", "sleep", "1000").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot start podman's container: %w", err)
	}
	id := strings.TrimSpace(string(out))
	defer func() { _ = command("rm", "--force", "--time", "0", id).Run() }()
	step, err := measure("podman exec /bin/true", 11, func() (time.Duration, error) {
		return clocked(func() error { return silent(command("exec", id, "/bin/true")) })
	})
	return []row{start}, []row{step}, err
}
