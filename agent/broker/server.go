package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/agent/workroot"
)

// Settings are root's decisions, which no request can change.
type Settings struct {
	WorkRoot  string // the runner's work directory, which jobs write to
	JobsDir   string // where guests keep what they write; root's alone
	Externals string // directory of the runner's node.js builds

	Worker WorkerSettings
	Tools  ToolSettings

	Volumes VolumeSettings

	// RunnerUID is the only user besides root who may ask. With RunnerGID it
	// owns the work root.
	RunnerUID, RunnerGID int

	Images map[string]string // container.image: directory of a baked tree
	Base   string            // directory of the guest base

	// Bind and BindRO are shown in every guest, to be written and to be read.
	// Beneath their sources lie the host directories that volumes may name.
	Bind, BindRO []HostBind

	Devices   []string     // paths of the host that --device may name
	Resolvers []netip.Addr // name servers of guests
	// InsecureRegistries, HOST or HOST:PORT, are used without TLS by builds.
	InsecureRegistries []string

	// CACerts are authorities in PEM that guests trust besides their own; "" for
	// none.
	CACerts string

	Spare    bool // keep a guest of the guest base started, for the next job
	KeepWork bool // leave tools and workspaces of earlier jobs to later ones
	Limits   JobLimits
}

// HostBind shows the directory Source of the host as Target in guests.
type HostBind struct{ Source, Target string }

// root returns a directory that jobs write to, in which the runner owns what is
// made.
func (s Settings) root(path string) workroot.Root {
	return workroot.Root{Path: path, UID: s.RunnerUID, GID: s.RunnerGID}
}

// resources are what every job is made of. They do not change.
type resources struct {
	settings Settings
	guests   *sparePool
	networks Networks
	images   Images
	watcher  watcher
	log      *slog.Logger
}

// Server is the broker. It has one job at a time.
type Server struct {
	resources

	mu  sync.Mutex // held while a job is prepared or ended
	job *job       // nil if there is none
}

// NewServer returns a broker without guests.
func NewServer(s Settings, parts Parts, log *slog.Logger) *Server {
	return &Server{resources: resources{
		settings: s,
		guests:   &sparePool{guests: parts.Guests, base: s.Base, enabled: s.Spare, log: log},
		networks: parts.Networks,
		images:   parts.Images,
		watcher:  watcher{limits: s.Limits, freeSpace: func() (int64, error) { return freeSpace(s.JobsDir) }, log: log},
		log:      log,
	}}
}

// freeSpace returns the bytes that are free in the file system of dir,
// statfs(2).
func freeSpace(dir string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, fmt.Errorf("cannot find the free space of %s: %w", dir, err)
	}
	return int64(stat.Bfree) * stat.Bsize, nil
}

// Serve answers requests until ctx ends, then ends all guests.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()

	s.guests.refill()
	front := endpoint{maxRequest: wire.MaxRequest, check: s.checkPeer, answer: s.answer, log: s.log}
	var clients sync.WaitGroup
	for {
		conn, err := l.Accept()
		if err != nil && ctx.Err() != nil {
			clients.Wait()
			return s.close()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("cannot accept client: %w", err), s.close())
		}
		clients.Go(func() { front.handle(ctx, conn) })
	}
}

// close ends all guests. The spare one goes first, so that no job's end makes
// another.
func (s *Server) close() error {
	return errors.Join(s.guests.close(), s.reset())
}

// answer carries out one request. cancel ends the context of all that it starts.
func (s *Server) answer(ctx context.Context, cancel context.CancelFunc, client *wire.Conn, e brokerapi.Envelope) error {
	switch {
	case e.Prepare != nil:
		awaitHangup(client, cancel)
		reply, err := s.prepare(ctx, *e.Prepare, reportTo(client))
		return sendReply(client, reply, err)
	case e.Cleanup != nil:
		return sendReply(client, struct{}{}, s.cleanup(e.Cleanup.Job))
	case e.Reset != nil:
		return sendReply(client, struct{}{}, s.reset())
	case e.Exec != nil:
		caller := newCaller(client, cancel)
		status, err := s.exec(ctx, caller, *e.Exec)
		return sendExit(client, status, err)
	case e.Container != nil:
		caller := newCaller(client, cancel)
		status, err := s.runContainer(ctx, caller, *e.Container)
		return sendExit(client, status, err)
	case e.Run != nil:
		caller := newCaller(client, cancel)
		status, err := s.run(ctx, caller, *e.Run)
		return sendExit(client, status, err)
	case e.Worker != nil:
		caller := newCaller(client, cancel)
		status, err := s.worker(ctx, caller, *e.Worker)
		return sendExit(client, status, err)
	}
	return errors.New("cannot read request: it names no verb")
}

func sendReply(client *wire.Conn, reply any, err error) error {
	if err != nil {
		return err
	}
	return client.SendJSON(wire.Reply, reply)
}

func sendExit(client *wire.Conn, status int, err error) error {
	if err != nil {
		return err
	}
	return client.SendExit(status)
}
