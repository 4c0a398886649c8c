package guests

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
)

// makeNetwork makes the network namespace that stands for the host's, with
// nothing in it but loopback.
func (l *lab) makeNetwork() {
	l.Helper()
	l.netns = filepath.Base(l.dir)
	l.ip("netns", "add", l.netns)
	l.Cleanup(func() { l.ip("netns", "delete", l.netns) })
	l.ip("-netns", l.netns, "link", "set", "lo", "up")
}

func (l *lab) ip(args ...string) {
	l.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.Errorf("ip %q: %v\n%s", args, err, out)
	}
}

// command runs a program in the lab's network namespace. Not by ip netns exec,
// which puts a new /sys before it.
func (l *lab) command(name string, args ...string) *exec.Cmd {
	return exec.CommandContext(l.Context(), "nsenter", append([]string{"--net=/run/netns/" + l.netns, name}, args...)...)
}

// inNetwork calls do on a thread in a network namespace: sockets it makes
// belong there. The thread is not used again.
func (l *lab) inNetwork(name string, do func() error) {
	l.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromName(name)
		if err == nil {
			err = netns.Set(ns)
			_ = ns.Close()
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		l.Fatal(err)
	}
}

// dial connects within the lab's network namespace.
func (l *lab) dial(_ context.Context, network, address string) (conn net.Conn, err error) {
	l.inNetwork(l.netns, func() error {
		conn, err = net.Dial(network, address)
		return nil
	})
	return conn, err
}

// internetAddr is an address of the internet, RFC 5737.
const internetAddr = "203.0.113.1"

// makeInternet makes a second namespace, once, which the lab's reaches by a route as
// hosts reach the internet, and returns its name.
func (l *lab) makeInternet() string {
	l.Helper()
	if l.internet != "" {
		return l.internet
	}
	name := l.netns + "-inet"
	l.internet = name
	l.ip("netns", "add", name)
	l.Cleanup(func() { l.ip("netns", "delete", name) })
	l.ip("-netns", l.netns, "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", name)
	for _, side := range []struct{ ns, link, address string }{
		{ns: l.netns, link: "uplink", address: "203.0.113.2/24"},
		{ns: name, link: "eth0", address: internetAddr + "/24"},
	} {
		l.ip("-netns", side.ns, "address", "add", side.address, "dev", side.link)
		l.ip("-netns", side.ns, "link", "set", side.link, "up")
	}
	l.ip("-netns", name, "link", "set", "lo", "up")
	l.ip("-netns", l.netns, "route", "add", "default", "via", internetAddr)
	return name
}

// listen listens in the lab's network namespace.
func (l *lab) listen(address string) net.Listener {
	l.Helper()
	return l.listenIn(l.netns, address)
}

func (l *lab) listenIn(namespace, address string) net.Listener {
	l.Helper()
	var listener net.Listener
	l.inNetwork(namespace, func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	return listener
}
