package images

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// User finds who a process of an image runs as: spec is NAME, ID, either with
// :GROUP, or empty for root. Names are those of the tree's passwd(5) and
// group(5), which may be missing; nothing outside the tree is looked at.
func User(tree, spec string) (uid, gid int, groups []int, home string, err error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return 0, 0, nil, "", fmt.Errorf("cannot find user %.80q: %w", spec, err)
	}
	defer root.Close()
	name, group, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	u, found := findEntry(root, "etc/passwd", name, 2)
	uid, err = idOf(u, found, name)
	if err != nil {
		return 0, 0, nil, "", fmt.Errorf("cannot find user %.80q: the image has no such user", name)
	}
	home = "/"
	if uid == 0 {
		home = "/root"
	}
	if found && len(u) > 5 {
		gid, _ = strconv.Atoi(u[3])
		if u[5] != "" {
			home = u[5]
		}
		groups = memberOf(root, u[0], gid)
	}
	if hasGroup {
		g, found := findEntry(root, "etc/group", group, 2)
		if gid, err = idOf(g, found, group); err != nil {
			return 0, 0, nil, "", fmt.Errorf("cannot find group %.80q: the image has no such group", group)
		}
		groups = nil
	}
	if gid < 0 || gid >= idCount {
		return 0, 0, nil, "", fmt.Errorf("cannot use group %d: it is beyond %d", gid, idCount-1)
	}
	return uid, gid, groups, home, nil
}

// idOf is the number of a user or group: that of its entry, or the name itself.
func idOf(entry []string, found bool, name string) (int, error) {
	text := name
	if found {
		text = entry[2]
	}
	id, err := strconv.Atoi(text)
	if err == nil && (id < 0 || id >= idCount) {
		err = strconv.ErrRange
	}
	return id, err
}

// findEntry finds a line of a file like passwd(5) by its name, or by its
// number in the field given.
func findEntry(root *os.Root, file, name string, number int) (fields []string, found bool) {
	eachEntry(root, file, func(f []string) bool {
		if len(f) > number && (f[0] == name || f[number] == name) {
			fields, found = f, true
		}
		return !found
	})
	return fields, found
}

// memberOf lists the groups that name a user as a member.
func memberOf(root *os.Root, user string, primary int) []int {
	var groups []int
	eachEntry(root, "etc/group", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if id, err := strconv.Atoi(f[2]); member == user && err == nil && id != primary && id >= 0 && id < idCount {
				groups = append(groups, id)
			}
		}
		return true
	})
	return groups
}

// maxFile bounds what is read of a file that an image brings, in bytes.
const maxFile = 1 << 20

// readRegular reads the start of a file of a tree. Anything but a regular file
// counts as empty; a pipe is not waited for.
func readRegular(root *os.Root, file string) []byte {
	f, err := root.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	data, _ := io.ReadAll(io.LimitReader(f, maxFile))
	return data
}

func eachEntry(root *os.Root, file string, visit func(fields []string) bool) {
	lines := bufio.NewScanner(bytes.NewReader(readRegular(root, file)))
	for lines.Scan() {
		if !visit(strings.Split(lines.Text(), ":")) {
			return
		}
	}
}

// IsAlpine reads the tree's os-release(5), without following a link out of it.
func IsAlpine(tree string) bool {
	root, err := os.OpenRoot(tree)
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
