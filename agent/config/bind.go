package config

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// hostOnly are directories of the host that a guest must never see: they hold
// the token, other jobs, or ways to control the host. A source may be neither
// one of them, nor beneath one, nor contain one.
var hostOnly = []string{
	"/etc", "/run", "/var/run", "/proc", "/sys", "/dev", "/boot", "/efi", "/root",
	layout.State, "/var/lib/cloud", "/var/lib/systemd", "/var/log",
}

// guestOnly are directories that the guest fills itself while it starts.
var guestOnly = []string{"/run", "/var/run", "/proc", "/sys", "/dev"}

// parseBinds reads "SRC[:DST] ...", separated by blanks.
func parseBinds(v string) ([]Bind, error) {
	var binds []Bind
	targets := map[string]bool{}
	for _, word := range strings.Fields(v) {
		src, dst, both := strings.Cut(word, ":")
		if !both {
			dst = src
		}
		if err := checkBind(src, dst); err != nil {
			return nil, err
		}
		if targets[dst] {
			return nil, fmt.Errorf("shows two directories as %s in the guest; give each its own, as SRC:DST", quotable(dst))
		}

		targets[dst] = true
		binds = append(binds, Bind{Source: src, Target: dst})
	}
	return binds, nil
}

func checkBind(src, dst string) error {
	switch {
	case strings.Contains(dst, ":"):
		return errors.New("has more than one ':' in an entry; write SRC or SRC:DST, " +
			"and use RUNNER_NSPAWN_BIND_RO for read-only")
	case !cleanAbsolute(src) || !cleanAbsolute(dst):
		return errors.New("has a path that is not absolute and in its shortest form; " +
			"write for example /srv/cache:/cache")
	}

	for _, dir := range hostOnly {
		if within(src, dir) || within(dir, src) {
			return fmt.Errorf("would show %s of the host to jobs, which holds or contains %s; "+
				"bind a directory of its own, such as /srv/NAME", quotable(src), dir)
		}
	}

	if dst == "/" {
		return errors.New("would cover the whole guest; choose a directory, as SRC:DST")
	}
	for _, dir := range guestOnly {
		if within(dst, dir) {
			return fmt.Errorf("would cover %s in the guest, which the guest fills itself; "+
				"choose another place, as SRC:DST", quotable(dst))
		}
	}
	return nil
}

// within reports whether p is dir or lies beneath it. Both are clean.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

// cleanAbsolute reports whether p is absolute and in its shortest form.
func cleanAbsolute(p string) bool { return path.IsAbs(p) && path.Clean(p) == p }

// quotable returns v for a message, unless lines were joined by mistake and v
// may hold the token.
func quotable(v string) string {
	if strings.Contains(v, "TOKEN") {
		return "(a path with TOKEN in it)"
	}
	return v
}
