package broker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"mkappliance/agent/guest"
	"mkappliance/agent/guestinit"
	"mkappliance/agent/wire"
)

// Settings are root's decisions, which no request can change.
type Settings struct {
	WorkRoot     string            // the runner's work directory
	Externals    string            // the runner's node.js builds
	RunnerUID    int               // the only user besides root who may ask; owns the work root
	RunnerGID    int               // its group
	Images       map[string]string // container.image -> directory with a tree
	Base         string            // the tree that Run uses
	Bind, BindRO []HostBind        // shown in every guest, and the roots of volumes
}

// HostBind is a host directory that root lets guests see.
type HostBind struct{ Source, Target string }

// DefaultPath is PATH in a guest whose image does not set one.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Server is the broker.
type Server struct {
	settings Settings
	guests   *guest.Host
	log      *slog.Logger

	mu  sync.Mutex // held while a job's guest starts or stops
	job *job
}

// job is the job that has a guest.
type job struct {
	id    string
	env   map[string]string
	guest *guest.Guest
}

// NewServer makes a broker, which has no guest yet.
func NewServer(s Settings, guests *guest.Host, log *slog.Logger) *Server {
	return &Server{settings: s, guests: guests, log: log}
}

// Serve answers requests until ctx ends, then ends the guests.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var clients sync.WaitGroup
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			clients.Wait()
			return s.endJob()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("cannot accept client: %w", err), s.endJob())
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
	var request envelope
	if err := json.Unmarshal(payload, &request); err != nil {
		_ = client.Send(wire.Failure, []byte("cannot read request: "+err.Error()))
		return
	}
	if err := s.answer(ctx, cancel, client, request); err != nil && ctx.Err() == nil {
		s.log.Error("request failed", "error", err)
		_ = client.Send(wire.Failure, []byte(err.Error()))
	}
}

// checkPeer lets in root and the runner only; the socket's mode says the same,
// and this holds if it is wrong. See unix(7), SO_PEERCRED.
func (s *Server) checkPeer(conn net.Conn) error {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("cannot identify client: not a unix socket")
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot identify client: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return fmt.Errorf("cannot identify client: %w", errors.Join(err, credErr))
	}
	if cred.Uid != 0 && int(cred.Uid) != s.settings.RunnerUID {
		return fmt.Errorf("user %d is neither root nor the runner", cred.Uid)
	}
	return nil
}

func (s *Server) answer(ctx context.Context, cancel context.CancelFunc, client *wire.Conn, e envelope) error {
	// All but the streaming verbs expect nothing more from the client, so that
	// a read which returns means it is gone.
	hangup := func() {
		go func() {
			_, _, _ = client.Receive()
			cancel()
		}()
	}
	switch {
	case e.Prepare != nil:
		hangup()
		reply, err := s.prepare(ctx, *e.Prepare)
		if err != nil {
			return err
		}
		return client.SendJSON(wire.Reply, reply)
	case e.Cleanup != nil:
		if err := s.cleanup(e.Cleanup.Job); err != nil {
			return err
		}
		return client.SendJSON(wire.Reply, struct{}{})
	case e.Reset != nil:
		if err := s.endJob(); err != nil {
			return err
		}
		return client.SendJSON(wire.Reply, struct{}{})
	case e.Exec != nil:
		return s.exec(ctx, cancel, client, *e.Exec)
	case e.Run != nil:
		return s.run(ctx, cancel, client, *e.Run)
	}
	return errors.New("cannot read request: it names no verb")
}

