package oci

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// User is who a process of an OCI image runs as.
type User struct {
	UID, GID uint32   // below 65536
	Groups   []uint32 // supplementary, below 65536
	Home     string   // "/" if the image names none
}

// FindUser finds the user that spec names: NAME or ID, either with :GROUP, or
// empty for root, as --user of docker-run(1). Names are those of passwd(5) and
// group(5) in the root file system at tree, which may be missing; nothing
// outside the tree is read. Without a group, the user's own and those that list
// the user apply.
func FindUser(tree, spec string) (User, error) {
	u, err := findUser(tree, spec)
	if err != nil {
		return User{}, fmt.Errorf("cannot find user %.80q: %w", spec, err)
	}
	return u, nil
}

// FindGroups finds groups by their names or numbers, as --group-add of docker-run(1),
// in the root file system at tree.
func FindGroups(tree string, names []string) ([]uint32, error) {
	if len(names) == 0 {
		return nil, nil
	}
	root, err := os.Open(tree)
	if err != nil {
		return nil, fmt.Errorf("cannot find groups: %w", err)
	}
	defer root.Close()

	var groups []uint32
	file := readInTree(root, "etc/group")
	for _, name := range names {
		ids, err := user.GetAdditionalGroups([]string{name}, bytes.NewReader(file))
		switch {
		case err != nil || len(ids) != 1:
			return nil, fmt.Errorf("cannot find group %.80q: the image has no such group", name)
		case !inGuest(ids[0]):
			return nil, fmt.Errorf("cannot find group %.80q: %w", name, errRange)
		}
		groups = append(groups, uint32(ids[0]))
	}
	return groups, nil
}

func findUser(tree, spec string) (User, error) {
	root, err := os.Open(tree)
	if err != nil {
		return User{}, err
	}
	defer root.Close()

	passwd, group := readInTree(root, "etc/passwd"), readInTree(root, "etc/group")
	found, err := user.GetExecUser(spec, nil, bytes.NewReader(passwd), bytes.NewReader(group))
	switch {
	// The library's messages show the name, which an image can choose, as it is.
	case errors.Is(err, user.ErrNoPasswdEntries):
		return User{}, errors.New("the image has no such user")
	case errors.Is(err, user.ErrNoGroupEntries):
		return User{}, errors.New("the image has no such group")
	case errors.Is(err, user.ErrRange):
		return User{}, errRange
	case err != nil:
		return User{}, errors.New("its /etc/passwd or /etc/group cannot be read")
	}

	if !inGuest(found.Uid) || !inGuest(found.Gid) {
		return User{}, errRange
	}
	u := User{UID: uint32(found.Uid), GID: uint32(found.Gid), Home: found.Home}
	if u.Home == "" {
		u.Home = "/"
	}
	for _, id := range found.Sgids {
		if inGuest(id) {
			u.Groups = append(u.Groups, uint32(id))
		}
	}
	return u, nil
}

// errRange refuses numbers that no user of a guest has.
var errRange = fmt.Errorf("users and groups of a guest have numbers from 0 to %d", idCount-1)

func inGuest(id int) bool { return id >= 0 && id < idCount }

// maxFile bounds what is read of a file that an image brings, in bytes.
const maxFile = 1 << 20

// readInTree reads the start of a regular file of a tree. Links lead where they
// do for a process whose root directory is the tree. Any other file counts as
// empty; a pipe is not waited for.
func readInTree(root *os.File, file string) []byte {
	fd, err := unix.Openat2(int(root.Fd()), file, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
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

// IsAlpine reports whether os-release(5) of the root file system at tree says
// that it is Alpine Linux. No link leads out of the tree.
func IsAlpine(tree string) bool {
	root, err := os.Open(tree)
	if err != nil {
		return false
	}
	defer root.Close()

	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		for line := range strings.Lines(string(readInTree(root, name))) {
			if id, ok := strings.CutPrefix(strings.TrimSpace(line), "ID="); ok {
				return strings.Trim(id, `"'`) == "alpine"
			}
		}
	}
	return false
}
