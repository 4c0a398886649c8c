// Package broker is the root side of container jobs: it owns the guests. Every
// host path, user id and limit comes from its own settings; a request of package
// api names what it wants of them.
package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// Settings are root's decisions, which no request can change.
type Settings struct {
	WorkRoot     string            // the runner's work directory
	JobsDir      string            // where guests keep what they write, root's alone
	Externals    string            // the runner's node.js builds
	RunnerUID    int               // the only user besides root who may ask; owns the work root
	RunnerGID    int               // its group
	Images       map[string]string // container.image -> directory with a tree
	Base         string            // the tree that Run uses
	Bind, BindRO []HostBind        // shown in every guest, and the roots of volumes
	Devices      []string          // paths that --device may name
	Spare        bool              // keep a guest of the base tree started, for the next job
	KeepWork     bool              // leave tools and workspaces of earlier jobs to later ones
	Job          JobLimits
	Resolvers    []netip.Addr // name servers of guests
	// InsecureRegistries, HOST or HOST:PORT, are spoken to without TLS by builds.
	InsecureRegistries []string
}

// HostBind is a host directory that root lets guests see.
type HostBind struct{ Source, Target string }

// Server is the broker.
type Server struct {
	settings Settings
	parts    Parts
	log      *slog.Logger
	spare    spare

	mu  sync.Mutex // held while a job's guests start or stop
	job *job
}

// NewServer makes a broker, which has no guest yet.
func NewServer(s Settings, parts Parts, log *slog.Logger) *Server {
	return &Server{settings: s, parts: parts, log: log}
}

// Serve answers requests until ctx ends, then ends the guests.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	s.startSpare()
	var clients sync.WaitGroup
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				err = nil
				clients.Wait()
			} else {
				err = fmt.Errorf("cannot accept client: %w", err)
			}
			return errors.Join(err, s.endJob(), s.endSpare())
		}
		clients.Go(func() { s.handle(ctx, conn) })
	}
}

// handle serves one client. Its context ends when the client hangs up.
func (s *Server) handle(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := s.checkPeer(conn); err != nil {
		s.log.Warn("client refused", "error", err)
		return
	}
	client := wire.NewConn(conn, wire.MaxRequest)
	kind, payload, err := client.Receive()
	if err != nil || kind != wire.Request {
		return
	}
	var request brokerapi.Envelope
	if err := json.Unmarshal(payload, &request); err != nil {
		_ = client.SendFailure(fmt.Errorf("cannot read request: %w", err))
		return
	}
	if err := s.answer(ctx, cancel, client, request); err != nil && ctx.Err() == nil {
		s.log.Error("request failed", "error", err)
		_ = client.SendFailure(err)
	}
}

func (s *Server) answer(ctx context.Context, cancel context.CancelFunc, client *wire.Conn, e brokerapi.Envelope) error {
	switch {
	case e.Prepare != nil:
		awaitHangup(client, cancel)
		reply, err := s.prepare(ctx, *e.Prepare, progressOf(client))
		if err != nil {
			return err
		}
		return client.SendJSON(wire.Reply, reply)
	case e.Cleanup != nil:
		return done(client, s.cleanup(e.Cleanup.Job))
	case e.Reset != nil:
		return done(client, s.endJob())
	case e.Exec != nil:
		return s.exec(ctx, newCaller(client, cancel), *e.Exec)
	case e.Container != nil:
		return s.runContainer(ctx, newCaller(client, cancel), *e.Container)
	case e.Run != nil:
		return s.run(ctx, newCaller(client, cancel), *e.Run)
	}
	return errors.New("cannot read request: it names no verb")
}

// awaitHangup calls cancel when the client is gone. All but the streaming verbs
// expect nothing more from it, so that a read which returns means that.
func awaitHangup(client *wire.Conn, cancel context.CancelFunc) {
	go func() {
		_, _, _ = client.Receive()
		cancel()
	}()
}

func done(client *wire.Conn, err error) error {
	if err != nil {
		return err
	}
	return client.SendJSON(wire.Reply, struct{}{})
}

// progress tells a client one line of what takes long.
type progress func(format string, args ...any)

func progressOf(client *wire.Conn) progress {
	return func(format string, args ...any) {
		// A client that is gone shows elsewhere.
		_ = client.Send(wire.Stdout, fmt.Appendf(nil, format+"\n", args...))
	}
}
