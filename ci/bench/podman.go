package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// podmanRows are what podman takes for what guests do.
type podmanRows struct{ run, start, exec, remove row }

// podman measures containers on the same tree with podman and runc. Its
// containers have no user namespace of their own and no network, and none of
// systemd-nspawn's system call filter is compared.
func (b *bench) podman(ctx context.Context) (rows podmanRows, err error) {
	if rows.run, err = measure("podman run --rm /bin/true, start to end", 11, func() (time.Duration, error) {
		return clocked(func() error { return silent(b.podmanRun(ctx, "--rm", "/bin/true")) })
	}); err != nil {
		return rows, err
	}

	var removals []time.Duration
	if rows.start, err = measure("podman run --detach", 11, func() (time.Duration, error) {
		time.Sleep(pause)
		begin := time.Now()
		id, err := b.startContainer(ctx)
		if err != nil {
			return 0, err
		}
		started := time.Since(begin)
		removal, err := clocked(func() error { return silent(b.podmanCommand(ctx, remove(id)...)) })
		removals = append(removals, removal)
		return started, err
	}); err != nil {
		return rows, err
	}
	rows.remove = median("podman rm --force --time 0", removals)

	id, err := b.startContainer(ctx)
	if err != nil {
		return rows, err
	}
	defer func() { _ = b.podmanCommand(ctx, remove(id)...).Run() }()
	rows.exec, err = measure("podman exec sh -ec true", 11, func() (time.Duration, error) {
		return clocked(func() error { return silent(b.podmanCommand(ctx, "exec", id, "sh", "-ec", "true")) })
	})
	return rows, err
}

func (b *bench) podmanCommand(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "podman", append([]string{"--root", b.path("podman"),
		"--runroot", b.path("podman-run"), "--runtime", "runc", "--cgroup-manager", "cgroupfs"}, args...)...)
}

func (b *bench) podmanRun(ctx context.Context, option string, argv ...string) *exec.Cmd {
	// podman's own limits may be above those that this host lets it set.
	args := []string{"run", option, "--network", "none", "--ulimit", "nofile=1024:1024",
		"--ulimit", "nproc=1000:1000", "--rootfs", b.base + ":O"}
	return b.podmanCommand(ctx, append(args, argv...)...)
}

// startContainer starts a container that waits for steps, and returns its id.
func (b *bench) startContainer(ctx context.Context) (id string, err error) {
	out, err := b.podmanRun(ctx, "--detach", "sleep", "1000").Output()
	if err != nil {
		return "", fmt.Errorf("cannot start podman's container: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// remove returns the arguments with which podman ends and removes a container.
func remove(id string) []string { return []string{"rm", "--force", "--time", "0", id} }
