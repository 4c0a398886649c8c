package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/guestapi"
)

// tmpfsFlags are the mount flags that a request may name.
var tmpfsFlags = map[string]uintptr{
	"ro":     unix.MS_RDONLY,
	"noexec": unix.MS_NOEXEC,
	"nosuid": unix.MS_NOSUID,
	"nodev":  unix.MS_NODEV,
}

// configure carries out c. Mounts come first: files and directories may lie in
// them.
func configure(c guestapi.Config) error {
	if c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return fmt.Errorf("cannot set host name %s: %w", c.Hostname, err)
		}
	}

	for _, m := range c.Mounts {
		if err := bind(m); err != nil {
			return fmt.Errorf("cannot mount %s: %w", m.Target, err)
		}
	}
	for _, t := range c.Tmpfs {
		if err := mountTmpfs(t); err != nil {
			return fmt.Errorf("cannot mount tmpfs at %s: %w", t.Target, err)
		}
	}

	for name, content := range c.Files {
		if err := replace(name, content); err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
	}
	for _, dir := range c.Dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make %s: %w", dir, err)
		}
	}
	if c.CACerts != "" {
		if err := trustAuthorities("/", c.CACerts); err != nil {
			return err
		}
	}
	return makeTmp()
}

func bind(m guestapi.Mount) error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.Source, m.Target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}

	// The source is taken away once all is mounted. As long as the two are peers, a
	// mount beneath the target appears beneath the source too, and keeps it.
	if err := unix.Mount("", m.Target, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount("", m.Target, "", unix.MS_SHARED|unix.MS_REC, "")
}

func mountTmpfs(t guestapi.Tmpfs) error {
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

// makeTmp makes the /tmp that every program expects, in images that were built
// from nothing.
func makeTmp() error {
	if err := os.Mkdir("/tmp", 0o777); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Chmod("/tmp", 0o777|fs.ModeSticky)
}
