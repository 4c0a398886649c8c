package dockeropts

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
)

// ignored returns the options with a value that change nothing, or nothing but in
// some of their values.
func (o *Options) ignored() map[string]func(value string) error {
	const namespace = "a guest has a namespace of its own; remove it"
	return map[string]func(string) error{
		"--annotation":         ignore,
		"--attach":             ignore,
		"--blkio-weight":       o.noted("option --blkio-weight has no effect: guests share the disk alike"),
		"--cgroupns":           o.setNamespace("--cgroupns", namespace, "private"),
		"--expose":             ignore,
		"--ipc":                o.setIPC,
		"--isolation":          oneOf("guests are isolated by namespaces; remove it", "default", ""),
		"--label":              ignore,
		"--log-driver":         ignore,
		"--log-opt":            ignore,
		"--memory-reservation": o.setMemoryReservation,
		"--memory-swappiness": o.noted(
			"option --memory-swappiness has no effect: a guest with a memory limit does not swap",
		),
		"--oom-score-adj": o.setOOMScore,
		"--platform":      setPlatform,
		"--pull":          setPull,
		"--restart":       o.setRestart,
		"--runtime": oneOf(
			"guests are started by systemd-nspawn(1) alone; remove it",
			"runc",
			"io.containerd.runc.v2",
		),
		"--stop-signal":  ignore,
		"--stop-timeout": ignore,
		"--userns":       o.setNamespace("--userns", namespace, ""),
		"--uts":          o.setNamespace("--uts", namespace, ""),
	}
}

// ignore accepts an option that changes nothing a step or a service can notice:
// its words are for Docker's own records, logs or clients.
func ignore(string) error { return nil }

// notice adds a sentence on an option that has not the effect that its author may
// expect. The option stands for itself; its value is quoted by the caller.
func (o *Options) notice(format string, args ...any) {
	o.Notices = appendNew(o.Notices, fmt.Sprintf(format, args...))
}

// noted returns a function that accepts any value and adds a notice.
func (o *Options) noted(notice string) func(string) error {
	return func(string) error {
		o.notice("%s", notice)
		return nil
	}
}

// oneOf returns a function that accepts some values, and refuses others with what
// to do instead.
func oneOf(instead string, values ...string) func(string) error {
	return func(value string) error {
		for _, v := range values {
			if strings.EqualFold(value, v) {
				return nil
			}
		}
		return fmt.Errorf("%.80q is not supported: %s", value, instead)
	}
}

// platforms are the names that Docker has for what this program was built for.
func platforms(architecture string) []string {
	names := []string{architecture}
	switch architecture {
	case "amd64":
		names = append(names, "x86_64", "amd64/v1")
	case "arm64":
		names = append(names, "aarch64", "arm64/v8")
	}
	for _, name := range names {
		names = append(names, "linux/"+name)
	}
	return append(names, "linux")
}

func setPlatform(value string) error {
	instead := fmt.Sprintf("guests run programs for linux/%s alone; remove it, or use a runner of that platform",
		runtime.GOARCH)
	return oneOf(instead, platforms(runtime.GOARCH)...)(value)
}

func setPull(value string) error {
	return oneOf("a tag is looked up for each job, and a cached image is used if it is still the same; remove it",
		"always", "missing")(value)
}

func (o *Options) setRestart(value string) error {
	policy, times, _ := strings.Cut(value, ":")
	if _, err := strconv.ParseUint(times, 10, 31); times != "" && (policy != "on-failure" || err != nil) {
		policy = ""
	}
	switch policy {
	case "no":
	case "always", "unless-stopped", "on-failure":
		o.notice("option --restart %s has no effect: a service that ends is not started again", policy)
	default:
		return fmt.Errorf("%.80q is not a policy; write no, always, unless-stopped or on-failure", value)
	}
	return nil
}

// setIPC accepts what a workflow cannot tell from a guest's own namespace: a job
// has that for itself, with enough shared memory.
func (o *Options) setIPC(value string) error {
	if value == "host" {
		o.notice("option --ipc host has no effect: a guest shares memory with itself alone; " +
			"its /dev/shm has half of the memory, or --shm-size")
	}
	return oneOf("a guest has a namespace of its own; remove it", "host", "private", "shareable", "")(value)
}

// setNamespace returns a function for a namespace that is always a guest's own.
func (o *Options) setNamespace(name, instead string, values ...string) func(string) error {
	return func(value string) error {
		if value == "host" {
			o.notice("option %s host has no effect: a guest has a namespace of its own", name)
		}
		return oneOf(instead, append(values, "host")...)(value)
	}
}

// setMemorySwap takes the sum of memory and swap, or -1.
func (p *parser) setMemorySwap(value string) error {
	n, ok := parseSize(value)
	if !ok && value != "-1" {
		return fmt.Errorf("%.80q is neither a size nor -1; write for example 2g", value)
	}
	p.memorySwap = &n
	return nil
}

// applyMemorySwap has nothing to say of a sum that leaves no swap.
func (p *parser) applyMemorySwap() {
	if p.memorySwap != nil && (*p.memorySwap == 0 || *p.memorySwap != p.Memory) {
		p.notice("option --memory-swap has no effect: a guest with a memory limit does not swap")
	}
}

func (o *Options) setMemoryReservation(value string) error {
	if _, ok := parseSize(value); !ok {
		return fmt.Errorf("%.80q is not a size; write for example 1g", value)
	}
	o.notice("option --memory-reservation has no effect: no memory is reserved for a guest")
	return nil
}

// guestOOMScore is that of each process of a guest, see package guest.
const guestOOMScore = 500

func (o *Options) setOOMScore(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < -1000 || n > 1000 {
		return fmt.Errorf("%.80q is not a number from -1000 to 1000; write for example %d", value, guestOOMScore)
	}
	if n != guestOOMScore {
		o.notice("option --oom-score-adj %d has no effect: all processes of guests have %d, so that the kernel "+
			"ends them before those of the host", n, guestOOMScore)
	}
	return nil
}

// addSecurityOption takes NAME, NAME=VALUE, or NAME:VALUE as old versions of Docker.
func (o *Options) addSecurityOption(value string) error {
	i := strings.IndexAny(value, "=:")
	name, setting := value, ""
	if i >= 0 {
		name, setting = value[:i], value[i+1:]
	}

	switch name {
	case "no-new-privileges":
		on := setting == ""
		if !on {
			var err error
			if on, err = strconv.ParseBool(setting); err != nil {
				return fmt.Errorf("%.80q is neither true nor false; write no-new-privileges", setting)
			}
		}
		o.NoNewPrivileges = on
		return nil
	case "apparmor", "label", "writable-cgroups":
		return nil // no such policy confines guests; their cgroup is theirs
	case "seccomp":
		return o.setSeccomp(setting)
	case "systempaths":
		o.notice("option --security-opt systempaths has no effect: what guests see of /proc and /sys is the same for all")
		return nil
	}
	return fmt.Errorf("%.80q is not supported: write no-new-privileges, seccomp=unconfined, apparmor=... or label=..., "+
		"or remove it", value)
}

func (o *Options) setSeccomp(profile string) error {
	switch profile {
	case "unconfined":
		o.notice("option --security-opt seccomp=unconfined has no effect: system calls of guests are filtered as " +
			"systemd-nspawn(1) does, which allows more than Docker does: ptrace, unshare and mount among them")
	case "builtin":
	default:
		return errors.New("files of the host are not read; remove it, or write seccomp=unconfined")
	}
	return nil
}
