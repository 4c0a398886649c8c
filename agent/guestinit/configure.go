package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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

	if c.Domainname != "" {
		if err := unix.Setdomainname([]byte(c.Domainname)); err != nil {
			return fmt.Errorf("cannot set domain name %s: %w", c.Domainname, err)
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

	if err := writeTree(c); err != nil {
		return err
	}
	for name, value := range c.Sysctls {
		if err := setSysctl(name, value); err != nil {
			return fmt.Errorf("cannot set sysctl %s to %.80q: %w", name, value, err)
		}
	}
	if c.ReadOnlyRoot {
		if err := makeReadOnly("/"); err != nil {
			return fmt.Errorf("cannot make the root file system read-only: %w", err)
		}
	}
	return nil
}

// writeTree writes what of c belongs into the guest's files.
func writeTree(c guestapi.Config) error {
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

// setSysctl writes a setting where sysctl(8) does. The caller has checked that its
// name consists of words with dots between them.
func setSysctl(name, value string) error {
	file := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("this kernel has no such setting")
	}
	if err != nil {
		return errors.Unwrap(err) // without the path, which is the name again
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.New("the kernel does not take it in a guest")
	}
	return nil
}

// makeReadOnly keeps the flags that a mount has: the kernel locks some of them
// against the guest's root.
func makeReadOnly(dir string) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return err
	}
	const kept = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME | unix.ST_NODIRATIME | unix.ST_RELATIME
	flags := uintptr(stat.Flags)&kept | unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY
	return unix.Mount("", dir, "", flags, "")
}

func bind(m guestapi.Mount) error {
	if err := makeTarget(m); err != nil {
		return err
	}
	if m.Fill {
		if err := fill(m.Source, m.Target); err != nil {
			return fmt.Errorf("cannot copy the image's files into the volume: %w", err)
		}
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

// makeTarget makes what a mount needs at its target: a directory, or a file for a file.
func makeTarget(m guestapi.Mount) error {
	info, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.MkdirAll(m.Target, 0o755)
	}

	if err := os.MkdirAll(filepath.Dir(m.Target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(m.Target, os.O_CREATE|os.O_WRONLY|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
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