// prepare ends the guest of an earlier job and starts one.
func (s *Server) prepare(ctx context.Context, r PrepareRequest) (*PrepareReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tree, err := s.tree(r.Image)
	if err != nil {
		return nil, err
	}
	if err := s.endJobLocked(); err != nil {
		return nil, err
	}
	binds, err := s.binds(r.Mounts)
	if err != nil {
		return nil, err
	}
	defer closeBinds(binds)
	id := newID()
	g, err := s.guests.Start(ctx, guest.Spec{ID: machineName(id), Tree: tree, Binds: binds})
	if err != nil {
		return nil, err
	}
	s.job = &job{id: id, env: r.Env, guest: g}
	s.log.Info("guest started", "job", id, "image", r.Image)
	return &PrepareReply{Job: id, Network: id, Alpine: isAlpine(tree)}, nil
}

// tree finds the tree that an image name stands for.
func (s *Server) tree(image string) (string, error) {
	if tree, ok := s.settings.Images[image]; ok {
		return tree, nil
	}
	var known []string
	for name := range s.settings.Images {
		known = append(known, name)
	}
	slices.Sort(known)
	return "", fmt.Errorf("not supported yet: image %q; this appliance has %s", image, strings.Join(known, ", "))
}

func (s *Server) exec(ctx context.Context, cancel context.CancelFunc, client *wire.Conn, r ExecRequest) error {
	s.mu.Lock()
	j := s.job
	s.mu.Unlock()
	if j == nil || j.id != r.Job {
		return errors.New("cannot run step: the guest of this job is gone; it was ended, or never started")
	}
	env := mergeEnv(map[string]string{"PATH": DefaultPath}, j.env, r.Env)
	if len(r.PrependPath) > 0 {
		env["PATH"] = strings.Join(append(slices.Clone(r.PrependPath), env["PATH"]), ":")
	}
	end, err := relay(ctx, cancel, client, j.guest, guestinit.Exec{Argv: r.Argv, Env: environ(env), Dir: r.Dir})
	if err != nil {
		return err
	}
	return client.Send(end.kind, end.payload)
}

// run starts a guest for one command and ends it with the command.
func (s *Server) run(ctx context.Context, cancel context.CancelFunc, client *wire.Conn, r RunRequest) error {
	binds, err := s.binds(nil)
	if err != nil {
		return err
	}
	defer closeBinds(binds)
	g, err := s.guests.Start(ctx, guest.Spec{ID: machineName(newID()), Tree: s.settings.Base, Binds: binds})
	if err != nil {
		return err
	}
	env := mergeEnv(map[string]string{"PATH": DefaultPath, "HOME": "/root", "LANG": "C.UTF-8"}, r.Env)
	end, err := relay(ctx, cancel, client, g, guestinit.Exec{Argv: r.Argv, Env: environ(env), Dir: r.Dir})
	// The client hears of the end when nothing is left of the guest.
	if err := errors.Join(err, g.Stop()); err != nil {
		return err
	}
	return client.Send(end.kind, end.payload)
}

// frame is one message of a conversation.
type frame struct {
	kind    wire.Kind
	payload []byte
}

// relay carries a conversation between a client and the agent in a guest. The
// guest is not trusted: only frames that a process may cause pass. When the
// client hangs up, cancel is called, which closes the connection to the agent,
// which ends the step's processes. The last frame is not passed on but given to
// the caller.
func relay(ctx context.Context, cancel context.CancelFunc, client *wire.Conn, g *guest.Guest, request guestinit.Exec) (end frame, err error) {
	conn, err := g.Dial()
	if err != nil {
		return end, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	agent := wire.NewConn(conn, wire.MaxData)
	if err := agent.SendJSON(wire.Request, request); err != nil {
		return end, err
	}
	go func() {
		defer cancel()
		for {
			kind, payload, err := client.Receive()
			if err != nil || kind != wire.Signal || agent.Send(kind, payload) != nil {
				return
			}
		}
	}()
	for {
		kind, payload, err := agent.Receive()
		if err != nil {
			return end, fmt.Errorf("cannot go on with the step: the guest ended or was ended: %w", err)
		}
		switch kind {
		case wire.Stdout, wire.Stderr:
			if err := client.Send(kind, payload); err != nil {
				return end, err
			}
		case wire.Failure, wire.Exit:
			return frame{kind, payload}, nil
		default:
			return end, fmt.Errorf("cannot understand the guest: unexpected frame %q", kind)
		}
	}
}

func (s *Server) cleanup(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job == nil || s.job.id != id {
		return nil
	}
	return s.endJobLocked()
}

func (s *Server) endJob() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endJobLocked()
}

