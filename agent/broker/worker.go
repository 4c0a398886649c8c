package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// WorkerSettings are those of jobs whose worker runs in a guest.
type WorkerSettings struct {
	ActionsRunner string // directory of the actions runner's bin and externals, as guests see them
	Registration  string // directory that the runner may write, with its .runner
	Logs          string // where the logs of workers are kept; root's alone
	SetupInfo     string // content of .setup_info, see setupInfo
	Docker        bool   // the worker asks for containers by docker, not by its hook
}

// workerHostname is the name by which the other containers of a job reach the
// guest of its worker.
const workerHostname = "runner"

// worker is what a job has whose worker, with its steps, runs in a guest.
type worker struct {
	dir    string // everything of this job alone on the host's disk
	member *member
	socket net.Listener   // for the job's hook
	served sync.WaitGroup // its clients, and what lets them in
	logs   logKeeper
	tools  *toolCache // nil if there is none
}

// tools returns the tool cache of the job, nil if it has none of its own.
func (j *job) tools() *toolCache {
	if j.worker == nil {
		return nil
	}
	return j.worker.tools
}

// worker ends an earlier job, and runs the worker of a new one to its end in a
// guest. Nothing of the job is left when its status is known.
func (s *Server) worker(ctx context.Context, client *caller, r brokerapi.WorkerRequest) (int, error) {
	j, err := s.startWorkerJob(r)
	if err != nil {
		return 0, fmt.Errorf("cannot start job: %w", err)
	}
	go j.follow(client.job)
	status, err := j.runWorker(ctx, client)
	s.finish(j)
	return status, err
}

// startWorkerJob makes a job without guests the broker's.
func (s *Server) startWorkerJob(r brokerapi.WorkerRequest) (*job, error) {
	files, err := s.workerFiles()
	if err != nil {
		return nil, err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.endJob(); err != nil {
		return nil, err
	}
	j, err := s.newJob(workDir{})
	if err != nil {
		return nil, err
	}
	s.job = j // from here on it is ended as any other
	if err := j.makeWorker(workerEnviron(r.Env, s.settings.Worker.Docker), files); err != nil {
		return nil, errors.Join(err, s.endJob())
	}
	s.log.Info("job started", "job", j.id)
	return j, nil
}

// finish ends a job, unless it was ended by another request. The status of its
// worker is not lost where that fails: the next request tries again.
func (s *Server) finish(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job != j {
		return
	}
	if err := s.endJob(); err != nil {
		s.log.Error("cannot end job", "job", j.id, "error", err)
	}
}

// makeWorker makes the directories of the job and its socket, and says what the
// guest of its worker is to be:
//
//	work    the job's work directory
//	socket  where the job's hook reaches the broker
//	logs    _diag of the actions runner
//	tools   what its guests add to the tool cache
func (j *job) makeWorker(env, files map[string]string) error {
	dir := filepath.Join(j.settings.JobsDir, "w-"+j.id[:8])
	work, socket, logs := filepath.Join(dir, "work"), filepath.Join(dir, "socket"), filepath.Join(dir, "logs")
	j.work = workDir{Root: j.settings.root(work), shown: layout.WorkerWork}
	j.worker = &worker{dir: dir, logs: logKeeper{
		from: j.settings.root(logs), to: j.settings.Worker.Logs, job: j.id, log: j.log,
	}}

	// Root's own, so that nobody else of the host comes near the work directory.
	err := errors.Join(
		os.Mkdir(dir, 0o700), os.Mkdir(work, 0o755), os.Mkdir(socket, 0o755), os.Mkdir(logs, 0o755),
		os.Lchown(work, j.settings.RunnerUID, j.settings.RunnerGID),
		os.Lchown(logs, j.settings.RunnerUID, j.settings.RunnerGID))
	if err != nil {
		return fmt.Errorf("cannot make directories: %w", err)
	}
	mounts, err := j.makeTools(work)
	if err != nil {
		return fmt.Errorf("cannot make the tool cache: %w", err)
	}
	if j.worker.socket, err = listenInGuest(filepath.Join(socket, filepath.Base(layout.WorkerSocket))); err != nil {
		return err
	}

	runner := j.settings.Worker.ActionsRunner
	j.worker.member = &member{root: j.baseRoot(), spec: containerSpec{
		Container: brokerapi.Container{Env: env, Dir: layout.WorkerRunner + "/bin", Mounts: mounts},
		options:   dockeropts.Options{User: layout.WorkerUser, Hostname: workerHostname},
		files:     files,
		show: []hostDir{
			{HostBind: HostBind{Source: runner + "/bin", Target: layout.WorkerRunner + "/bin"}, readOnly: true},
			{HostBind: HostBind{Source: runner + "/externals", Target: layout.WorkerRunner + "/externals"}, readOnly: true},
			{HostBind: HostBind{Source: logs, Target: layout.WorkerRunner + "/_diag"}},
			{HostBind: HostBind{Source: work, Target: layout.WorkerWork}},
			{HostBind: HostBind{Source: socket, Target: filepath.Dir(layout.WorkerSocket)}, readOnly: true},
		},
	}}
	return nil
}

// makeTools makes the job's tool cache, and returns how its worker's guest is to show
// it: not at all if there is none.
func (j *job) makeTools(work string) ([]brokerapi.Mount, error) {
	layers := j.settings.root(filepath.Join(j.worker.dir, "tools"))
	var err error
	if j.worker.tools, err = newToolCache(j.settings.Tools, layers, j.log); err != nil || j.worker.tools == nil {
		return nil, err
	}

	covered := filepath.Join(work, toolDir)
	err = errors.Join(os.Mkdir(covered, 0o755), os.Lchown(covered, j.settings.RunnerUID, j.settings.RunnerGID))
	shown := layout.WorkerWork + "/" + toolDir
	return []brokerapi.Mount{{Source: shown, Target: shown}}, err
}

// runWorker runs the worker in a guest and returns its status.
func (j *job) runWorker(ctx context.Context, client *caller) (int, error) {
	m := j.worker.member
	var err error
	if m.address, err = j.network.Reserve(); err != nil {
		return 0, fmt.Errorf("cannot start job: %w", j.explain(err))
	}
	j.setHosts([][]string{{m.address.String(), workerHostname}})
	if err := j.launch(ctx, m); err != nil {
		return 0, fmt.Errorf("cannot start job: %w", j.explain(err))
	}
	if err := j.serveHook(); err != nil {
		return 0, fmt.Errorf("cannot start job: %w", j.explain(err))
	}
	j.run()

	c := m.container
	// Descriptors of the pair that the guest's agent makes, see guestapi.Process.
	process := c.process([]string{layout.WorkerRunner + "/bin/Runner.Worker", "spawnclient", "3", "4"}, c.env, c.dir)
	process.InputFD = true
	streams := client.streams()
	streams.Stdin = client.input
	status, err := c.guest.Exec(ctx, process, streams)
	return status, j.explainWorker(err)
}

// explainWorker is explain for the worker.
func (j *job) explainWorker(err error) error {
	var closed *wire.ClosedError
	if errors.As(err, &closed) && j.endCause() == nil {
		return fmt.Errorf("cannot go on with the job: its guest ended or was ended: %w", closed.Err)
	}
	return j.explain(err)
}

// close ends the job's socket and waits for its clients, whose contexts end with
// the job's. It may be called again.
func (w *worker) close() {
	if w.socket != nil {
		_ = w.socket.Close()
	}
	w.served.Wait()
}
