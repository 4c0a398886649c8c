package broker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// working makes the worker of a job do work, and all else as serving does.
func (l *lab) working(work func(ctx context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error)) {
	l.guests.onExec = func(ctx context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
		if p.InputFD {
			return work(ctx, g, p, s)
		}
		return serving(ctx, g, p, s)
	}
}

// hooking makes the worker of a job call what its hook would, by a client of the
// job's own socket, and end with status 100.
func (l *lab) hooking(call func(ctx context.Context, hook *brokerapi.Client)) {
	l.working(func(ctx context.Context, _ *fakeGuest, _ guestapi.Process, _ wire.Streams) (int, error) {
		call(ctx, l.hook())
		return 100, nil
	})
}

// hook returns a client of the socket of the one job that has a worker.
func (l *lab) hook() *brokerapi.Client {
	l.Helper()
	sockets, err := filepath.Glob(filepath.Join(l.settings.JobsDir, "w-*/socket/guest.sock"))
	if err != nil || len(sockets) != 1 {
		l.Errorf("found sockets %q, %v, want one", sockets, err)
		return &brokerapi.Client{}
	}
	return &brokerapi.Client{Socket: sockets[0]}
}

// worker runs a job, of which info is known unless it is nil.
func (l *lab) worker(ctx context.Context, info *brokerapi.JobInfo) (int, error) {
	described := make(chan brokerapi.JobInfo, 1)
	if info != nil {
		described <- *info
	}
	close(described)
	return l.client.Worker(ctx, brokerapi.WorkerRequest{}, described, wire.Streams{})
}

// mustWork runs a job whose worker ends with 100.
func (l *lab) mustWork(info *brokerapi.JobInfo) {
	l.Helper()
	if status, err := l.worker(l.Context(), info); status != 100 || err != nil {
		l.Errorf("got status %d, %v, want 100", status, err)
	}
}

func TestWorker(t *testing.T) {
	l := newLab(t)
	l.settings.Worker.SetupInfo = "[]\n"
	var process guestapi.Process
	var input string
	l.working(func(_ context.Context, _ *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
		process = p
		data, err := io.ReadAll(s.Stdin)
		input = string(data)
		_, _ = io.WriteString(s.Stderr, "said")
		if signal := <-s.Signals; signal != syscall.SIGINT {
			t.Errorf("got signal %v", signal)
		}
		return 102, err
	})
	l.serve()

	described, signals := make(chan brokerapi.JobInfo), make(chan os.Signal, 1)
	close(described)
	signals <- syscall.SIGINT
	var stderr bytes.Buffer
	r := brokerapi.WorkerRequest{Env: map[string]string{"CI": "1", "HOME": "/host", "https_proxy": "http://p"}}
	status, err := l.client.Worker(t.Context(), r, described,
		wire.Streams{Stdin: strings.NewReader("message"), Stderr: &stderr, Signals: signals})
	if status != 102 || err != nil || stderr.String() != "said" || input != "message" {
		t.Errorf("got status %d, %v, %q; the worker read %q", status, err, &stderr, input)
	}

	want := guestapi.Process{
		Argv: []string{layout.WorkerRunner + "/bin/Runner.Worker", "spawnclient", "3", "4"},
		Env: []string{
			"ACTIONS_RUNNER_CONTAINER_HOOKS=" + layout.WorkerHooks, "CI=1",
			"DOTNET_ThreadPool_ForceMinWorkerThreads=10", "GITHUB_ACTIONS=true", "HOME=/home/runner", "LANG=C.UTF-8",
			"LOGNAME=runner", "PATH=" + layout.Path, "SHELL=/bin/bash", "USER=runner", "https_proxy=http://p",
		},
		Dir: layout.WorkerRunner + "/bin", UID: 1001, GID: 1001, Groups: []uint32{4}, InputFD: true,
	}
	if diff := cmp.Diff(want, process); diff != "" {
		t.Errorf("the worker's process (-want +got):\n%s", diff)
	}
	l.checkWorkerGuest(l.guests.all()[0])
}

