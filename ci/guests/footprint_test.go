package guests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// footprint is what a broker and its guests hold, as counts: the same after each
// job if nothing is left of it.
type footprint struct {
	Guests      int // cgroups of guests
	Cgroups     int // of the broker, for all guests
	Mirrored    int // directories of guests in version 1 hierarchies
	Children    int // processes of the broker's own
	Processes   int // of the host's side: those in the network namespace that stands for the host's
	Mounts      int // of the broker's mount namespace that are not the host's, and of its directories there
	Descriptors int // of the broker, without those of user namespaces, which it keeps for later guests
	Namespaces  int // network, mount and user namespaces of those processes and of each guest's first
	Links       int
	Rules       int // lines of nft(8)
	Jobs        int // entries of the directory
	Work        int
	Images      int
	Temp        int
}

// process is a process of the machine.
type process struct {
	pid, parent int
	name        string
	args        string // separated by spaces
	guest       string // name of its guest, "" outside of this lab's
	network     string // its network namespace
}

// processes lists the processes of this machine.
func (e *endurance) processes() []process {
	cgroup := "/" + e.cgroupName() + "/"
	var found []process
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range entries {
		// Any may end while it is looked at.
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		p := process{}
		p.pid, _ = strconv.Atoi(filepath.Base(dir))
		open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		p.name = string(stat[open+1 : end])
		var state string
		if _, err := fmt.Sscan(string(stat[end+1:]), &state, &p.parent); err != nil {
			continue
		}

		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		p.args = strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))
		p.network, _ = os.Readlink(filepath.Join(dir, "ns/net"))
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if _, beneath, ok := strings.Cut(string(groups), cgroup); ok {
			p.guest, _, _ = strings.Cut(strings.TrimSpace(beneath), "/")
			p.guest, _, _ = strings.Cut(p.guest, "\n")
		}
		found = append(found, p)
	}
	return found
}

// footprint counts.
func (e *endurance) footprint() footprint {
	broker := e.pid()
	f := footprint{
		Guests: len(e.guestCgroups()), Cgroups: e.countCgroups(), Mirrored: e.countMirrored(), Mounts: e.countMounts(broker),
		Links: e.countLines("ip", "-oneline", "link"), Rules: e.countLines("nft", "list", "ruleset"),
		Jobs: entries(e.path("jobs")), Work: entries(e.path("work")), Images: entries(e.path("images")),
		Temp: entries(e.path("tmp")),
	}

	namespaces := map[string]bool{}
	add := func(pid int) {
		for _, kind := range []string{"net", "mnt", "user"} {
			if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind)); err == nil {
				namespaces[ns] = true
			}
		}
	}
	host := e.networkName()
	spawners := map[int]bool{}
	all := e.processes()
	for _, p := range all {
		if p.network == host {
			f.Processes++
			add(p.pid)
		}
		if p.parent == broker {
			f.Children++
			spawners[p.pid] = true
		}
	}
	for _, p := range all {
		if spawners[p.parent] {
			add(p.pid)
		}
	}
	f.Namespaces = len(namespaces)

	for _, target := range e.descriptors() {
		if !strings.HasPrefix(target, "user:") {
			f.Descriptors++
		}
	}
	return f
}

// descriptors returns what the broker has open.
func (e *endurance) descriptors() []string {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", e.pid()))
	var targets []string
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			targets = append(targets, target)
		}
	}
	return targets
}

// countCgroups counts the cgroups that the broker has for its guests.
func (e *endurance) countCgroups() int {
	count := 0
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(mount, e.cgroupName())); err == nil {
			count++
		}
	}
	return count
}

// countMirrored counts what guests have in version 1 hierarchies of a hybrid
// host.
func (e *endurance) countMirrored() int {
	found, _ := filepath.Glob("/sys/fs/cgroup/*/" + e.cgroupName() + "/j-*")
	return len(found) - len(e.guestCgroups())
}

// countMounts counts the mounts of the broker's namespace whose places are not
// mounted in the test's, and of the test's those beneath the lab's directory.
func (e *endurance) countMounts(broker int) int {
	ours := map[string]bool{}
	count := 0
	for _, place := range mountPlaces("self") {
		ours[place] = true
		if strings.HasPrefix(place, e.dir) {
			count++
		}
	}
	for _, place := range mountPlaces(strconv.Itoa(broker)) {
		if !ours[place] {
			count++
		}
	}
	return count
}

// mountPlaces returns the mount points of a process, proc_pid_mountinfo(5).
func mountPlaces(pid string) []string {
	data, _ := os.ReadFile("/proc/" + pid + "/mountinfo")
	var places []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			places = append(places, fields[4])
		}
	}
	return places
}

// networkName returns the network namespace that stands for the host's as
// /proc/PID/ns/net shows it.
func (e *endurance) networkName() string {
	var stat unix.Stat_t
	if err := unix.Stat("/run/netns/"+e.netns, &stat); err != nil {
		e.Error(err)
	}
	return fmt.Sprintf("net:[%d]", stat.Ino)
}

// countLines counts the lines that a program prints of the lab's network.
func (e *endurance) countLines(argv ...string) int {
	out, err := exec.Command("nsenter", append([]string{"--net=/run/netns/" + e.netns}, argv...)...).Output()
	if err != nil {
		e.Errorf("%q: %v", argv, err)
	}
	return bytes.Count(out, []byte("\n"))
}

func entries(dir string) int {
	names, _ := os.ReadDir(dir)
	return len(names)
}

// settles waits until the footprint is the one that is wanted.
func (e *endurance) settles(when string, want footprint) {
	e.Helper()
	var got footprint
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got = e.footprint(); got == want {
			return
		}
	}
	e.Errorf("%s: what the broker holds has changed, -want +got:\n%s", when, cmp.Diff(want, got))
	e.Logf("descriptors: %q", e.descriptors())
}

// rest waits until nothing changes any more, and returns the footprint.
func (e *endurance) rest() footprint {
	e.Helper()
	last, since := e.footprint(), time.Now()
	for time.Since(since) < time.Second {
		time.Sleep(50 * time.Millisecond)
		if now := e.footprint(); now != last {
			last, since = now, time.Now()
		}
	}
	return last
}

// status returns a line of /proc/PID/status of the broker, in KiB or as a count.
func (e *endurance) status(key string) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.pid()))
	if err != nil {
		e.Error(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(value)[0])
			return n
		}
	}
	return 0
}
