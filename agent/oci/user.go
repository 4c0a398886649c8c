package oci

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// User finds who a process of an image runs as: spec is NAME, ID, either with
// :GROUP, or empty for root, as --user of docker-run(1). Names are those of the
// tree's passwd(5) and group(5), which may be missing; nothing outside the tree
// is looked at. Without a group, the user's own and those that list it apply.
func User(tree, spec string) (uid, gid int, groups []int, home string, err error) {
	root, err := os.Open(tree)
	if err != nil {
		return 0, 0, nil, "", fmt.Errorf("cannot find user %.80q: %w", spec, err)
	}
	defer root.Close()
	name, group, _ := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	u, found := findEntry(root, "etc/passwd", name)
	if uid, err = idOf(u, found, name); err != nil {
		return 0, 0, nil, "", fmt.Errorf("cannot find user %.80q: %w", name, err)
	}
	home = "/"
	if found && len(u) > 5 {
		if gid, err = parseID(u[3]); err != nil {
			return 0, 0, nil, "", fmt.Errorf("cannot find group of user %.80q: %w", name, err)
		}
		if u[5] != "" {
			home = u[5]
		}
	}
	if group != "" {
		g, found := findEntry(root, "etc/group", group)
		if gid, err = idOf(g, found, group); err != nil {
			return 0, 0, nil, "", fmt.Errorf("cannot find group %.80q: %w", group, err)
		}
	} else if found {
		groups = memberOf(root, u[0], gid)
	}
	return uid, gid, groups, home, nil
}

// idOf is the number of a user or group: that of its entry, or the name itself.
func idOf(entry []string, found bool, name string) (int, error) {
	if found {
		return parseID(entry[2])
	}
	if _, err := strconv.Atoi(name); err != nil {
		return 0, errors.New("the image has no such name")
	}
	return parseID(name)
}

func parseID(text string) (int, error) {
	id, err := strconv.Atoi(text)
	if err != nil || id < 0 || id >= idCount {
		return 0, fmt.Errorf("%.80q is no number between 0 and %d", text, idCount-1)
	}
	return id, nil
}

// findEntry finds a line of passwd(5) or group(5) by its name, or by its
// number, the third field of both.
func findEntry(root *os.File, file, name string) (fields []string, found bool) {
	eachEntry(root, file, func(f []string) bool {
		if len(f) > 2 && (f[0] == name || f[2] == name) {
			fields, found = f, true
		}
		return !found
	})
	return fields, found
}

// memberOf lists the groups that name a user as a member.
func memberOf(root *os.File, user string, primary int) []int {
	var groups []int
	eachEntry(root, "etc/group", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if id, err := parseID(f[2]); member == user && err == nil && id != primary {
				groups = append(groups, id)
			}
		}
		return true
	})
	return groups
}

// maxFile bounds what is read of a file that an image brings, in bytes.
const maxFile = 1 << 20

// readRegular reads the start of a file of a tree. Links lead where they do for
// a process whose root is the tree. Anything but a regular file counts as
// empty; a pipe is not waited for.
func readRegular(root *os.File, file string) []byte {
	fd, err := unix.Openat2(int(root.Fd()), file, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	data, _ := io.ReadAll(io.LimitReader(f, maxFile))
	return data
}

func eachEntry(root *os.File, file string, visit func(fields []string) bool) {
	lines := bufio.NewScanner(bytes.NewReader(readRegular(root, file)))
	for lines.Scan() {
		if !visit(strings.Split(lines.Text(), ":")) {
			return
		}
	}
}

// IsAlpine reads the tree's os-release(5), without following a link out of it.
func IsAlpine(tree string) bool {
	root, err := os.Open(tree)
	if err != nil {
		return false
	}
	defer root.Close()
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		for line := range strings.Lines(string(readRegular(root, name))) {
			if id, ok := strings.CutPrefix(strings.TrimSpace(line), "ID="); ok {
				return strings.Trim(id, `"'`) == "alpine"
			}
		}
	}
	return false
}