// checkWorkerGuest looks at the guest of a worker: one that the spare guest can
// be, with what the worker needs and nothing else of the host.
func (l *lab) checkWorkerGuest(g *fakeGuest) {
	l.Helper()
	wantSpec := guest.Spec{ID: g.ID(), Tree: l.settings.Base, Boot: true}
	if diff := cmp.Diff(wantSpec, g.spec); diff != "" {
		l.Errorf("its guest (-want +got):\n%s", diff)
	}
	config, binds := g.configured()
	const root = layout.WorkerRunner
	if want := []string{
		root + "/bin", root + "/externals", root + "/_diag", layout.WorkerWork, "/run/runner/job",
	}; !slices.Equal(binds, want) {
		l.Errorf("it shows %q, want %q", binds, want)
	}
	want := guestapi.Config{
		Hostname: "runner",
		Files: map[string]string{
			"/etc/hosts": guestapi.Hosts() + "10.0.0.2\trunner\n10.0.0.2\trunner\n", "/etc/hostname": "runner\n",
			"/etc/resolv.conf": "",
			root + "/.runner":  `{"agentName":"appliance","workFolder":"` + layout.WorkerWork + `"}` + "\n",
			root + "/.credentials": `{"scheme":"OAuth",` +
				`"data":{"clientId":"00000000-0000-0000-0000-000000000000"}}` + "\n",
			root + "/.setup_info": "[]\n",
		},
	}
	if diff := cmp.Diff(want, config); diff != "" {
		l.Errorf("it is configured with (-want +got):\n%s", diff)
	}
}

// TestWorkerUsesSpare: the guest that waits becomes the worker's.
func TestWorkerUsesSpare(t *testing.T) {
	l := newLab(t)
	l.settings.Spare = true
	l.hooking(func(context.Context, *brokerapi.Client) {
		if n := len(l.guests.all()); n != 1 {
			t.Errorf("%d guests were started, want the spare one alone", n)
		}
	})
	l.serve()
	l.mustWork(nil)
}

// TestWorkerHook is a job with containers, asked for by its hook.
func TestWorkerHook(t *testing.T) {
	l := newLab(t)
	described := make(chan struct{})
	l.images.onPull = func(context.Context, string, func(string)) error {
		select {
		case <-described:
		default:
			close(described)
		}
		return nil
	}
	l.hooking(func(ctx context.Context, hook *brokerapi.Client) {
		<-described
		worker := l.guests.all()[0]
		r := withServices()
		r.Services[0].Ports = []string{"5432"}
		r.Container.Mounts = []brokerapi.Mount{{Target: "/__w", Source: layout.WorkerWork}}
		reply, err := hook.Prepare(ctx, r, io.Discard)
		if err != nil {
			t.Error(err)
			return
		}
		if want := map[string]string{"5432": "36432"}; !cmp.Equal(reply.Services[0].Ports, want) {
			t.Errorf("ports are %v, want %v: those of the worker's guest", reply.Services[0].Ports, want)
		}
		hosts := guestapi.Hosts() + "10.0.0.2\trunner\n10.0.0.2\trunner\n10.0.0.3\tpg db\n10.0.0.4\tcache\n"
		if got := hostsOf(worker); got != hosts {
			t.Errorf("the worker's guest knows\n%s\nwant\n%s", got, hosts)
		}
		l.checkAdded(ctx, hook, reply.Job)

		if err := hook.Cleanup(ctx, reply.Job); err != nil {
			t.Error(err)
		}
		if running := l.guests.running(); len(running) != 1 || running[0] != worker {
			t.Errorf("%d guests run after the clean-up, want the worker's", len(running))
		}
		if got, want := hostsOf(worker), guestapi.Hosts()+"10.0.0.2\trunner\n10.0.0.2\trunner\n"; got != want {
			t.Errorf("the worker's guest knows\n%s\nwant\n%s", got, want)
		}
		if _, err := hook.Exec(ctx, brokerapi.ExecRequest{Job: reply.Job}, wire.Streams{}); err == nil {
			t.Error("a step ran in a container that is gone")
		}
	})
	l.serve()
	l.mustWork(&brokerapi.JobInfo{
		Name: "build", Images: []string{"oci/db"},
		Services: []brokerapi.ServiceInfo{{Key: "pg", Image: "oci/db"}, {Key: "a b", Image: "oci/cache"}},
	})
	if want := netip.MustParseAddr("10.0.0.3"); l.networks.all()[0].ports[network.Port{
		Container: 5432, Protocol: "tcp"}] != want {
		t.Errorf("published are %v", l.networks.all()[0].ports)
	}
}

