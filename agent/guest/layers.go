package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Layer is a directory of the host that a guest sees through others.
type Layer struct {
	Source *os.File // opened by the caller
	Owner  int      // host user whose files belong to Bind.User in the guest; others' can be read only
}

// mountLayers mounts the layers of a bind at target, as one directory: what lies
// in b.Lower, and above it what the guest writes. Source holds the two directories
// that overlayfs wants for that. The guest's users own what they write there, under
// their numbers on the host.
func (g *Guest) mountLayers(target string, b Bind) error {
	const attributes = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	owner := rangeBase(g.idRange) + b.User
	var lower []string
	for i, layer := range b.Lower {
		ids, err := g.manager.userNamespace(idMap{{ContainerID: layer.Owner, HostID: owner, Size: 1}})
		if err != nil {
			return err
		}
		path := fmt.Sprintf("%s-%d", target, i)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		if err := cloneMount(layer.Source, path, attributes|unix.MOUNT_ATTR_RDONLY, ids); err != nil {
			return err
		}
		lower = append(lower, path)
	}

	top := target + "-top"
	if err := os.Mkdir(top, 0o755); err != nil {
		return err
	}
	if err := cloneMount(b.Source, top, attributes, nil); err != nil {
		return err
	}
	upper, work := filepath.Join(top, "upper"), filepath.Join(top, "work")
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755), os.Lchown(upper, owner, owner)); err != nil {
		return err
	}

	// The upper layer may become a lower one of other mounts, so nothing in it may
	// refer to those of this one.
	options := fmt.Sprintf("volatile,index=off,metacopy=off,redirect_dir=nofollow,lowerdir=%s,upperdir=%s,workdir=%s",
		strings.Join(lower, ":"), upper, work)
	if err := unix.Mount("overlay", target, "overlay", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("cannot mount layers: %w", err)
	}
	return nil
}
