package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// binds opens what the settings and a request want to see in a guest, whose
// user is to own the work root. The job's volumes lie in the directory volumes.
func (s *Server) binds(mounts []brokerapi.Mount, volumes string, user int) (binds []guest.Bind, err error) {
	defer func() {
		if err != nil {
			closeBinds(binds)
		}
	}()
	for _, list := range []struct {
		binds    []HostBind
		readOnly bool
	}{{s.settings.Bind, false}, {s.settings.BindRO, true}} {
		for _, b := range list.binds {
			source, err := os.Open(b.Source)
			if err != nil {
				return binds, fmt.Errorf("cannot show %s to guests: %w", b.Source, err)
			}
			bind := guest.Bind{Source: source, Target: b.Target, ReadOnly: list.readOnly}
			if !list.readOnly {
				bind.Owner, bind.User = s.settings.RunnerUID, user
			}
			binds = append(binds, bind)
		}
	}
	if len(mounts) == 0 {
		return binds, nil
	}
	root, err := os.Open(s.settings.WorkRoot)
	if err != nil {
		return binds, fmt.Errorf("cannot open work root: %w", err)
	}
	defer root.Close()
	for _, m := range mounts {
		if m.Scratch {
			continue
		}
		bind, err := s.bind(root, volumes, m, user)
		if err != nil {
			return binds, fmt.Errorf("cannot mount %s: %w", m.Target, err)
		}
		binds = append(binds, bind)
	}
	return binds, nil
}

func (s *Server) bind(root *os.File, volumes string, m brokerapi.Mount, user int) (guest.Bind, error) {
	bind := guest.Bind{Target: m.Target, ReadOnly: m.ReadOnly}
	if err := workroot.CheckTarget(m.Target); err != nil {
		return bind, err
	}
	var err error
	switch {
	case m.Externals:
		bind.ReadOnly = true
		bind.Source, err = os.Open(s.settings.Externals)
	case m.Volume != "":
		bind.Owner, bind.User = s.settings.RunnerUID, user
		bind.Source, err = s.openVolume(volumes, m.Volume)
	case m.Source != "":
		work, relErr := filepath.Rel(s.settings.WorkRoot, m.Source)
		if relErr != nil || !filepath.IsLocal(work) {
			return s.allowed(bind, m.Source, user)
		}
		if err := workroot.CheckHidden(work); err != nil {
			return bind, err
		}
		bind.Owner, bind.User = s.settings.RunnerUID, user
		bind.Hide = workroot.HiddenBeneath(work)
		bind.Source, err = workroot.OpenBeneath(root, work, s.settings.RunnerUID, s.settings.RunnerGID)
	default:
		err = errors.New("the request names no source")
	}
	return bind, err
}

// openVolume opens a volume of the job by its name, and makes it if it is new.
func (s *Server) openVolume(volumes, name string) (*os.File, error) {
	if err := os.Mkdir(volumes, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	dir, err := os.Open(volumes)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if name != filepath.Base(name) {
		return nil, fmt.Errorf("%q is no name of a volume", name)
	}
	return workroot.OpenBeneath(dir, name, s.settings.RunnerUID, s.settings.RunnerGID)
}

// allowed opens a host directory that a workflow names, if it lies beneath one
// that root allows.
func (s *Server) allowed(bind guest.Bind, source string, user int) (guest.Bind, error) {
	for _, list := range []struct {
		roots    []HostBind
		readOnly bool
	}{{s.settings.Bind, false}, {s.settings.BindRO, true}} {
		for _, allowed := range list.roots {
			name, err := filepath.Rel(allowed.Source, source)
			if err != nil || !filepath.IsLocal(name) {
				continue
			}
			root, err := os.Open(allowed.Source)
			if err != nil {
				return bind, err
			}
			defer root.Close()
			if list.readOnly {
				bind.ReadOnly = true
				bind.Source, err = workroot.OpenBeneath(root, name, -1, -1)
			} else {
				bind.Owner, bind.User = s.settings.RunnerUID, user
				bind.Source, err = workroot.OpenBeneath(root, name, s.settings.RunnerUID, s.settings.RunnerGID)
			}
			return bind, err
		}
	}
	return bind, fmt.Errorf("volume %s is not allowed: it is not beneath a directory of RUNNER_NSPAWN_BIND or RUNNER_NSPAWN_BIND_RO in config.env", source)
}

func closeBinds(binds []guest.Bind) {
	for _, b := range binds {
		if b.Source != nil {
			_ = b.Source.Close()
		}
	}
}