// checkAdded uses the containers that a hook has asked for.
func (l *lab) checkAdded(ctx context.Context, hook *brokerapi.Client, job string) {
	l.Helper()
	step := brokerapi.ExecRequest{Job: job, Argv: []string{"true"}}
	if status, err := hook.Exec(ctx, step, wire.Streams{}); status != 0 || err != nil {
		l.Errorf("a step ended with %d, %v", status, err)
	}
	for _, named := range []string{job, ""} {
		r := brokerapi.ContainerRequest{Job: named, Container: brokerapi.Container{
			Image: "oci/tool", Args: []string{"true"},
			Mounts: []brokerapi.Mount{{Target: "/github/workspace", Source: layout.WorkerWork + "/repo/repo"}},
		}}
		if status, err := hook.Container(ctx, r, wire.Streams{}); status != 0 || err != nil {
			l.Errorf("a container step of job %q ended with %d, %v", named, status, err)
		}
	}
	if n := len(l.networks.all()); n != 1 {
		l.Errorf("%d networks were made, want one for the whole job", n)
	}
	made, err := filepath.Glob(filepath.Join(l.settings.JobsDir, "w-*/work/repo/repo"))
	if err != nil || len(made) != 1 {
		l.Errorf("found workspaces %q, %v, want one in the job's own work directory", made, err)
	}
	if left, err := os.ReadDir(l.settings.WorkRoot); err != nil || len(left) != 0 {
		l.Errorf("in the work directory of the host are %v, %v", left, err)
	}
}

// TestHostileHook: the socket of a job offers nothing but that job.
func TestHostileHook(t *testing.T) {
	l := newLab(t)
	l.hooking(func(ctx context.Context, hook *brokerapi.Client) {
		const gone = "cannot run step: the guest of this job is gone; it was ended, or never started"
		const refused = "cannot carry out the request: a job may not ask for this"
		_, execErr := hook.Exec(ctx, brokerapi.ExecRequest{Job: "other", Argv: []string{"true"}}, wire.Streams{})
		_, stepErr := hook.Container(ctx, brokerapi.ContainerRequest{Job: "other"}, wire.Streams{})
		_, runErr := hook.Run(ctx, brokerapi.RunRequest{Argv: []string{"true"}}, wire.Streams{})
		described := make(chan brokerapi.JobInfo)
		close(described)
		_, workerErr := hook.Worker(ctx, brokerapi.WorkerRequest{}, described, wire.Streams{})

		for _, test := range []struct {
			summary string
			err     error
			want    string
		}{
			{summary: "exec", err: execErr, want: gone},
			{summary: "container", err: stepErr, want: gone},
			{summary: "run", err: runErr, want: refused},
			{summary: "worker", err: workerErr, want: refused},
			{summary: "reset", err: hook.Reset(ctx), want: refused},
		} {
			if test.err == nil || test.err.Error() != test.want {
				t.Errorf("%s: got %v, want %s", test.summary, test.err, test.want)
			}
		}

		if err := hook.Cleanup(ctx, "other"); err != nil {
			t.Errorf("clean-up of a job that is not known: %v", err)
		}
		if n := len(l.guests.running()); n != 1 {
			t.Errorf("%d guests run, want the worker's", n)
		}
	})
	l.serve()
	l.mustWork(nil)
}

