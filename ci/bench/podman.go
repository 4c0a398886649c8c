package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// podman measures containers on the same tree with podman and runc, where they
// are installed. Its containers have no user namespace of their own, and none of
// systemd-nspawn's system call filter is compared.
func (b *bench) podman(ctx context.Context) (starts, steps []row, err error) {
	for _, program := range []string{"podman", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Printf("podman is not compared: %v\n", err)
			return nil, nil, nil
		}
	}
	command := func(verb string, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, "podman", append([]string{"--root", filepath.Join(b.dir, "podman"), "--runroot",
			filepath.Join(b.dir, "podman-run"),
			"--runtime", "runc", "--cgroup-manager", "cgroupfs", verb}, args...)...)
	}
	// Limits of its own defaults may be above what this machine lets it set.
	options := []string{"--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"}
	tree := []string{"--rootfs", b.base + ":O"}
	run := func(cmd *exec.Cmd) error {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	start, err := measure("podman run --rm /bin/true, start to end", 11, func() (time.Duration, error) {
		return clocked(func() error {
			return run(command("run", append(append([]string{"--rm"}, options...), append(tree, "/bin/true")...)...))
		})
	})
	if err != nil {
		return nil, nil, err
	}
	out, err := command("run", append(append([]string{"--detach"}, options...),
		append(tree, "sleep", "1000")...)...).Output()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot start podman's container: %w", err)
	}
	id := strings.TrimSpace(string(out))
	defer func() { _ = command("rm", "--force", "--time", "0", id).Run() }()
	step, err := measure("podman exec /bin/true", 11, func() (time.Duration, error) {
		return clocked(func() error { return run(command("exec", id, "/bin/true")) })
	})
	return []row{start}, []row{step}, err
}
