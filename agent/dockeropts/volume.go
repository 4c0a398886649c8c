package dockeropts

import (
	"encoding/csv"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Volume is what a container sees at a path: a directory or file of the host, a
// volume of the job, or a directory of its own.
type Volume struct {
	Source   string // absolute path of the host, or "" if it is none
	Name     string // of the job's volume, or ""
	Target   string // absolute, clean, not "/"
	ReadOnly bool
}

const dockerSocket = "/var/run/docker.sock"

// addVolume parses [SOURCE:]TARGET[:OPTION,...].
func (o *Options) addVolume(value string) error {
	parts := strings.Split(value, ":")
	source, target, options := "", parts[0], ""
	switch len(parts) {
	case 1:
	case 2:
		source, target = parts[0], parts[1]
	case 3:
		source, target, options = parts[0], parts[1], parts[2]
	default:
		return fmt.Errorf("%.80q is not SOURCE:TARGET; write for example cache:/var/cache", value)
	}
	if len(parts) > 1 && source == "" {
		return fmt.Errorf("%.80q has no source; write for example cache:/var/cache", value)
	}

	v := Volume{Target: target}
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "ro":
			v.ReadOnly = true
		case "rw", "z", "Z", "cached", "delegated", "consistent", "nocopy", "private", "rprivate", "":
		default:
			return fmt.Errorf("%.80q is not supported; write ro or rw", option)
		}
	}
	return o.appendVolume(v, source)
}

// appendVolume adds a volume of which the source is still to be told from a name.
func (o *Options) appendVolume(v Volume, source string) error {
	if !path.IsAbs(v.Target) || path.Clean(v.Target) == "/" {
		return fmt.Errorf("%.80q is not an absolute path beneath /; write for example /data", v.Target)
	}
	v.Target = path.Clean(v.Target)
	switch {
	case v.Target == dockerSocket || source == dockerSocket:
		return errors.New("there is no Docker here, and no socket of it; remove the volume")
	case path.IsAbs(source):
		v.Source = path.Clean(source)
	case source != "" && !isWord(source, alphanumeric, alphanumeric+"_.-"):
		return fmt.Errorf("%.80q is neither a name nor an absolute path; write for example cache:/var/cache", source)
	default:
		v.Name = source
	}
	o.Volumes = append(o.Volumes, v)
	return nil
}

// addMount parses KEY=VALUE,... in the quotes of CSV.
func (o *Options) addMount(value string) error {
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return fmt.Errorf("%.80q is not a list of KEY=VALUE; write for example type=tmpfs,target=/fast", value)
	}

	m := mount{kind: "volume", tmpfs: Tmpfs{Mode: defaultMode}}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if err := m.set(strings.ToLower(key), value, ok); err != nil {
			return err
		}
	}

	switch m.kind {
	case "tmpfs":
		m.tmpfs.ReadOnly = m.volume.ReadOnly
		return o.appendTmpfs(m.tmpfs, m.volume.Target)
	case "bind":
		if !path.IsAbs(m.source) {
			return fmt.Errorf("source %.80q of a bind is not an absolute path; write type=volume for a name", m.source)
		}
	case "volume":
		if path.IsAbs(m.source) {
			return fmt.Errorf("source %.80q of a volume is not a name; write type=bind for a path", m.source)
		}
	default:
		return fmt.Errorf("type %.80q is not supported; write bind, volume or tmpfs", m.kind)
	}
	return o.appendVolume(m.volume, m.source)
}

// mount is a value of --mount.
type mount struct {
	kind   string
	source string
	volume Volume
	tmpfs  Tmpfs
}

func (m *mount) set(key, value string, hasValue bool) error {
	switch key {
	case "type":
		m.kind = strings.ToLower(value)
	case "source", "src":
		m.source = value
	case "target", "destination", "dst":
		m.volume.Target = value
	case "readonly", "ro":
		on, err := strconv.ParseBool(value)
		if hasValue && err != nil {
			return fmt.Errorf("%.80q is neither true nor false; write readonly", value)
		}
		m.volume.ReadOnly = on || !hasValue
	case "tmpfs-size":
		return m.tmpfs.set("size=" + value)
	case "tmpfs-mode":
		return m.tmpfs.set("mode=" + value)
	case "consistency", "volume-nocopy", "volume-label":
		// They are of no consequence on Linux, or to a volume that goes with its job.
	case "bind-propagation":
		return oneOf("mounts of a guest are its own; remove it", "private", "rprivate")(value)
	default:
		return fmt.Errorf("%.80q is not supported; write type, source, target, readonly, tmpfs-size or tmpfs-mode", key)
	}
	return nil
}
