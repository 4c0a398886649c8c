package workroot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// RestoreOwnership makes the root's user and group the owners of everything
// beneath it that belongs to a user or group with the number first or a higher
// one. Those are the users of guests; the runner has to be able to remove what
// they left. An entry that cannot be handed over does not keep the others.
func (r Root) RestoreOwnership(first int) error {
	root, err := os.Open(r.Path)
	if err != nil {
		return fmt.Errorf("cannot restore ownership: %w", err)
	}
	defer root.Close()

	chown := func(e Entry) error {
		if int(e.Stat.Uid) < first && int(e.Stat.Gid) < first {
			return nil
		}
		return unix.Fchownat(int(e.Dir.Fd()), e.Name, r.UID, r.GID, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err := Walk(root, Visitor{Enter: chown}); err != nil {
		return fmt.Errorf("cannot restore ownership in %s: %w", r.Path, err)
	}
	return nil
}
