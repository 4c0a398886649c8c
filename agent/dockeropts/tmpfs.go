package dockeropts

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Tmpfs is an empty file system in memory, tmpfs(5). As in Docker, set-user-ID
// bits and devices have no effect in it, and files can be executed only with
// Exec.
type Tmpfs struct {
	Path     string // absolute, clean, not "/"
	Size     int64  // bytes, to 1 PiB; 0: half of the memory
	Mode     uint32 // permission bits of its root, to 07777
	UID, GID uint32 // owner of its root, below 65536
	ReadOnly bool
	Exec     bool
}

const (
	defaultMode = 0o1777 // the kernel's, tmpfs(5)
	maxMode     = 0o7777
)

// Flags returns the options of mount(8) that any file system has.
func (t Tmpfs) Flags() []string {
	flags := []string{"nosuid", "nodev"}
	if !t.Exec {
		flags = append(flags, "noexec")
	}
	if t.ReadOnly {
		flags = append(flags, "ro")
	}
	return flags
}

// Data returns the options of tmpfs(5).
func (t Tmpfs) Data() string {
	data := fmt.Sprintf("mode=%o", t.Mode)
	if t.Size > 0 {
		data += fmt.Sprintf(",size=%d", t.Size)
	}
	if t.UID != 0 || t.GID != 0 {
		data += fmt.Sprintf(",uid=%d,gid=%d", t.UID, t.GID)
	}
	return data
}

// addTmpfs parses PATH[:OPTION,...].
func (o *Options) addTmpfs(value string) error {
	name, list, ok := strings.Cut(value, ":")
	t := Tmpfs{Mode: defaultMode}
	if ok {
		for option := range strings.SplitSeq(list, ",") {
			if err := t.set(option); err != nil {
				return err
			}
		}
	}
	return o.appendTmpfs(t, name)
}

func (o *Options) appendTmpfs(t Tmpfs, target string) error {
	t.Path = path.Clean(target)
	if !path.IsAbs(target) || t.Path == "/" {
		return fmt.Errorf("%.80q is not an absolute path beneath /; write for example /run", target)
	}
	o.Tmpfs = append(o.Tmpfs, t)
	return nil
}

// set applies one option of --tmpfs.
func (t *Tmpfs) set(option string) error {
	name, value, _ := strings.Cut(option, "=")
	switch {
	case name == "size":
		n, ok := parseSize(value)
		if !ok || n == 0 {
			return fmt.Errorf("%.80q is not a size from 1 to 1024t; write for example size=64m", value)
		}
		t.Size = n
	case name == "mode":
		n, err := strconv.ParseUint(value, 8, 32)
		if err != nil || n > maxMode {
			return fmt.Errorf("%.80q is not an octal mode; write for example mode=1777", value)
		}
		t.Mode = uint32(n)
	case name == "uid", name == "gid":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return fmt.Errorf("%.80q is not a number to %d; write for example uid=1000", value, maxID)
		}
		if name == "uid" {
			t.UID = uint32(n)
		} else {
			t.GID = uint32(n)
		}
	case option == "ro", option == "rw":
		t.ReadOnly = option == "ro"
	case option == "exec", option == "noexec":
		t.Exec = option == "exec"
	case option == "nosuid", option == "nodev":
	default:
		return fmt.Errorf(
			"%.80q is unknown; write size=SIZE, mode=OCTAL, uid=UID, gid=GID, ro, rw, exec, noexec, nosuid or nodev",
			option,
		)
	}
	return nil
}
