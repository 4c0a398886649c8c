package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// binder opens the directories of the host that one guest shows.
type binder struct {
	settings Settings
	work     workDir
	volumes  workroot.Root // directory of the job's named volumes; made with the first
	user     int           // user of the guest to whom the runner's files belong there
	tools    *toolCache    // nil if the tools are an ordinary part of the work directory
}

// open opens what the settings show in every guest, then what the broker shows in
// this one, then what a request asks for. The caller closes the sources.
func (b binder) open(show []hostDir, mounts []brokerapi.Mount) (binds []guest.Bind, err error) {
	defer func() {
		if err != nil {
			closeBinds(binds)
			binds = nil
		}
	}()

	for _, dir := range slices.Concat(b.settings.hostDirs(), show) {
		source, err := os.Open(dir.Source)
		if err != nil {
			return binds, fmt.Errorf("cannot show %s to guests: %w", dir.Source, err)
		}
		bind := guest.Bind{Source: source, Target: dir.Target, ReadOnly: dir.readOnly}
		if !dir.readOnly {
			bind.Owner, bind.User = b.settings.RunnerUID, b.user
		}
		binds = append(binds, bind)
	}

	for _, m := range mounts {
		if m.Scratch { // the guest makes it
			continue
		}
		bind, err := b.openMount(m)
		if err != nil {
			return binds, fmt.Errorf("cannot mount %s: %w", m.Target, err)
		}
		binds = append(binds, bind)
	}
	return binds, nil
}

// openMount opens what one mount of a request names.
func (b binder) openMount(m brokerapi.Mount) (guest.Bind, error) {
	bind := guest.Bind{Target: m.Target, ReadOnly: m.ReadOnly, Owner: b.settings.RunnerUID, User: b.user}
	if err := workroot.CheckTarget(m.Target); err != nil {
		return bind, err
	}

	var err error
	switch {
	case m.Externals:
		bind.ReadOnly, bind.Owner, bind.User = true, 0, 0
		bind.Source, err = os.Open(b.settings.Externals)
	case m.Volume != "":
		bind.Fill = !m.ReadOnly
		bind.Source, err = b.openVolume(m.Volume)
	case m.Source != "":
		name, beneath := b.work.name(m.Source)
		if !beneath {
			return b.openHostDir(bind, m.Source)
		}
		if err := workroot.CheckVisible(name); err != nil {
			return bind, err
		}
		if name == toolDir && b.tools != nil {
			return b.tools.bind(m.Target, b.user)
		}
		bind.Hide = workroot.HiddenBeneath(name)
		bind.Source, err = b.work.OpenFileOrMake(name)
	default:
		err = errors.New("the request names no source")
	}
	return bind, err
}

// VolumeSettings are those of named volumes.
type VolumeSettings struct {
	Kept  string   // directory of those that outlive jobs; root's alone
	Names []string // of these
}

// openVolume opens a volume by its name, and makes it if it is new.
func (b binder) openVolume(name string) (*os.File, error) {
	if name != filepath.Base(name) {
		return nil, fmt.Errorf("%.80q is not a name of a volume", name)
	}
	volumes := b.volumes
	if kept := b.settings.Volumes; slices.Contains(kept.Names, name) {
		volumes = b.settings.root(kept.Kept)
	}
	if err := os.Mkdir(volumes.Path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return volumes.Make(name)
}

// openHostDir opens a directory or file of the host that a workflow names, if it lies
// beneath one that root allows.
func (b binder) openHostDir(bind guest.Bind, source string) (guest.Bind, error) {
	for _, dir := range b.settings.hostDirs() {
		root := b.settings.root(dir.Source)
		name, beneath := root.Name(source)
		if !beneath {
			continue
		}

		var err error
		if dir.readOnly {
			bind.ReadOnly, bind.Owner, bind.User = true, 0, 0
			bind.Source, err = root.OpenFileOrDir(name)
		} else {
			bind.Source, err = root.OpenFileOrMake(name)
		}
		return bind, err
	}
	return bind, wire.Unsupported("volume %s is not allowed: "+
		"it is not beneath a directory of RUNNER_NSPAWN_BIND or RUNNER_NSPAWN_BIND_RO in config.env", source)
}

// hostDir is a directory of the host that root lets guests see.
type hostDir struct {
	HostBind
	readOnly bool
}

// hostDirs returns all of them, those that guests may write to first.
func (s Settings) hostDirs() []hostDir {
	var dirs []hostDir
	for _, b := range s.Bind {
		dirs = append(dirs, hostDir{HostBind: b})
	}
	for _, b := range s.BindRO {
		dirs = append(dirs, hostDir{HostBind: b, readOnly: true})
	}
	return dirs
}

func closeBinds(binds []guest.Bind) {
	for _, b := range binds {
		if b.Source != nil {
			_ = b.Source.Close()
		}
		for _, l := range b.Lower {
			_ = l.Source.Close()
		}
	}
}
