package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// Bounds of what a job's own socket costs the broker: how many clients are served
// at a time, and the largest request in bytes. A request carries the environment
// of a step, which the kernel bounds at 2 MiB.
const (
	maxHookClients = 64
	maxHookRequest = 4 << 20
)

// serveHook lets clients of the job's guest in until the job ends.
func (j *job) serveHook() error {
	_, done, err := j.enter(j.ctx)
	if err != nil {
		return err
	}
	defer done()

	front := endpoint{maxRequest: maxHookRequest, check: j.checkHook, answer: j.answer, log: j.log}
	j.worker.served.Go(func() {
		slots := make(chan struct{}, maxHookClients)
		for {
			conn, err := j.worker.socket.Accept()
			switch {
			case err == nil:
			case j.ctx.Err() != nil || errors.Is(err, net.ErrClosed):
				return
			default: // short of descriptors, say
				time.Sleep(10 * time.Millisecond)
				continue
			}

			select {
			case slots <- struct{}{}:
			default:
				_ = conn.Close()
				continue
			}
			j.worker.served.Go(func() {
				defer func() { <-slots }()
				front.handle(j.ctx, conn)
			})
		}
	})
	return nil
}

// checkHook lets in users of the job's guest only.
func (j *job) checkHook(conn net.Conn) error {
	cred, err := wire.PeerCredentials(conn)
	if err != nil {
		return err
	}
	if !j.worker.member.container.guest.Owns(cred.Uid) {
		return fmt.Errorf("user %d is not one of the job's guest", cred.Uid)
	}
	return nil
}

// answer carries out a request of the job's own hook, which can name no other job.
func (j *job) answer(ctx context.Context, cancel context.CancelFunc, client *wire.Conn, e brokerapi.Envelope) error {
	switch {
	case e.Prepare != nil:
		awaitHangup(client, cancel)
		reply, err := j.add(ctx, *e.Prepare, reportTo(client))
		return sendReply(client, reply, err)
	case e.Cleanup != nil && e.Cleanup.Job == j.id:
		return sendReply(client, struct{}{}, j.removeAdded())
	case e.Cleanup != nil:
		return sendReply(client, struct{}{}, nil) // as where the job is gone
	case e.Exec != nil && e.Exec.Job == j.id:
		status, err := j.exec(ctx, *e.Exec, newCaller(client, cancel).streams())
		return sendExit(client, status, err)
	case e.Exec != nil:
		return errNoJob
	case e.Container != nil && (e.Container.Job == j.id || e.Container.Job == ""):
		status, err := j.containerStep(ctx, newCaller(client, cancel), j.work, j, *e.Container)
		return sendExit(client, status, err)
	case e.Container != nil:
		return errNoJob
	case e.Docker != nil:
		return j.answerDocker(ctx, cancel, client, *e.Docker)
	}
	return errors.New("cannot carry out the request: a job may not ask for this")
}

// add starts the containers of a request beside the job's worker, in the place of
// those that were added before.
func (j *job) add(ctx context.Context, r brokerapi.PrepareRequest, report reporter) (*brokerapi.PrepareReply, error) {
	members, err := newMembers(r)
	if err != nil {
		return nil, err
	}
	j.adding.Lock()
	defer j.adding.Unlock()
	if err := j.removeMembers(); err != nil {
		return nil, err
	}

	j.nameServices(members)
	reply, err := j.prepare(ctx, members, report)
	if err == nil {
		err = j.tellWorker()
	}
	if err != nil {
		return nil, errors.Join(j.explain(err), j.removeMembers())
	}
	j.log.Info("containers started", "job", j.id, "services", len(reply.Services))
	return reply, nil
}

// removeAdded removes the containers beside the job's worker.
func (j *job) removeAdded() error {
	j.adding.Lock()
	defer j.adding.Unlock()
	return j.removeMembers()
}

// removeMembers is removeAdded for a caller that holds adding.
func (j *job) removeMembers() error {
	j.mu.Lock()
	members := j.members
	j.mu.Unlock()
	if len(members) == 0 {
		return nil
	}

	errs := make([]error, len(members))
	var stops sync.WaitGroup
	for i, m := range members {
		stops.Go(func() { errs[i] = j.remove(m) })
	}
	stops.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}

	j.mu.Lock()
	roots := j.roots
	j.members, j.roots, j.own = nil, nil, nil
	j.mu.Unlock()
	for _, root := range roots {
		root.release()
	}
	j.restoreOwnership()
	j.setHosts([][]string{{j.worker.member.address.String(), workerHostname}})
	return j.tellWorker()
}

// tellWorker writes the names of the job's containers to the guest of its worker.
// That may never answer, so this ends with the job.
func (j *job) tellWorker() error {
	return j.tell(j.ctx, j.worker.member, j.worker.member.container.guest, workerHostname)
}

// tell writes the names of the job's containers to a guest.
func (j *job) tell(ctx context.Context, m *member, g Guest, hostname string) error {
	files := map[string]string{"/etc/hosts": j.hostsFile(m, hostname)}
	return g.Configure(ctx, nil, guestapi.Config{Files: files})
}
