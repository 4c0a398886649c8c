package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
)

// listen opens the broker's socket. Root and the runner's group can connect to
// one that it makes itself.
func (h Host) listen() (net.Listener, error) {
	if h.Socket == "" {
		listeners, err := activation.Listeners()
		if err != nil || len(listeners) != 1 {
			return nil, errors.Join(errors.New("cannot listen: systemd handed over no socket; give --socket"), err)
		}
		return listeners[0], nil
	}

	if err := os.Remove(h.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	l, err := net.Listen("unix", h.Socket)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	// In a directory of root's: the socket that was just made is what these find.
	err = errors.Join(
		os.Chown(h.Socket, 0, h.RunnerGID),
		os.Chmod(h.Socket, 0o660),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen: %w", err), l.Close())
	}
	return l, nil
}

// listenInGuest opens a socket for one guest. Anybody may connect by its mode:
// the directory that it lies in shows in that guest alone.
func listenInGuest(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen: %w", err), l.Close())
	}
	return l, nil
}
