package dockeropts

import (
	"fmt"
	"slices"
	"strings"
)

// allCapabilities stands for each capability, as in docker-create(1).
const allCapabilities = "ALL"

// guestCapabilities are those a guest has unless they are dropped: what
// systemd-nspawn(1) grants in any way, and NET_ADMIN with a private network.
func guestCapabilities() []string {
	return []string{
		"AUDIT_CONTROL", "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_OWNER", "KILL",
		"LEASE", "LINUX_IMMUTABLE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "SETFCAP", "SETGID",
		"SETPCAP", "SETUID", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_NICE", "SYS_PTRACE", "SYS_RESOURCE", "SYS_TTY_CONFIG",
	}
}

// otherCapabilities are the rest of capabilities(7).
func otherCapabilities() []string {
	return []string{
		"AUDIT_READ", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "IPC_LOCK", "MAC_ADMIN", "MAC_OVERRIDE", "PERFMON", "SYSLOG",
		"SYS_MODULE", "SYS_PACCT", "SYS_RAWIO", "SYS_TIME", "WAKE_ALARM",
	}
}

func (o *Options) addCapability(value string) error {
	name, err := parseCapability(value)
	if err != nil {
		return err
	}
	if !slices.Contains(guestCapabilities(), name) {
		return fmt.Errorf("%s is more than a guest may have, see systemd-nspawn(1); remove it", name)
	}
	o.CapAdd = appendNew(o.CapAdd, name)
	return nil
}

func (o *Options) dropCapability(value string) error {
	name, err := parseCapability(value)
	if err != nil {
		return err
	}
	o.CapDrop = appendNew(o.CapDrop, name)
	return nil
}

// parseCapability gives the name in capitals, without CAP_.
func parseCapability(value string) (string, error) {
	name := strings.TrimPrefix(strings.ToUpper(value), "CAP_")
	if name != allCapabilities && !slices.Contains(guestCapabilities(), name) && !slices.Contains(otherCapabilities(), name) {
		return "", fmt.Errorf("%.80q is no capability; write one of capabilities(7), for example NET_RAW", value)
	}
	return name, nil
}

// appendNew appends what the list does not hold yet.
func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
