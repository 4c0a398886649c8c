package broker

import (
	"context"
	"net/netip"

	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// Guests starts guests, as guest.Manager does.
type Guests interface {
	// Start starts a guest. If it fails or ctx ends, no guest is left.
	Start(ctx context.Context, spec guest.Spec) (Guest, error)
}

// Guest is a running guest; see guest.Guest.
type Guest interface {
	ID() string
	Leader() int
	Owns(uid uint32) bool
	Configure(ctx context.Context, binds []guest.Bind, c guestapi.Config) error
	Exec(ctx context.Context, p guestapi.Process, s wire.Streams) (status int, err error)
	Exited() <-chan struct{}
	Kill()
	Stop() error
}

// Networks makes the networks of jobs, as network.Manager does.
type Networks interface {
	NewNetwork() (Network, error)
}

// Network is the network of a job; see network.Network.
type Network interface {
	ID() string
	Reserve() (netip.Addr, error)
	Join(pid int, a netip.Addr) error
	Leave(a netip.Addr) error
	Publish(p network.Port, to netip.Addr) (host int, err error)
	PublishIn(leader int, p network.Port, to netip.Addr) (port int, err error)
	Close() error
}

// Images keeps OCI images, as oci.Store does.
type Images interface {
	Pull(ctx context.Context, reference string, c *oci.Credentials, report func(line string)) (Image, error)
	// Import keeps the OCI archive in a file under a key, by which Lookup finds it.
	Import(ctx context.Context, key, file string) (Image, error)
	Lookup(key string) (Image, bool)
}

// Image is an unpacked OCI image. Its tree stays until Release, which is called
// once.
type Image struct {
	Tree    string // directory with its root file system
	Config  oci.Config
	Release func()
}

// Parts are the three things that a broker makes jobs of.
type Parts struct {
	Guests   Guests
	Networks Networks
	Images   Images
}

// NewParts returns the parts of a broker that runs as root.
func NewParts(guests *guest.Manager, networks *network.Manager, images *oci.Store) Parts {
	return Parts{Guests: guestManager{guests}, Networks: networkManager{networks}, Images: imageStore{images}}
}

// These adapters turn the results into interfaces.
type (
	guestManager   struct{ *guest.Manager }
	networkManager struct{ *network.Manager }
	imageStore     struct{ *oci.Store }
)

func (m guestManager) Start(ctx context.Context, spec guest.Spec) (Guest, error) {
	g, err := m.Manager.Start(ctx, spec)
	if err != nil {
		return nil, err // not g: a nil *guest.Guest is not a nil Guest
	}
	return g, nil
}

func (m networkManager) NewNetwork() (Network, error) {
	n, err := m.Manager.NewNetwork()
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (s imageStore) Pull(
	ctx context.Context, reference string, c *oci.Credentials, report func(line string),
) (Image, error) {
	i, err := s.Store.Pull(ctx, reference, c, report)
	if err != nil {
		return Image{}, err
	}
	return newImage(i), nil
}

func (s imageStore) Import(ctx context.Context, key, file string) (Image, error) {
	i, err := s.Store.Import(ctx, key, file)
	if err != nil {
		return Image{}, err
	}
	return newImage(i), nil
}

func (s imageStore) Lookup(key string) (Image, bool) {
	i, ok := s.Store.Lookup(key)
	if !ok {
		return Image{}, false
	}
	return newImage(i), true
}

func newImage(i *oci.Image) Image {
	return Image{Tree: i.Tree, Config: i.Config, Release: i.Release}
}