// endJobLocked ends the guest and gives what it left in the work root to the
// runner, which has to be able to delete it.
func (s *Server) endJobLocked() error {
	if s.job == nil {
		return nil
	}
	if err := s.job.guest.Stop(); err != nil {
		return err
	}
	s.log.Info("guest ended", "job", s.job.id)
	s.job = nil
	root, err := os.Open(s.settings.WorkRoot)
	if err != nil {
		return fmt.Errorf("cannot open work root: %w", err)
	}
	defer root.Close()
	return giveBack(root, s.settings.RunnerUID, s.settings.RunnerGID)
}

// binds opens what the settings and a request want to see in a guest.
func (s *Server) binds(mounts []Mount) (binds []guest.Bind, err error) {
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
				bind.Owner = s.settings.RunnerUID
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
		bind, err := s.bind(root, m)
		if err != nil {
			return binds, fmt.Errorf("cannot mount %s: %w", m.Target, err)
		}
		binds = append(binds, bind)
	}
	return binds, nil
}

func (s *Server) bind(root *os.File, m Mount) (guest.Bind, error) {
	bind := guest.Bind{Target: m.Target, ReadOnly: m.ReadOnly}
	if !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target || m.Target == "/" {
		return bind, errors.New("the target is not a clean absolute path")
	}
	var err error
	switch {
	case m.Work != "":
		bind.Owner = s.settings.RunnerUID
		bind.Source, err = guest.OpenBeneath(root, m.Work, s.settings.RunnerUID, s.settings.RunnerGID)
	case m.Externals:
		bind.ReadOnly = true
		bind.Source, err = os.Open(s.settings.Externals)
	case m.Volume != "":
		return s.volume(bind, m.Volume)
	default:
		err = errors.New("the request names no source")
	}
	return bind, err
}

// volume opens a host directory that a workflow names, if it lies beneath one
// that root allows.
func (s *Server) volume(bind guest.Bind, source string) (guest.Bind, error) {
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
			} else {
				bind.Owner = s.settings.RunnerUID
			}
			bind.Source, err = guest.OpenBeneath(root, name, s.settings.RunnerUID, s.settings.RunnerGID)
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

// mergeEnv joins environments; later ones win.
func mergeEnv(envs ...map[string]string) map[string]string {
	merged := map[string]string{}
	for _, env := range envs {
		for key, value := range env {
			merged[key] = value
		}
	}
	return merged
}

// environ gives an environment as KEY=VALUE, sorted. What execve(2) could not
// carry is left out: a name that is empty or has '=', and NUL bytes.
func environ(env map[string]string) []string {
	var list []string
	for key, value := range env {
		if key == "" || strings.ContainsAny(key, "=\x00") || strings.Contains(value, "\x00") {
			continue
		}
		list = append(list, key+"="+value)
	}
	slices.Sort(list)
	return list
}

func newID() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails, crypto/rand
	return hex.EncodeToString(raw[:])
}

// machineName is short enough for an interface name, IFNAMSIZ.
func machineName(id string) string { return "j-" + id[:8] }

// isAlpine reads the tree's os-release(5), without following a link out of it.
func isAlpine(tree string) bool {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return false
	}
	defer root.Close()
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if data, err := root.ReadFile(name); err == nil {
			for line := range strings.Lines(string(data)) {
				id, ok := strings.CutPrefix(strings.TrimSpace(line), "ID=")
				if ok && strings.Trim(id, `"'`) == "alpine" {
					return true
				}
			}
			return false
		}
	}
	return false
}
