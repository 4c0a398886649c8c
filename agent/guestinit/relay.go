package guestinit

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/wire"
)

// drainWait is how long reading the rest of a pipe may take. It holds at least
// that much, so it does not block; a deadline that has passed would refuse.
const drainWait = time.Second

// relay sends what a process writes to a pipe, until the pipe's end or, once
// its read deadline has passed, until what it held at that moment is sent.
func relay(c *wire.Conn, kind wire.Kind, pipe *os.File) {
	buf := make([]byte, wire.MaxData)
	for {
		n, err := pipe.Read(buf)
		if n > 0 && c.Send(kind, buf[:n]) != nil {
			return
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			drain(c, kind, pipe, buf)
			return
		case err != nil:
			return
		}
	}
}

// drain sends the bytes that are in the pipe now. A child of the process may
// write on for ever, so what comes later is left.
func drain(c *wire.Conn, kind wire.Kind, pipe *os.File, buf []byte) {
	_ = pipe.SetReadDeadline(time.Now().Add(drainWait))
	for left := buffered(pipe); left > 0; {
		n, err := pipe.Read(buf[:min(left, len(buf))])
		if n > 0 && c.Send(kind, buf[:n]) != nil || err != nil {
			return
		}
		left -= n
	}
}

// buffered returns the number of bytes in a pipe, FIONREAD (alias TIOCINQ) of
// ioctl_tty(2).
func buffered(pipe *os.File) int {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return 0
	}
	var n int
	if raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }) != nil || err != nil {
		return 0
	}
	return n
}
