package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// fakeGuests starts guests that have no processes but functions.
type fakeGuests struct {
	// These are called, if not nil, where a guest would do the work.
	onStart     func(ctx context.Context, spec guest.Spec) error
	onConfigure func(g *fakeGuest) error
	onExec      func(ctx context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error)
	onStop      func(g *fakeGuest) error
	foreign     bool // no process of this host belongs to any guest
	silent      bool // no process is ever reported to run

	mu      sync.Mutex
	started []*fakeGuest
}

func (f *fakeGuests) Start(ctx context.Context, spec guest.Spec) (Guest, error) {
	if f.onStart != nil {
		if err := f.onStart(ctx, spec); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	g := &fakeGuest{guests: f, spec: spec, exited: make(chan struct{})}
	f.started = append(f.started, g)
	return g, nil
}

// all returns the guests that were started, in order.
func (f *fakeGuests) all() []*fakeGuest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.started)
}

// running returns the guests that nobody has stopped.
func (f *fakeGuests) running() []*fakeGuest {
	return slices.DeleteFunc(f.all(), func(g *fakeGuest) bool { return g.stopCount() > 0 })
}

type fakeGuest struct {
	guests *fakeGuests
	spec   guest.Spec
	exited chan struct{} // closed when its processes are gone

	mu     sync.Mutex
	stops  int // times that Stop succeeded
	config guestapi.Config
	binds  []string // their targets
}

func (g *fakeGuest) ID() string              { return g.spec.ID }
func (g *fakeGuest) Leader() int             { return 1000 }
func (g *fakeGuest) Owns(uid uint32) bool    { return !g.guests.foreign && int(uid) == os.Getuid() }
func (g *fakeGuest) Exited() <-chan struct{} { return g.exited }

func (g *fakeGuest) Configure(_ context.Context, binds []guest.Bind, c guestapi.Config) error {
	g.mu.Lock()
	g.config = c
	for _, b := range binds {
		g.binds = append(g.binds, b.Target)
	}
	g.mu.Unlock()
	if g.guests.onConfigure != nil {
		return g.guests.onConfigure(g)
	}
	return nil
}

func (g *fakeGuest) Exec(ctx context.Context, p guestapi.Process, s wire.Streams) (int, error) {
	select {
	case <-g.exited:
		return 0, errors.New("cannot reach guest")
	default:
	}
	if s.Started != nil && !g.guests.silent {
		close(s.Started)
	}
	if g.guests.onExec == nil {
		return 0, nil
	}
	return g.guests.onExec(ctx, g, p, s)
}

func (g *fakeGuest) Kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.exited:
	default:
		close(g.exited)
	}
}

func (g *fakeGuest) Stop() error {
	if g.guests.onStop != nil {
		if err := g.guests.onStop(g); err != nil {
			return err
		}
	}
	g.Kill()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stops++
	return nil
}

func (g *fakeGuest) stopCount() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stops
}

func (g *fakeGuest) configured() (guestapi.Config, []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.config, g.binds
}

