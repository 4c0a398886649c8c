package config

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// hostOnly are host directories a guest must never see: they hold the token,
// other jobs, or ways to rule the host. Neither they nor what lies beneath may
// be a source, nor a directory that contains one of them.
var hostOnly = []string{
	"/etc", "/run", "/var/run", "/proc", "/sys", "/dev", "/boot", "/efi", "/root",
	"/var/lib/runner", "/var/lib/cloud", "/var/lib/systemd", "/var/log",
}

// guestOnly are directories of the guest that its own start-up fills.
var guestOnly = []string{"/run", "/var/run", "/proc", "/sys", "/dev"}

// parseBinds reads "SRC[:DST] ...", separated by blanks.
func parseBinds(key, v string) ([]Bind, error) {
	var binds []Bind
	targets := map[string]bool{}
	for _, word := range strings.Fields(v) {
		src, dst, both := strings.Cut(word, ":")
		if !both {
			dst = src
		}
		if err := checkBind(key, src, dst); err != nil {
			return nil, err
		}
		if targets[dst] {
			return nil, fmt.Errorf("%s shows two directories as %s in the guest; give each its own, as SRC:DST", key, show(dst))
		}
		targets[dst] = true
		binds = append(binds, Bind{src, dst})
	}
	return binds, nil
}

func checkBind(key, src, dst string) error {
	switch {
	case strings.Contains(dst, ":"):
		return fmt.Errorf("%s has more than one ':' in an entry; write SRC or SRC:DST, and use RUNNER_NSPAWN_BIND_RO for read-only", key)
	case !cleanAbsolute(src) || !cleanAbsolute(dst):
		return fmt.Errorf("%s has a path that is not absolute and in its shortest form; write for example /srv/cache:/cache", key)
	}
	for _, dir := range hostOnly {
		if within(src, dir) || within(dir, src) {
			return fmt.Errorf("%s would show %s of the host to jobs, which holds or contains %s; bind a directory of its own, such as /srv/NAME", key, show(src), dir)
		}
	}
	if dst == "/" {
		return fmt.Errorf("%s would cover the whole guest; choose a directory, as SRC:DST", key)
	}
	for _, dir := range guestOnly {
		if within(dst, dir) {
			return fmt.Errorf("%s would cover %s in the guest, which the guest fills itself; choose another place, as SRC:DST", key, show(dst))
		}
	}
	return nil
}

// within tells whether p is dir or lies beneath it. Both are clean.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

func cleanAbsolute(p string) bool { return path.IsAbs(p) && path.Clean(p) == p }

// show quotes a value for a message, unless lines were joined by mistake and
// the secret could be part of it.
func show(v string) string {
	if strings.Contains(v, "TOKEN") {
		return "(a path with TOKEN in it)"
	}
	return v
}

func setPath(to *string, key, v string) error {
	if !cleanAbsolute(v) || v == "/" {
		return errors.New(key + " is not an absolute path in its shortest form; write for example " + pathExample(key))
	}
	*to = v
	return nil
}

func pathExample(key string) string {
	switch key {
	case "RUNNER_HOOKS_DIR":
		return defaultHooksDir
	case "RUNNER_NSPAWN_BASE_ROOTFS":
		return defaultBaseRootfs
	}
	return defaultActionsRunnerDir
}
