package dockeropts

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
)

// allCapabilities stands for each capability, as in docker-create(1).
const allCapabilities = "ALL"

// guestCapabilities returns the names of the capabilities that a guest has
// unless they are dropped: those that systemd-nspawn(1) always grants, and
// NET_ADMIN, which it grants with a private network.
func guestCapabilities() []string {
	var names []string
	for _, c := range []capability.Cap{
		capability.CAP_AUDIT_CONTROL, capability.CAP_AUDIT_WRITE, capability.CAP_CHOWN, capability.CAP_DAC_OVERRIDE,
		capability.CAP_DAC_READ_SEARCH, capability.CAP_FOWNER, capability.CAP_FSETID, capability.CAP_IPC_OWNER,
		capability.CAP_KILL, capability.CAP_LEASE, capability.CAP_LINUX_IMMUTABLE, capability.CAP_MKNOD,
		capability.CAP_NET_ADMIN, capability.CAP_NET_BIND_SERVICE, capability.CAP_NET_BROADCAST, capability.CAP_NET_RAW,
		capability.CAP_SETFCAP, capability.CAP_SETGID, capability.CAP_SETPCAP, capability.CAP_SETUID,
		capability.CAP_SYS_ADMIN, capability.CAP_SYS_BOOT, capability.CAP_SYS_CHROOT, capability.CAP_SYS_NICE,
		capability.CAP_SYS_PTRACE, capability.CAP_SYS_RESOURCE, capability.CAP_SYS_TTY_CONFIG,
	} {
		names = append(names, capabilityName(c))
	}
	return names
}

// capabilityName returns the name in capitals, without CAP_.
func capabilityName(c capability.Cap) string { return strings.ToUpper(c.String()) }

// addCapability takes any capability. One that guests do not have is one that the
// kernel asks for in the first user namespace alone, capabilities(7).
func (p *parser) addCapability(value string) error {
	name, err := parseCapability(value)
	if err != nil {
		return err
	}

	switch {
	case name == allCapabilities:
		p.addAll = true
		p.notice("option --cap-add ALL adds the capabilities that a guest can have: they hold in its user namespace")
	case !slices.Contains(guestCapabilities(), name):
		p.notice("option --cap-add %s has no effect: guests do not have it, see systemd-nspawn(1)", name)
	default:
		p.CapAdd = appendNew(p.CapAdd, name)
	}
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

func isAll(name string) bool { return name == allCapabilities }

// applyCapAdd removes the added capabilities from the dropped ones, whichever
// option comes first. As in Docker, adding ALL spares those that are dropped by name,
// and takes precedence over dropping ALL.
func (p *parser) applyCapAdd() {
	if p.addAll {
		if p.CapDrop = slices.DeleteFunc(p.CapDrop, isAll); len(p.CapDrop) == 0 {
			p.CapDrop = nil
		}
		p.CapAdd = slices.DeleteFunc(guestCapabilities(), func(s string) bool { return slices.Contains(p.CapDrop, s) })
		return
	}
	if len(p.CapAdd) == 0 {
		return
	}

	dropped := p.CapDrop
	if slices.Contains(dropped, allCapabilities) {
		dropped = guestCapabilities()
	}
	p.CapDrop = nil
	for _, name := range dropped {
		if !slices.Contains(p.CapAdd, name) {
			p.CapDrop = append(p.CapDrop, name)
		}
	}
}

// parseCapability returns the name in capitals, without CAP_, or "ALL".
func parseCapability(value string) (string, error) {
	name := strings.TrimPrefix(strings.ToUpper(value), "CAP_")
	if name == allCapabilities {
		return name, nil
	}

	for _, c := range capability.ListKnown() {
		if name == capabilityName(c) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%.80q is not a capability; write one of capabilities(7), for example NET_RAW", value)
}

// appendNew appends s unless the list contains it.
func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