// sleep is a process that runs until its guest or ctx ends.
func (g *fakeGuest) sleep(ctx context.Context) (int, error) {
	select {
	case <-g.exited:
		return 0, &wire.ClosedError{Peer: "the guest", Err: io.EOF}
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// fakeNetworks makes networks without links.
type fakeNetworks struct {
	onNew     func() error
	onReserve func() error
	onJoin    func() error
	onPublish func() error
	onClose   func() // when a network is closed already

	mu   sync.Mutex
	made []*fakeNetwork
}

func (f *fakeNetworks) NewNetwork() (Network, error) {
	if f.onNew != nil {
		if err := f.onNew(); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := &fakeNetwork{networks: f, id: fmt.Sprintf("net-%d", len(f.made)), guests: map[netip.Addr]bool{}, last: 1}
	f.made = append(f.made, n)
	return n, nil
}

func (f *fakeNetworks) all() []*fakeNetwork {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.made)
}

// open returns the networks that are not closed.
func (f *fakeNetworks) open() []*fakeNetwork {
	return slices.DeleteFunc(f.all(), func(n *fakeNetwork) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.closed
	})
}

type fakeNetwork struct {
	networks *fakeNetworks
	id       string

	mu     sync.Mutex
	last   byte
	guests map[netip.Addr]bool // reserved addresses; whether a guest has joined
	ports  map[network.Port]netip.Addr
	closed bool
}

func (n *fakeNetwork) ID() string { return n.id }

func (n *fakeNetwork) Reserve() (netip.Addr, error) {
	if n.networks.onReserve != nil {
		if err := n.networks.onReserve(); err != nil {
			return netip.Addr{}, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return netip.Addr{}, errors.New("cannot reserve address: the network is closed")
	}
	n.last++
	a := netip.AddrFrom4([4]byte{10, 0, 0, n.last})
	n.guests[a] = false
	return a, nil
}

func (n *fakeNetwork) Join(_ int, a netip.Addr) error {
	if n.networks.onJoin != nil {
		if err := n.networks.onJoin(); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, reserved := n.guests[a]; !reserved || n.closed {
		return errors.New("cannot join network: the address is not reserved")
	}
	n.guests[a] = true
	return nil
}

func (n *fakeNetwork) Leave(a netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.guests, a)
	return nil
}

func (n *fakeNetwork) Publish(p network.Port, to netip.Addr) (int, error) {
	if n.networks.onPublish != nil {
		if err := n.networks.onPublish(); err != nil {
			return 0, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ports == nil {
		n.ports = map[network.Port]netip.Addr{}
	}
	n.ports[p] = to
	return 30000 + int(p.Container), nil
}

func (n *fakeNetwork) PublishIn(leader int, p network.Port, to netip.Addr) (int, error) {
	port, err := n.Publish(p, to)
	return port + leader, err
}

func (n *fakeNetwork) Close() error {
	n.mu.Lock()
	n.closed = true
	clear(n.guests)
	n.mu.Unlock()
	if n.networks.onClose != nil {
		n.networks.onClose()
	}
	return nil
}

// joined returns how many guests are in the network.
func (n *fakeNetwork) joined() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, joined := range n.guests {
		if joined {
			count++
		}
	}
	return count
}

// fakeImages has an OCI image for every name that begins with "oci/".
type fakeImages struct {
	tree   string
	config oci.Config
	onPull func(ctx context.Context, reference string, report func(string)) error

	mu       sync.Mutex
	built    map[string]string // key: content of the archive
	inUse    int               // images that are not released
	released int
}

func (f *fakeImages) Pull(
	ctx context.Context, reference string, _ *oci.Credentials, report func(string),
) (Image, error) {
	if f.onPull != nil {
		if err := f.onPull(ctx, reference, report); err != nil {
			return Image{}, err
		}
	}
	if filepath.Dir(reference) != "oci" {
		return Image{}, fmt.Errorf("cannot pull %s: there is no such image", reference)
	}
	return f.use(), nil
}

func (f *fakeImages) Import(_ context.Context, key, file string) (Image, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return Image{}, err
	}
	f.mu.Lock()
	if f.built == nil {
		f.built = map[string]string{}
	}
	f.built[key] = string(content)
	f.mu.Unlock()
	return f.use(), nil
}

func (f *fakeImages) Lookup(key string) (Image, bool) {
	f.mu.Lock()
	_, ok := f.built[key]
	f.mu.Unlock()
	if !ok {
		return Image{}, false
	}
	return f.use(), true
}

func (f *fakeImages) use() Image {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inUse++
	return Image{Tree: f.tree, Config: f.config, Release: func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.inUse--
		f.released++
	}}
}

// lab is a broker with fakes that serves a socket.
type lab struct {
	*testing.T
	dir      string
	settings Settings
	guests   *fakeGuests
	networks *fakeNetworks
	images   *fakeImages
	client   *brokerapi.Client

	freeSpace func() (int64, error) // in place of that of the disk, if not nil
	leaves    bool                  // a test makes the broker leave something
}

// base is the name of the guest base in requests.
const base = "runner-base"

// newLab returns a lab whose broker does not serve yet, so that settings and
// fakes can be changed.
func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{
		"work", "jobs", "externals", "base/sbin", "base/etc", "image", "runner/bin", "runner/externals", "registration",
	} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"base/sbin/init":       "",
		"base/etc/passwd":      "root:x:0:0::/root:/bin/sh\nrunner:x:1001:1001::/home/runner:/bin/bash\n",
		"base/etc/group":       "adm:x:4:runner\nrunner:x:1001:\n",
		"registration/.runner": `{"agentName":"appliance","workFolder":"/host/work"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	path := func(name string) string { return filepath.Join(dir, name) }
	return &lab{
		T: t, dir: dir,
		guests: &fakeGuests{}, networks: &fakeNetworks{}, images: &fakeImages{tree: path("image")},
		client: &brokerapi.Client{Socket: path("socket")},
		settings: Settings{
			WorkRoot: path("work"), JobsDir: path("jobs"), Externals: path("externals"),
			RunnerUID: os.Getuid(), RunnerGID: os.Getgid(),
			Base: path("base"), Images: map[string]string{base: path("base")},
			Worker: WorkerSettings{
				ActionsRunner: path("runner"), Registration: path("registration"), Logs: path("logs"),
			},
		},
	}
}

// serve starts the broker. When the test ends, so does the broker, and nothing
// must be left.
func (l *lab) serve() *Server {
	l.Helper()
	listener, err := net.Listen("unix", l.client.Socket)
	if err != nil {
		l.Fatal(err)
	}
	s := l.newServer()
	if l.freeSpace != nil {
		s.watcher.freeSpace = l.freeSpace
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, listener) }()
	l.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			l.Errorf("broker ended with %v", err)
		}
		if !l.leaves {
			l.checkNothingLeft()
		}
	})
	return s
}

// checkNothingLeft fails if a guest, a network, an image or a volume is in use,
// or a guest was stopped more than once.
func (l *lab) checkNothingLeft() {
	l.Helper()
	for _, g := range l.guests.all() {
		if n := g.stopCount(); n != 1 {
			l.Errorf("guest %s was stopped %d times", g.ID(), n)
		}
	}
	if open := l.networks.open(); len(open) > 0 {
		l.Errorf("%d networks are left", len(open))
	}
	l.images.mu.Lock()
	if l.images.inUse != 0 {
		l.Errorf("%d images are in use", l.images.inUse)
	}
	l.images.mu.Unlock()
	if left, err := os.ReadDir(l.settings.JobsDir); err != nil || len(left) > 0 {
		l.Errorf("volumes are left: %v, %v", left, err)
	}
}

// prepare starts a job.
func (l *lab) prepare(r brokerapi.PrepareRequest) *brokerapi.PrepareReply {
	l.Helper()
	reply, err := l.client.Prepare(l.Context(), r, io.Discard)
	if err != nil {
		l.Fatal(err)
	}
	return reply
}

// exec runs a step in a job.
func (l *lab) exec(job string, argv ...string) (int, error) {
	r := brokerapi.ExecRequest{Job: job, Argv: argv}
	return l.client.Exec(l.Context(), r, wire.Streams{})
}

// step runs a container step, in a job if it is not "".
func (l *lab) step(job, image string, args ...string) (int, error) {
	r := brokerapi.ContainerRequest{Job: job, Container: brokerapi.Container{Image: image, Args: args}}
	return l.client.Container(l.Context(), r, wire.Streams{})
}

// newServer returns the broker, which does not serve yet.
func (l *lab) newServer() *Server {
	parts := Parts{Guests: l.guests, Networks: l.networks, Images: l.images}
	return NewServer(l.settings, parts, slog.New(slog.DiscardHandler))
}

// eventually fails unless done reports true within some seconds.
func (l *lab) eventually(what string, done func() bool) {
	l.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			l.Fatalf("waited in vain: %s", what)
		}
	}
}
