package state

import (
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// Fate is what a reset does to a file or directory.
type Fate string

// The fates of Table.
const (
	Kept    Fate = "kept"
	Emptied Fate = "emptied" // the directory, or file, stays without content
	Removed Fate = "removed" // what has to exist is made anew at the next boot
)

// Entry is a part of /var.
type Entry struct {
	Paths   []string // absolute; each stands for everything below it, too
	Content string
	Reset   Fate
	// Rare is when the paths exist; empty if an appliance has them once it has run
	// a job.
	Rare string
}

// dirs returns the paths of names in a directory.
func dirs(parent string, names ...string) []string {
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = parent + "/" + name
	}
	return paths
}

// Paths that a reset treats in a way of its own.
const (
	configDir = layout.State + "/etc"
	machineID = layout.State + "/host/machine-id"
)

// Table returns what is below /var. A reset removes everything else there.
func Table() []Entry { return slices.Concat(ofAgent(), ofSystem(), ofPackages()) }

// ofAgent returns what this program and the units of the appliance keep.
func ofAgent() []Entry {
	const hostKey = layout.State + "/host/ssh_host_ed25519_key"
	return []Entry{
		{Paths: []string{configDir}, Content: "config.env, to which `/etc/runner` is a link", Reset: Removed},
		{Paths: []string{layout.Registered, layout.State + "/identity.sha256"},
			Content: "that the runner is registered", Reset: Removed},
		{Paths: []string{layout.State + "/.install.lock"}, Content: "lock of `runner-install.service`", Reset: Removed},
		{Paths: []string{layout.State + "/identity.previous"}, Content: "the registration before", Reset: Removed,
			Rare: "while the runner registers again"},
		{Paths: []string{layout.ActionsRunner}, Content: "registration and logs of the actions runner", Reset: Removed},
		// The initrd has made another by then.
		{Paths: []string{machineID}, Content: "machine id, which the initrd copies to `/etc`; a reset makes another",
			Reset: Kept},
		{Paths: []string{hostKey, hostKey + ".pub"}, Content: "ssh host key", Reset: Removed},
		{Paths: []string{hostKey + ".tmp", hostKey + ".tmp.pub"}, Content: "an ssh host key that is being made",
			Reset: Removed, Rare: "for a moment of the first boot"},
		{Paths: []string{layout.State + "/home", layout.Work}, Content: "home and work directory of jobs", Reset: Removed},
		{Paths: []string{layout.Jobs}, Content: "what guests write", Reset: Removed},
		{Paths: []string{layout.State + "/root"}, Content: "root directory of `runner.service`", Reset: Removed},
		{Paths: []string{layout.WorkerLogs}, Content: "logs of workers", Reset: Removed},
		{Paths: []string{layout.OCIImages}, Content: "container images", Reset: Removed,
			Rare: "with jobs that use containers"},
		{Paths: []string{layout.KeptTools}, Content: "what jobs add to the tool cache", Reset: Removed,
			Rare: "with `RUNNER_TOOL_CACHE_WRITABLE`"},
		{Paths: []string{layout.KeptVolumes}, Content: "volumes that outlive jobs", Reset: Removed,
			Rare: "with `RUNNER_VOLUMES`"},
		{Paths: []string{layout.ActionsRunnerCopies}, Content: "newer copies of the actions runner, and which of them runs",
			Reset: Removed},
		{Paths: []string{layout.State + "/upgrade"}, Content: "versions that failed, the floor, what is staged",
			Reset: Removed, Rare: "once an upgrade was looked for"},
		{Paths: []string{RequestFile}, Content: "a reset that is under way", Reset: Removed, Rare: "during a reset"},
	}
}

// ofSystem returns what systemd, cloud-init and people keep.
func ofSystem() []Entry {
	return []Entry{
		{Paths: []string{"/var/lib/cloud"}, Content: "the seed as cloud-init has read it, by which it writes users, " +
			"host name and network to `/etc` at every boot", Reset: Removed},
		{Paths: []string{"/var/home", "/var/roothome"}, Content: "home directories, `/home` and `/root`", Reset: Emptied},
		{Paths: dirs("/var/log", "journal", "private", "btmp", "lastlog", "wtmp"), Content: "journal, logins",
			Reset: Emptied},
		{Paths: dirs("/var/log", "cloud-init.log", "cloud-init-output.log"), Content: "log of cloud-init",
			Reset: Removed},
		{Paths: []string{"/var/log/wtmp.db"}, Content: "logins", Reset: Removed, Rare: "after the first login"},
		{Paths: dirs("/var/lib/systemd", "random-seed", "linger"),
			Content: "random seed; users whose units run without them", Reset: Removed},
		{Paths: dirs("/var/lib/systemd", "timers", "rfkill", "nspawn", "backlight"), Content: "what units remember",
			Reset: Removed, Rare: "with units that do"},
		{Paths: dirs("/var/lib/systemd", "coredump", "ephemeral-trees", "network", "pstore"),
			Content: "core dumps, leases, what the kernel wrote before it panicked", Reset: Emptied},
		// Without it a clock that has no battery would go back.
		{Paths: []string{"/var/lib/systemd/timesync"}, Content: "the time, for clocks without a battery", Reset: Kept},
		{Paths: dirs("/var/lib", "machines", "portables", "private"), Content: "empty directories of systemd",
			Reset: Emptied},
		{Paths: dirs("/var", "backups", "local", "lost+found", "mail", "opt", "tmp", "cache/private"),
			Content: "what people put there", Reset: Emptied},
	}
}

// ofPackages returns what Debian's packages keep, as it was baked: an upgrade does
// not change it.
func ofPackages() []Entry {
	return []Entry{
		{Paths: slices.Concat(
			[]string{"/var/.updated", "/var/lock", "/var/run", "/var/spool/mail", "/var/log/README", "/var/log/runit"},
			dirs("/var/cache", "adduser", "apt", "debconf", "ldconfig"),
			dirs("/var/lib", "apt", "dbus", "dhcpcd", "dpkg", "dracut", "git", "misc", "pam", "python", "shells.state",
				"ucf", "wtmpdb"),
			dirs("/var/lib/systemd", "catalog", "deb-systemd-helper-enabled", "deb-systemd-user-helper-enabled")),
			Content: "what Debian's packages keep", Reset: Kept},
	}
}

// Find returns the entry that a path belongs to, or nil.
func Find(table []Entry, path string) *Entry {
	for i, e := range table {
		if slices.ContainsFunc(e.Paths, func(p string) bool { return p == path || strings.HasPrefix(path, p+"/") }) {
			return &table[i]
		}
	}
	return nil
}

// IsParent reports whether a directory holds paths of the table, and so may hold
// nothing else.
func IsParent(table []Entry, dir string) bool {
	return slices.ContainsFunc(table, func(e Entry) bool {
		return slices.ContainsFunc(e.Paths, func(p string) bool { return strings.HasPrefix(p, dir+"/") })
	})
}
