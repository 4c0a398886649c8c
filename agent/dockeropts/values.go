package dockeropts

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

const (
	minCPUs     = 0.01 // dockerd's, and the least of cpu.max: 1 ms in 100
	maxCPUs     = 4096
	minMemory   = 6 << 20 // dockerd's
	maxSize     = 1 << 50
	maxPids     = 1 << 22 // PID_MAX_LIMIT, proc(5)
	minDuration = time.Millisecond
	maxDuration = 24 * time.Hour
	maxRetries  = 1000
	maxID       = 1<<16 - 1 // a guest has 65536 users, systemd-nspawn(1)
)

func (o *Options) setCPUs(value string) error {
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || n != 0 && !(n >= minCPUs && n <= maxCPUs) {
		return fmt.Errorf("%.80q is not a number from %g to %d; write for example 1.5", value, minCPUs, maxCPUs)
	}
	o.CPUs = n
	return nil
}

func (o *Options) setMemory(value string) error {
	n, ok := parseSize(value)
	if !ok || n != 0 && n < minMemory {
		return fmt.Errorf("%.80q is not a size from 6m to 1024t; write for example 2g", value)
	}
	o.Memory = n
	return nil
}

func (o *Options) setShmSize(value string) error {
	n, ok := parseSize(value)
	if !ok || n == 0 {
		return fmt.Errorf("%.80q is not a size from 1 to 1024t; write for example 1g", value)
	}
	o.ShmSize = n
	return nil
}

// parseSize parses a number of bytes up to maxSize as docker-create(1) does:
// 1024, 64k, 1.5g, or 2GB, which is 2GiB. Docker takes less than one byte for
// zero, which lifts the limit; here that is a mistake.
func parseSize(value string) (n int64, ok bool) {
	n, err := units.RAMInBytes(value)
	if err != nil || n < 0 || n > maxSize {
		return 0, false
	}
	return n, n > 0 || !strings.ContainsAny(value, "123456789")
}

func (o *Options) setPidsLimit(value string) error {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < -1 || n > maxPids {
		return fmt.Errorf("%.80q is not a number from 1 to %d, nor -1 for no limit; write for example 512", value, maxPids)
	}
	o.PidsLimit = max(n, 0)
	return nil
}

// addEnv keeps the value out of its errors: it may be a secret.
func (o *Options) addEnv(value string) error {
	name, text, ok := strings.Cut(value, "=")
	switch {
	case name == "":
		return errors.New("the name is empty; write NAME=VALUE")
	case !ok:
		return fmt.Errorf("%.80q has no value, and variables of the host are not passed on; write %.80q",
			name, name+"=VALUE")
	}

	if o.Env == nil {
		o.Env = map[string]string{}
	}
	o.Env[name] = text
	return nil
}

func (o *Options) setHostname(value string) error {
	if !isHostname(value) {
		return fmt.Errorf("%.80q is not a host name; write letters, digits and inner hyphens, 63 at most", value)
	}
	o.Hostname = value
	return nil
}

func (o *Options) addAlias(value string) error {
	if !isName(value) {
		return fmt.Errorf("%.80q is not a name; write letters, digits, hyphens and underscores", value)
	}
	o.Aliases = appendNew(o.Aliases, value)
	return nil
}

func (o *Options) setUser(value string) error {
	user, group, ok := strings.Cut(value, ":")
	if !isAccount(user) || ok && !isAccount(group) {
		return fmt.Errorf("%.80q is not USER, UID, USER:GROUP or UID:GID with numbers to %d; "+
			"write for example 1000:1000", value, maxID)
	}
	o.User = value
	return nil
}

// isAccount reports whether s is the name or the number of a user or a group.
func isAccount(s string) bool {
	n, err := strconv.ParseUint(s, 10, 64)
	return err == nil && n <= maxID || isAccountName(s)
}

// addGroup takes a further group of the container's processes.
func (o *Options) addGroup(value string) error {
	if !isAccount(value) {
		return fmt.Errorf("%.80q is not a group, nor a number to %d; write for example 1000", value, maxID)
	}
	o.Groups = appendNew(o.Groups, value)
	return nil
}

func (o *Options) setWorkdir(value string) error {
	if !path.IsAbs(value) {
		return fmt.Errorf("%.80q is not an absolute path; write for example /work", value)
	}
	o.Workdir = path.Clean(value)
	return nil
}

func (o *Options) setEntrypoint(value string) error {
	o.Entrypoint = &value
	return nil
}

// addDevice parses /dev/HOST[:/dev/GUEST][:rwm].
func (o *Options) addDevice(value string) error {
	parts := strings.Split(value, ":")
	d := Device{Host: parts[0], Guest: parts[0]}
	parts = parts[1:]
	// The second part may be the access as well.
	if len(parts) > 0 && strings.HasPrefix(parts[0], "/") {
		d.Guest, parts = parts[0], parts[1:]
	}
	if len(parts) > 1 || !isDevice(d.Host) || !isDevice(d.Guest) {
		return fmt.Errorf("%.80q is not /dev/HOST or /dev/HOST:/dev/GUEST; write for example /dev/kvm", value)
	}

	// Nothing in a user namespace makes devices, mknod(2), so m changes nothing.
	if len(parts) == 1 && parts[0] != "rw" && parts[0] != "rwm" {
		return fmt.Errorf("%.80q is not a supported access: a guest reads and writes its devices; leave it out",
			parts[0])
	}
	o.Devices = append(o.Devices, d)
	return nil
}

func (o *Options) setHealthCmd(value string) error {
	if value == "" {
		return errors.New("the command is empty; write one, or use --no-healthcheck")
	}
	o.Health.Cmd = value
	return nil
}

func (o *Options) setHealthRetries(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 || n > maxRetries {
		return fmt.Errorf("%.80q is not a number from 0 to %d; write for example 5", value, maxRetries)
	}
	o.Health.Retries = n
	return nil
}

// durationOf returns a function that sets d.
func durationOf(d *time.Duration) func(string) error {
	return func(value string) error {
		n, err := time.ParseDuration(value)
		if err != nil || n != 0 && n < minDuration || n > maxDuration {
			return fmt.Errorf("%.80q is not a duration from 1ms to 24h; write for example 10s or 1m30s", value)
		}
		*d = n
		return nil
	}
}