// TestForeignClient: a process that is not of the job's guest is not answered,
// even if it can connect.
func TestForeignClient(t *testing.T) {
	l := newLab(t)
	l.guests.foreign = true
	l.hooking(func(ctx context.Context, hook *brokerapi.Client) {
		if _, err := hook.Prepare(ctx, ownContainer(), io.Discard); err == nil {
			t.Error("a process of the host was answered")
		}
	})
	l.serve()
	l.mustWork(nil)
}

// TestManyHookClients: clients that ask nothing are bounded in number.
func TestManyHookClients(t *testing.T) {
	l := newLab(t)
	l.hooking(func(ctx context.Context, hook *brokerapi.Client) {
		var held []io.Closer
		for range maxHookClients {
			conn, err := net.Dial("unix", hook.Socket)
			if err != nil {
				t.Error(err)
				return
			}
			held = append(held, conn)
		}
		l.eventually("a further client is turned away", func() bool { return hook.Cleanup(ctx, "x") != nil })
		for _, conn := range held {
			_ = conn.Close()
		}
		l.eventually("clients are answered again", func() bool { return hook.Cleanup(ctx, "x") == nil })
	})
	l.serve()
	l.mustWork(nil)
}

// TestPrepareInJobFails: containers that cannot be had cost the job nothing but
// them.
func TestPrepareInJobFails(t *testing.T) {
	l := newLab(t)
	l.hooking(func(ctx context.Context, hook *brokerapi.Client) {
		r := withServices()
		r.Services[1].Image = "missing"
		_, err := hook.Prepare(ctx, r, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "there is no such image") {
			t.Errorf("got %v", err)
		}
		if n := len(l.guests.running()); n != 1 {
			t.Errorf("%d guests run, want the worker's", n)
		}
		if _, err := hook.Prepare(ctx, withServices(), io.Discard); err != nil {
			t.Error(err)
		}
		// In the place of those before.
		if _, err := hook.Prepare(ctx, ownContainer(), io.Discard); err != nil {
			t.Error(err)
		}
		if n := len(l.guests.running()); n != 2 {
			t.Errorf("%d guests run, want the worker's and the job's container", n)
		}
	})
	l.serve()
	l.mustWork(nil)
}

// TestWorkerEnds ends a job from outside, with containers beside its worker.
func TestWorkerEnds(t *testing.T) {
	for _, test := range []struct {
		summary string
		end     func(l *lab, hangUp context.CancelFunc)
		want    string
	}{{
		summary: "the relay hangs up",
		end:     func(_ *lab, hangUp context.CancelFunc) { hangUp() },
		want:    context.Canceled.Error(),
	}, {
		summary: "reset",
		end: func(l *lab, _ context.CancelFunc) {
			if err := l.client.Reset(l.Context()); err != nil {
				l.Error(err)
			}
		},
		want: "cannot go on with the job: its guest ended or was ended: EOF",
	}, {
		summary: "the next job",
		end:     func(l *lab, _ context.CancelFunc) { l.mustWork(nil) },
		want:    "cannot go on with the job: its guest ended or was ended: EOF",
	}, {
		summary: "its guest ends",
		end:     func(l *lab, _ context.CancelFunc) { l.guests.all()[0].Kill() },
		want:    "cannot go on with the job: its guest ended or was ended: EOF",
	}, {
		summary: "its time is over",
		end:     func(*lab, context.CancelFunc) {},
		want:    "the job was ended: it took longer than 2s (RUNNER_JOB_TIMEOUT_S in config.env)",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			if test.summary == "its time is over" {
				l.settings.Limits.Time = 2 * time.Second
			}
			prepared := make(chan struct{})
			l.working(func(ctx context.Context, g *fakeGuest, _ guestapi.Process, _ wire.Streams) (int, error) {
				if len(l.networks.all()) > 1 {
					return 100, nil // the next job
				}
				if _, err := l.hook().Prepare(ctx, withServices(), io.Discard); err != nil {
					t.Error(err)
				}
				close(prepared)
				return g.sleep(ctx)
			})
			l.serve()

			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			ended := make(chan error, 1)
			go func() {
				_, err := l.worker(ctx, nil)
				ended <- err
			}()
			<-prepared
			test.end(l, hangUp)
			if err := <-ended; err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			l.eventually("nothing runs", func() bool { return len(l.guests.running()) == 0 })
		})
	}
}

