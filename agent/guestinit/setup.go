package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Setup makes a guest that runs already the one that a container asks for. The
// broker sends it once, before any process of the job.
type Setup struct {
	Hostname string            `json:"hostname,omitempty"`
	Files    map[string]string `json:"files,omitempty"` // path: content, replaced as a whole
	Dirs     []string          `json:"dirs,omitempty"`  // made if they do not exist
	Mounts   []Mount           `json:"mounts,omitempty"`
	Tmpfs    []Tmpfs           `json:"tmpfs,omitempty"`
}

// Mount shows the tree at Source, a path in the guest, at Target as well.
type Mount struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// Tmpfs mounts an empty file system in memory, tmpfs(5).
type Tmpfs struct {
	Target  string   `json:"target"`
	Flags   []string `json:"flags,omitempty"`   // of ro, noexec, nosuid, nodev
	Options string   `json:"options,omitempty"` // "size=1024,mode=1777"
}

var tmpfsFlags = map[string]uintptr{"ro": unix.MS_RDONLY, "noexec": unix.MS_NOEXEC, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV}

func (s *Setup) apply() error {
	if s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("cannot set host name %s: %w", s.Hostname, err)
		}
	}
	for _, m := range s.Mounts {
		if err := bind(m); err != nil {
			return fmt.Errorf("cannot mount %s: %w", m.Target, err)
		}
	}
	for _, t := range s.Tmpfs {
		if err := t.mount(); err != nil {
			return fmt.Errorf("cannot mount tmpfs at %s: %w", t.Target, err)
		}
	}
	for name, content := range s.Files {
		if err := replace(name, content); err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
	}
	for _, dir := range s.Dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make %s: %w", dir, err)
		}
	}
	return makeTmp()
}

func bind(m Mount) error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	return unix.Mount(m.Source, m.Target, "", unix.MS_BIND|unix.MS_REC, "")
}

func (t Tmpfs) mount() error {
	var flags uintptr
	for _, name := range t.Flags {
		flag, ok := tmpfsFlags[name]
		if !ok {
			return fmt.Errorf("flag %q is unknown", name)
		}
		flags |= flag
	}
	if err := os.MkdirAll(t.Target, 0o755); err != nil {
		return err
	}
	return unix.Mount("tmpfs", t.Target, "tmpfs", flags, t.Options)
}

// replace writes a file anew, also where an image has a symbolic link that
// leads nowhere, as /etc/resolv.conf often is.
func replace(name, content string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(name, []byte(content), 0o644)
}

// makeTmp gives images that were built from nothing what every program expects.
func makeTmp() error {
	if err := os.Mkdir("/tmp", 0o777); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Chmod("/tmp", 0o777|fs.ModeSticky)
}

// Hosts gives the content of hosts(5) for names of each address, in order.
func Hosts(lines ...[]string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, line := range lines {
		if len(line) > 1 {
			b.WriteString(line[0] + "\t" + strings.Join(line[1:], " ") + "\n")
		}
	}
	return b.String()
}