// TestWorkerNotStarted: the reason reaches the relay, and nothing is left.
func TestWorkerNotStarted(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		summary string
		with    func(l *lab)
		want    string
	}{{
		summary: "not registered",
		with:    func(l *lab) { l.settings.Worker.Registration = "/no/such" },
		want: "cannot start job: cannot read the registration: open /no/such: no such file or directory; " +
			"is the appliance registered?",
	}, {
		summary: "no network",
		with:    func(l *lab) { l.networks.onNew = func() error { return broken } },
		want:    "cannot start job: broken",
	}, {
		summary: "no address",
		with:    func(l *lab) { l.networks.onReserve = func() error { return broken } },
		want:    "cannot start job: broken",
	}, {
		summary: "no guest",
		with: func(l *lab) {
			l.guests.onStart = func(context.Context, guest.Spec) error { return broken }
		},
		want: "cannot start job: broken",
	}, {
		summary: "no configuration",
		with:    func(l *lab) { l.guests.onConfigure = func(*fakeGuest) error { return broken } },
		want:    "cannot start job: broken",
	}, {
		summary: "no such user",
		with: func(l *lab) {
			if err := os.Remove(filepath.Join(l.settings.Base, "etc/passwd")); err != nil {
				l.Fatal(err)
			}
		},
		want: `cannot start job: cannot find user "runner": the image has no such user`,
	}} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			test.with(l)
			l.serve()
			if _, err := l.worker(t.Context(), nil); err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// TestWorkerStopFails: the status is not lost, and the next job ends what is
// left.
func TestWorkerStopFails(t *testing.T) {
	l := newLab(t)
	failures := 1
	l.guests.onStop = func(*fakeGuest) error {
		failures--
		if failures >= 0 {
			return errors.New("cannot end the processes of a guest")
		}
		return nil
	}
	l.hooking(func(context.Context, *brokerapi.Client) {})
	l.serve()
	l.mustWork(nil)
	if n := len(l.guests.running()); n != 1 {
		t.Errorf("%d guests run, want the one that could not be ended", n)
	}
	l.mustWork(nil)
}

// TestWorkerLeavesFiles: what cannot be removed of a job does not keep the next one
// from starting.
func TestWorkerLeavesFiles(t *testing.T) {
	l := newLab(t)
	setImmutable := func(flags int) error {
		dirs, err := filepath.Glob(filepath.Join(l.settings.JobsDir, "w-*"))
		for _, dir := range dirs {
			err = errors.Join(err, setFlags(dir, flags))
		}
		return err
	}
	t.Cleanup(func() { _ = setImmutable(0) })
	probe := t.TempDir()
	if err := setFlags(probe, unix.STATX_ATTR_IMMUTABLE); err != nil { // FS_IMMUTABLE_FL has the same value
		t.Skipf("cannot make a directory immutable: %v", err)
	}
	if err := setFlags(probe, 0); err != nil {
		t.Fatal(err)
	}

	l.leaves = true
	l.hooking(func(context.Context, *brokerapi.Client) {
		if err := setImmutable(unix.STATX_ATTR_IMMUTABLE); err != nil {
			t.Error(err)
		}
	})
	l.serve()
	l.mustWork(nil)
	l.mustWork(nil)
	if left, err := os.ReadDir(l.settings.JobsDir); err != nil || len(left) != 2 {
		t.Errorf("left %v, %v, want the directories of both jobs", left, err)
	}
}

// setFlags sets the flags of a directory, FS_IOC_SETFLAGS(2const).
func setFlags(dir string, flags int) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.IoctlSetPointerInt(int(d.Fd()), unix.FS_IOC_SETFLAGS, flags)
}
