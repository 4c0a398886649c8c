package broker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockeropts"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/network"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// ownContainer asks for a job with one container, of the guest base.
func ownContainer() brokerapi.PrepareRequest {
	return brokerapi.PrepareRequest{Container: &brokerapi.Container{Image: base}}
}

// withServices asks for that beside two services of OCI images.
func withServices() brokerapi.PrepareRequest {
	r := ownContainer()
	r.Services = []brokerapi.Container{
		{Image: "oci/db", Args: []string{"serve"}},
		{Image: "oci/cache", Args: []string{"serve"}},
	}
	return r
}

// sleeping makes every process run until its guest or its caller ends.
func sleeping(ctx context.Context, g *fakeGuest, _ guestapi.Process, _ wire.Streams) (int, error) {
	return g.sleep(ctx)
}

// serving makes services run until their guest ends, and all else succeed.
func serving(ctx context.Context, g *fakeGuest, p guestapi.Process, _ wire.Streams) (int, error) {
	if slices.Equal(p.Argv, []string{"serve"}) {
		return g.sleep(ctx)
	}
	if slices.Equal(p.Argv, []string{"nothing"}) {
		return 0, &wire.Error{Message: "no such program"}
	}
	return 0, nil
}

func TestPrepare(t *testing.T) {
	l := newLab(t)
	l.settings.Resolvers = []netip.Addr{netip.MustParseAddr("192.0.2.53")}
	l.images.config = oci.Config{Volumes: []string{"/data"}, WorkingDir: "/srv"}
	l.guests.onExec = serving
	l.serve()

	r := withServices()
	r.Services[0].Ports = []string{"8080:5432", "53/udp"}
	r.Services[1].Options = "--network-alias store --memory 64m"
	r.Container.Options = "--name app --hostname web --add-host other:192.0.2.7 --shm-size 1m --tmpfs /run"
	r.Container.Mounts = []brokerapi.Mount{
		{Target: "/__w", Source: l.settings.WorkRoot},
		{Target: "/cache", Volume: "cache"},
		{Target: "/scratch", Scratch: true},
	}
	reply := l.prepare(r)

	started := l.guests.all()
	slices.SortFunc(started, func(a, b *fakeGuest) int { return strings.Compare(hostsOf(a), hostsOf(b)) })
	if len(started) != 3 {
		t.Fatalf("%d guests were started, want 3", len(started))
	}
	db, cache, own := started[0], started[1], started[2]

	want := brokerapi.PrepareReply{
		Job: reply.Job, Network: "net-0", Container: &brokerapi.Started{ID: reply.Container.ID},
		Services: []brokerapi.Started{
			{ID: reply.Services[0].ID, Ports: map[string]string{"5432": "35432", "53": "30053"}},
			{ID: reply.Services[1].ID},
		},
	}
	if diff := cmp.Diff(want, *reply); diff != "" {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
	net := l.networks.all()[0]
	ports := map[network.Port]netip.Addr{
		{Host: 8080, Container: 5432, Protocol: "tcp"}: netip.MustParseAddr("10.0.0.2"),
		{Container: 53, Protocol: "udp"}:               netip.MustParseAddr("10.0.0.2"),
	}
	if diff := cmp.Diff(ports, net.ports, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("published ports (-want +got):\n%s", diff)
	}
	if n := net.joined(); n != 3 {
		t.Errorf("%d guests are in the network, want 3", n)
	}

	others := "10.0.0.2\tdb\n10.0.0.3\tstore cache\n10.0.0.4\tapp\n"
	config, binds := own.configured()
	wantConfig := guestapi.Config{
		Hostname: "web",
		Files: map[string]string{
			"/etc/hosts":       guestapi.Hosts() + "10.0.0.4\tweb\n" + others + "192.0.2.7\tother\n",
			"/etc/hostname":    "web\n",
			"/etc/resolv.conf": "nameserver 192.0.2.53\n",
		},
		Dirs: []string{"/scratch"},
		Tmpfs: []guestapi.Tmpfs{
			{Target: "/run", Flags: []string{"nosuid", "nodev", "noexec"}, Options: "mode=1777"},
			{Target: "/dev/shm", Flags: []string{"nosuid", "nodev"}, Options: "mode=1777,size=1048576"},
		},
	}
	if diff := cmp.Diff(wantConfig, config); diff != "" {
		t.Errorf("configuration of the job's container (-want +got):\n%s", diff)
	}
	if want := []string{"/__w", "/cache"}; !slices.Equal(binds, want) {
		t.Errorf("the job's container shows %q, want %q", binds, want)
	}
	if config, _ := db.configured(); !slices.Equal(config.Dirs, []string{"/data", "/srv"}) ||
		config.Files["/etc/hosts"] != guestapi.Hosts()+"10.0.0.2\t"+db.ID()+"\n"+others {
		t.Errorf("a service is configured with %+v", config)
	}

	wantSpec := guest.Spec{
		ID: cache.ID(), Tree: l.images.tree, TreeOwner: ociOwner, Limits: guest.Limits{Memory: 64 << 20},
	}
	if diff := cmp.Diff(wantSpec, cache.spec); diff != "" {
		t.Errorf("a service's guest (-want +got):\n%s", diff)
	}
	if !own.spec.Boot || own.spec.Tree != l.settings.Base || own.spec.TreeOwner != 0 {
		t.Errorf("the job's container is in a guest with %+v", own.spec)
	}
}

func TestDevices(t *testing.T) {
	l := newLab(t)
	l.settings.Devices = []string{"/dev/kvm"}
	l.serve()
	r := ownContainer()
	r.Container.Options = "--device /dev/kvm:/dev/kvm1"
	l.prepare(r)
	want := []guest.Device{{Source: "/dev/kvm", Target: "/dev/kvm1"}}
	if diff := cmp.Diff(want, l.guests.all()[0].spec.Devices); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}

	// Options are checked where they are used as well.
	j := &job{resources: &resources{settings: l.settings}}
	for _, target := range []string{"/etc/kvm", "/dev/../etc/kvm", "dev/kvm"} {
		m := &member{}
		m.spec.options.Devices = []dockeropts.Device{{Host: "/dev/kvm", Guest: target}}
		if _, err := j.guestSpec(m); wire.CodeOf(err) != wire.CodeUnsupported {
			t.Errorf("%s: got %v, want an error with code %q", target, err, wire.CodeUnsupported)
		}
	}
}

// TestAlpine has a job container of Alpine, for which the runner takes another
// node.js.
func TestAlpine(t *testing.T) {
	for _, test := range []struct {
		id   string
		want bool
	}{{id: "alpine", want: true}, {id: "debian"}} {
		l := newLab(t)
		osRelease := filepath.Join(l.images.tree, "etc/os-release")
		if err := os.Mkdir(filepath.Dir(osRelease), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(osRelease, []byte("ID="+test.id+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		l.serve()
		reply := l.prepare(brokerapi.PrepareRequest{Container: &brokerapi.Container{Image: "oci/app"}})
		if reply.Alpine != test.want {
			t.Errorf("ID=%s: Alpine is %v, want %v", test.id, reply.Alpine, test.want)
		}
	}
}

func hostsOf(g *fakeGuest) string {
	config, _ := g.configured()
	return config.Files["/etc/hosts"]
}

// TestPrepareFails fails at each stage. Nothing must be left, and the next job
// must start.
func TestPrepareFails(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		summary string
		with    func(l *lab, r *brokerapi.PrepareRequest)
		want    string
	}{{
		summary: "work root",
		with:    func(l *lab, _ *brokerapi.PrepareRequest) { l.settings.WorkRoot = "/nonexistent" },
		want:    "cannot remove what earlier jobs left",
	}, {
		summary: "network",
		with:    func(l *lab, _ *brokerapi.PrepareRequest) { l.networks.onNew = func() error { return broken } },
		want:    "broken",
	}, {
		summary: "one of two images",
		with:    func(_ *lab, r *brokerapi.PrepareRequest) { r.Services[1].Image = "none/such" },
		want:    "cannot pull none/such: there is no such image",
	}, {
		summary: "user of an image",
		with:    func(_ *lab, r *brokerapi.PrepareRequest) { r.Container.Options = "--user nosuch" },
		want:    "nosuch",
	}, {
		summary: "device",
		with:    func(_ *lab, r *brokerapi.PrepareRequest) { r.Container.Options = "--device /dev/kvm" },
		want:    "device /dev/kvm is not allowed: it is not in RUNNER_NSPAWN_DEVICES of config.env",
	}, {
		summary: "mount",
		with: func(_ *lab, r *brokerapi.PrepareRequest) {
			r.Container.Mounts = []brokerapi.Mount{{Target: "/x", Volume: "v"}, {Target: "/etc", Source: "/etc"}}
		},
		want: "volume /etc is not allowed",
	}, {
		summary: "start of one of three guests",
		with: func(l *lab, _ *brokerapi.PrepareRequest) {
			l.guests.onStart = func(_ context.Context, spec guest.Spec) error {
				if spec.Tree == l.settings.Base {
					return broken
				}
				return nil
			}
		},
		want: "broken",
	}, {
		summary: "address of a guest",
		with:    func(l *lab, _ *brokerapi.PrepareRequest) { l.networks.onReserve = func() error { return broken } },
		want:    "broken",
	}, {
		summary: "port",
		with: func(l *lab, r *brokerapi.PrepareRequest) {
			l.networks.onPublish = func() error { return errors.New("port 80 is in use") }
			r.Container.Ports = []string{"80:80"}
		},
		want: "port 80 is in use",
	}, {
		summary: "network of a guest",
		with:    func(l *lab, _ *brokerapi.PrepareRequest) { l.networks.onJoin = func() error { return broken } },
		want:    "broken",
	}, {
		summary: "configuration of a guest",
		with: func(l *lab, _ *brokerapi.PrepareRequest) {
			l.guests.onConfigure = func(*fakeGuest) error { return broken }
		},
		want: "broken",
	}, {
		summary: "service without a command",
		with:    func(_ *lab, r *brokerapi.PrepareRequest) { r.Services[0].Args = nil },
		want:    "cannot start service oci/db: its image names no command",
	}, {
		summary: "service that cannot be run",
		with:    func(_ *lab, r *brokerapi.PrepareRequest) { r.Services[0].Args = []string{"nothing"} },
		want:    "cannot start service oci/db: no such program",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			l.guests.onExec = serving
			r := withServices()
			test.with(l, &r)
			s := l.serve()

			reply, err := l.client.Prepare(t.Context(), r, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, %v, want an error with %q", reply, err, test.want)
			}
			if s.job != nil {
				t.Error("a job is left")
			}
			l.checkNothingLeft()
			l.settings.WorkRoot = filepath.Join(l.dir, "work") // for the broker's end
		})
	}
}

// TestUnsupportedBeforeAnything has a request that cannot be had. It must not end
// the job that runs.
func TestUnsupportedBeforeAnything(t *testing.T) {
	l := newLab(t)
	l.serve()
	job := l.prepare(ownContainer()).Job

	r := ownContainer()
	r.Container.Options = "--privileged"
	if _, err := l.client.Prepare(t.Context(), r, io.Discard); wire.CodeOf(err) != wire.CodeUnsupported {
		t.Errorf("got %v with code %q, want %q", err, wire.CodeOf(err), wire.CodeUnsupported)
	}
	if _, err := l.exec(job, "true"); err != nil {
		t.Errorf("the job before is gone: %v", err)
	}
}

func TestPrepareEndsTheJobBefore(t *testing.T) {
	l := newLab(t)
	l.serve()
	leftover := filepath.Join(l.settings.WorkRoot, "repo/repo/file")
	if err := os.MkdirAll(filepath.Dir(leftover), 0o755); err != nil {
		t.Fatal(err)
	}
	first := l.prepare(ownContainer())
	second := l.prepare(ownContainer())

	if running := l.guests.running(); len(running) != 1 || running[0] != l.guests.all()[1] {
		t.Errorf("%d guests run, want the second job's", len(running))
	}
	if len(l.networks.open()) != 1 {
		t.Errorf("%d networks are open, want one", len(l.networks.open()))
	}
	if _, err := os.Stat(filepath.Dir(leftover)); err == nil {
		t.Error("the workspace of an earlier job is left")
	}
	_, err := l.exec(first.Job, "true")
	if err == nil || err.Error() != "cannot run step: the guest of this job is gone; it was ended, or never started" {
		t.Errorf("a step of the first job: %v", err)
	}
	if _, err := l.exec(second.Job, "true"); err != nil {
		t.Errorf("a step of the second job: %v", err)
	}
}

// TestWorkRootAfterJob has what a job leaves in the work root, and where it puts a
// link in the place of the runner's own directory: once, no job started any more.
func TestWorkRootAfterJob(t *testing.T) {
	for _, test := range []struct {
		summary string
		keep    bool
		end     func(l *lab, job string) error
		want    []string
	}{
		{
			summary: "cleaned up", want: []string{"_tool", "repo", "repo/repo"},
			end: func(l *lab, job string) error { return l.client.Cleanup(l.Context(), job) },
		},
		{
			summary: "cleaned up and kept", keep: true,
			want: []string{"_evil", "_tool", "_tool/x", "repo", "repo/repo", "repo/repo/f"},
			end:  func(l *lab, job string) error { return l.client.Cleanup(l.Context(), job) },
		},
		{
			summary: "reset", want: []string{"_evil", "_tool", "_tool/x", "repo", "repo/repo", "repo/repo/f"},
			end: func(l *lab, _ string) error { return l.client.Reset(l.Context()) },
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			l.settings.KeepWork = test.keep
			l.serve()
			work := func(name string) string { return filepath.Join(l.settings.WorkRoot, name) }
			r := ownContainer()
			r.Workspace = work("repo/repo")
			job := l.prepare(r).Job

			for _, dir := range []string{"repo/repo/f", "_evil", "_tool/x"} {
				if err := os.MkdirAll(work(dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(l.dir, work("_temp")); err != nil {
				t.Fatal(err)
			}
			if err := test.end(l, job); err != nil {
				t.Error(err)
			}
			var left []string
			_ = filepath.WalkDir(l.settings.WorkRoot, func(path string, _ os.DirEntry, _ error) error {
				if name, _ := filepath.Rel(l.settings.WorkRoot, path); name != "." {
					left = append(left, name)
				}
				return nil
			})
			if diff := cmp.Diff(test.want, left); diff != "" {
				t.Errorf("the work root holds (-want +got):\n%s", diff)
			}
		})
	}
}

func TestKeepWork(t *testing.T) {
	l := newLab(t)
	l.settings.KeepWork = true
	l.serve()
	kept := filepath.Join(l.settings.WorkRoot, "repo")
	if err := os.Mkdir(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	l.prepare(ownContainer())
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}

func TestCleanup(t *testing.T) {
	l := newLab(t)
	l.guests.onExec = serving
	l.serve()
	r := withServices()
	r.Container.Mounts = []brokerapi.Mount{{Target: "/v", Volume: "v"}}
	job := l.prepare(r).Job

	if err := l.client.Cleanup(t.Context(), "unknown"); err != nil {
		t.Errorf("cleanup of an unknown job: %v", err)
	}
	if running := len(l.guests.running()); running != 3 {
		t.Errorf("%d guests run after the cleanup of an unknown job, want 3", running)
	}
	for range 2 {
		if err := l.client.Cleanup(t.Context(), job); err != nil {
			t.Errorf("cleanup: %v", err)
		}
		l.checkNothingLeft()
	}
	_, err := l.exec(job, "true")
	if err == nil || !strings.HasPrefix(err.Error(), "cannot run step: the guest of this job is gone") {
		t.Errorf("a step after the end: %v", err)
	}
}

// TestCleanupAgain has a guest that cannot be stopped at first.
func TestCleanupAgain(t *testing.T) {
	l := newLab(t)
	l.guests.onExec = serving
	var stops sync.Map // guest: true once it failed
	l.guests.onStop = func(g *fakeGuest) error {
		if _, again := stops.LoadOrStore(g, true); !again && g.spec.Tree == l.settings.Base {
			return errors.New("cannot end the processes of a guest")
		}
		return nil
	}
	l.serve()
	job := l.prepare(withServices()).Job

	if err := l.client.Cleanup(t.Context(), job); err == nil || err.Error() != "cannot end the processes of a guest" {
		t.Errorf("got %v, want the guest's error", err)
	}
	if len(l.networks.open()) != 1 || l.images.inUse != 2 {
		t.Error("network or images went before the last guest")
	}
	if err := l.client.Cleanup(t.Context(), job); err != nil {
		t.Errorf("the second cleanup: %v", err)
	}
	l.checkNothingLeft()
}

// TestPrepareFailsTwice fails, and then cannot stop a guest either. The next
// request stops it.
func TestPrepareFailsTwice(t *testing.T) {
	l := newLab(t)
	l.guests.onExec = serving
	failed := false
	l.guests.onStop = func(*fakeGuest) error {
		if failed {
			return nil
		}
		failed = true
		return errors.New("cannot end the processes of a guest")
	}
	l.serve()

	r := brokerapi.PrepareRequest{Services: []brokerapi.Container{
		{Image: base, Args: []string{"nothing"}},
	}}
	_, err := l.client.Prepare(t.Context(), r, io.Discard)
	want := "cannot start service " + base + ": no such program\ncannot end the processes of a guest"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := l.client.Reset(t.Context()); err != nil {
		t.Error(err)
	}
	l.checkNothingLeft()
}

func TestReset(t *testing.T) {
	l := newLab(t)
	l.serve()
	l.prepare(ownContainer())
	for range 2 {
		if err := l.client.Reset(t.Context()); err != nil {
			t.Error(err)
		}
		l.checkNothingLeft()
	}
}

func TestExec(t *testing.T) {
	l := newLab(t)
	l.images.config = oci.Config{Env: []string{"PATH=/image", "A=image"}, User: "7:8"}
	var got guestapi.Process
	l.guests.onExec = func(_ context.Context, _ *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
		got = p
		_, _ = io.WriteString(s.Stdout, "out")
		_, _ = io.WriteString(s.Stderr, "err")
		if signal := <-s.Signals; signal != syscall.SIGINT {
			return 0, errors.New("another signal")
		}
		return 130, nil
	}
	l.serve()
	job := l.prepare(brokerapi.PrepareRequest{Container: &brokerapi.Container{
		Image: "oci/app", Dir: "/__w", Env: map[string]string{"B": "job", "C": "job"}, Options: "--cap-drop NET_RAW",
	}}).Job

	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGINT
	var stdout, stderr bytes.Buffer
	r := brokerapi.ExecRequest{
		Job: job, Argv: []string{"bash", "-e"}, Dir: "/__w/r", PrependPath: []string{"/b", "/a"},
		Env: map[string]string{"C": "step"},
	}
	status, err := l.client.Exec(t.Context(), r, wire.Streams{Stdout: &stdout, Stderr: &stderr, Signals: signals})
	if status != 130 || err != nil || stdout.String() != "out" || stderr.String() != "err" {
		t.Errorf("got %d, %v, %q, %q", status, err, &stdout, &stderr)
	}
	want := guestapi.Process{
		Argv: r.Argv, Dir: "/__w/r", UID: 7, GID: 8, Groups: got.Groups, DropCapabilities: []string{"NET_RAW"},
		Env: []string{"A=image", "B=job", "C=step", "HOME=/", "PATH=/b:/a:/image"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("process (-want +got):\n%s", diff)
	}
}

func TestExecWithoutContainer(t *testing.T) {
	l := newLab(t)
	l.guests.onExec = serving
	l.serve()
	r := withServices()
	r.Container = nil
	job := l.prepare(r).Job
	_, err := l.exec(job, "true")
	if err == nil || err.Error() != "cannot run step: the job has services only, and no container" {
		t.Errorf("got %v", err)
	}
}

// TestGuestDies ends the guest of a job during a step.
func TestGuestDies(t *testing.T) {
	l := newLab(t)
	l.guests.onExec = func(ctx context.Context, g *fakeGuest, _ guestapi.Process, _ wire.Streams) (int, error) {
		go g.Kill()
		return g.sleep(ctx)
	}
	l.serve()
	job := l.prepare(ownContainer()).Job
	want := "cannot go on with the step: the guest ended or was ended: EOF"
	_, err := l.exec(job, "true")
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := l.exec(job, "true"); err == nil {
		t.Error("a step ran in a guest that is dead")
	}
	if err := l.client.Cleanup(t.Context(), job); err != nil {
		t.Error(err)
	}
}

// TestCleanupDuringStep ends a job while a step and a container step run in it.
func TestCleanupDuringStep(t *testing.T) {
	l := newLab(t)
	var running sync.WaitGroup
	running.Add(2)
	l.guests.onExec = func(ctx context.Context, g *fakeGuest, _ guestapi.Process, _ wire.Streams) (int, error) {
		running.Done()
		return g.sleep(ctx)
	}
	l.serve()
	job := l.prepare(ownContainer()).Job

	errs := make(chan error, 2)
	go func() {
		_, err := l.exec(job, "sleep")
		errs <- err
	}()
	go func() {
		_, err := l.step(job, base, "sleep")
		errs <- err
	}()
	running.Wait()
	if err := l.client.Cleanup(t.Context(), job); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-errs; err == nil || !strings.HasPrefix(err.Error(), "cannot go on with the step: the guest ended") {
			t.Errorf("a step was ended with %v", err)
		}
	}
	l.checkNothingLeft()
}

// TestContainerAfterCleanup has a container step that found its job before a
// cleanup, and starts its guest after it.
func TestContainerAfterCleanup(t *testing.T) {
	l := newLab(t)
	s := l.serve()
	id := l.prepare(ownContainer()).Job
	j := s.findJob(id)
	if err := l.client.Cleanup(t.Context(), id); err != nil {
		t.Fatal(err)
	}

	m := &member{root: s.baseRoot()}
	if _, err := j.runMember(t.Context(), m, []string{"true"}, wire.Streams{}); err == nil {
		t.Error("a step ran in a job that has ended")
	}
	if err := j.launch(t.Context(), m); !errors.Is(err, errEnded) {
		t.Errorf("got %v, want %v", err, errEnded)
	}
	if started := len(l.guests.all()); started != 1 {
		t.Errorf("%d guests were started, want the job's own", started)
	}
}

// TestContainerDuringCleanup runs container steps in a job's network while the
// job is ended. Without a lock around what they share, -race reports it.
func TestContainerDuringCleanup(t *testing.T) {
	l := newLab(t)
	l.networks.onClose = func() { time.Sleep(5 * time.Millisecond) }
	s := l.serve()
	for range 10 {
		id := l.prepare(ownContainer()).Job
		j := s.findJob(id)

		cleaned := make(chan struct{})
		var calls sync.WaitGroup
		calls.Go(func() {
			defer close(cleaned)
			if err := l.client.Cleanup(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
		for range 3 {
			calls.Go(func() {
				for running := true; running; {
					select {
					case <-cleaned:
						running = false
					default:
					}
					m := &member{root: s.baseRoot()}
					_, _ = j.runMember(t.Context(), m, []string{"true"}, wire.Streams{})
				}
			})
		}
		calls.Wait()
	}
}

// TestCleanupDuringLaunch ends a job while the guest of a container step starts:
// the start ends, and cleanup waits until nothing of it is left.
func TestCleanupDuringLaunch(t *testing.T) {
	l := newLab(t)
	starting := make(chan struct{})
	l.guests.onStart = func(ctx context.Context, spec guest.Spec) error {
		if spec.Tree == l.settings.Base {
			return nil
		}
		close(starting)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	l.serve()
	job := l.prepare(ownContainer()).Job

	stepped := make(chan error, 1)
	go func() {
		_, err := l.step(job, "oci/app", "true")
		stepped <- err
	}()
	<-starting
	if err := l.client.Cleanup(t.Context(), job); err != nil {
		t.Error(err)
	}
	if err := <-stepped; err == nil || err.Error() != errEnded.Error() {
		t.Errorf("the step was ended with %v, want %v", err, errEnded)
	}
	l.checkNothingLeft()
}

// TestContainerStep runs a container step in the network of a job.
func TestContainerStep(t *testing.T) {
	l := newLab(t)
	var got guestapi.Process
	var joined int
	l.guests.onExec = func(_ context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
		got, joined = p, l.networks.all()[0].joined()
		_, _ = io.WriteString(s.Stdout, hostsOf(g))
		return 3, nil
	}
	l.images.config = oci.Config{Cmd: []string{"/app"}, WorkingDir: "/srv"}
	l.serve()
	r := ownContainer()
	r.Container.Options = "--name app"
	job := l.prepare(r).Job

	var stdout bytes.Buffer
	step := brokerapi.ContainerRequest{Job: job, Container: brokerapi.Container{Image: "docker://oci/app"}}
	status, err := l.client.Container(t.Context(), step, wire.Streams{Stdout: &stdout})
	if status != 3 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
	if !slices.Equal(got.Argv, []string{"/app"}) || got.Dir != "/srv" {
		t.Errorf("ran %q in %s", got.Argv, got.Dir)
	}
	if !strings.HasSuffix(stdout.String(), "10.0.0.2\tapp\n") || joined != 2 {
		t.Errorf("the step's guest is one of %d in the job's network, with the hosts\n%s", joined, &stdout)
	}

	networks := l.networks.all()
	if running := l.guests.running(); len(running) != 1 || len(networks) != 1 || networks[0].joined() != 1 {
		t.Errorf("%d guests run after the step, want the job's own alone in its network", len(running))
	}
}

// TestContainerStepAlone runs one without a job, or with one that is unknown.
func TestContainerStepAlone(t *testing.T) {
	for _, job := range []string{"", "unknown"} {
		l := newLab(t)
		l.serve()
		r := brokerapi.ContainerRequest{Job: job, Container: brokerapi.Container{
			Image: base, Args: []string{"true"}, Mounts: []brokerapi.Mount{{Target: "/v", Volume: "v"}},
		}}
		if status, err := l.client.Container(t.Context(), r, wire.Streams{}); status != 0 || err != nil {
			t.Errorf("job %q: got %d, %v", job, status, err)
		}
		if len(l.networks.all()) != 1 {
			t.Errorf("job %q: %d networks were made, want one", job, len(l.networks.all()))
		}
		l.checkNothingLeft()
	}
}

func TestContainerStepFails(t *testing.T) {
	for _, test := range []struct {
		summary string
		c       brokerapi.Container
		want    string
	}{
		{
			summary: "option", c: brokerapi.Container{Image: base, Options: "--privileged"},
			want: "options: option --privileged is not supported",
		},
		{summary: "image", c: brokerapi.Container{Image: "none/such"}, want: "cannot pull none/such"},
		{
			summary: "no command", c: brokerapi.Container{Image: "oci/app"},
			want: `cannot run container: image "oci/app" names no command, and the step has none`,
		},
		{
			summary: "mount",
			c: brokerapi.Container{
				Image: "oci/app", Args: []string{"true"}, Mounts: []brokerapi.Mount{{Target: "/"}},
			},
			want: "cannot mount /",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			l.serve()
			job := l.prepare(ownContainer()).Job
			for _, id := range []string{job, ""} {
				_, err := l.client.Container(t.Context(), brokerapi.ContainerRequest{Job: id, Container: test.c}, wire.Streams{})
				if err == nil || !strings.HasPrefix(err.Error(), test.want) {
					t.Errorf("got %v, want %s", err, test.want)
				}
				if running := l.guests.running(); len(running) != 1 || l.images.inUse != 0 {
					t.Errorf("%d guests run and %d images are in use, want the job's guest", len(running), l.images.inUse)
				}
			}
		})
	}
}

func TestRun(t *testing.T) {
	l := newLab(t)
	var got guestapi.Process
	l.guests.onExec = func(_ context.Context, _ *fakeGuest, p guestapi.Process, _ wire.Streams) (int, error) {
		got = p
		return 7, nil
	}
	l.serve()
	r := brokerapi.RunRequest{Argv: []string{"id"}, Dir: "/tmp", Env: map[string]string{"LANG": "C"}}
	if status, err := l.client.Run(t.Context(), r, wire.Streams{}); status != 7 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
	want := guestapi.Process{
		Argv: r.Argv, Dir: "/tmp", Env: []string{"HOME=/root", "LANG=C", "PATH=" + layout.Path}, Groups: got.Groups,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("process (-want +got):\n%s", diff)
	}
	l.checkNothingLeft()
}

// These calls run until their context ends, if a block below keeps them.

func callPrepare(ctx context.Context, l *lab) error {
	r := brokerapi.PrepareRequest{Services: []brokerapi.Container{{Image: "oci/db", Args: []string{"serve"}}}}
	_, err := l.client.Prepare(ctx, r, io.Discard)
	return err
}

func callExec(ctx context.Context, l *lab) error {
	job := l.prepare(ownContainer()).Job
	_, err := l.client.Exec(ctx, brokerapi.ExecRequest{Job: job, Argv: []string{"sleep"}}, wire.Streams{})
	return err
}

func callContainer(ctx context.Context, l *lab) error {
	job := l.prepare(ownContainer()).Job
	r := brokerapi.ContainerRequest{
		Job: job, Container: brokerapi.Container{Image: "oci/app", Args: []string{"sleep"}},
	}
	_, err := l.client.Container(ctx, r, wire.Streams{})
	return err
}

func callRun(ctx context.Context, l *lab) error {
	_, err := l.client.Run(ctx, brokerapi.RunRequest{Argv: []string{"sleep"}}, wire.Streams{})
	return err
}

// These blocks keep what a call started until its context ends, and call reached
// when it has come so far.

func blockPull(l *lab, reached func()) {
	l.images.onPull = func(ctx context.Context, _ string, _ func(string)) error {
		reached()
		<-ctx.Done()
		return ctx.Err()
	}
}

func blockStart(l *lab, reached func()) {
	l.guests.onStart = func(ctx context.Context, spec guest.Spec) error {
		if spec.Tree == l.settings.Base {
			return nil
		}
		reached()
		<-ctx.Done()
		return ctx.Err()
	}
}

func blockExec(l *lab, reached func()) {
	l.guests.onExec = func(ctx context.Context, g *fakeGuest, _ guestapi.Process, _ wire.Streams) (int, error) {
		reached()
		return g.sleep(ctx)
	}
}

func blockHealth(l *lab, reached func()) {
	l.images.config.Health = &oci.Health{Test: []string{"check"}, Shell: true}
	l.guests.onExec = func(ctx context.Context, g *fakeGuest, p guestapi.Process, _ wire.Streams) (int, error) {
		if isHealthCheck(p) {
			reached()
		}
		return g.sleep(ctx)
	}
}

// TestHangup has a client that hangs up while its call is at some stage. The
// broker must end what the call started.
func TestHangup(t *testing.T) {
	for _, test := range []struct {
		summary string
		call    func(ctx context.Context, l *lab) error
		block   func(l *lab, reached func())
		jobs    int // that run afterwards, each with one guest
	}{
		{summary: "prepare, during a pull", call: callPrepare, block: blockPull},
		{summary: "prepare, during a start", call: callPrepare, block: blockStart},
		{summary: "prepare, during a health check", call: callPrepare, block: blockHealth},
		{summary: "a step", call: callExec, block: blockExec, jobs: 1},
		{summary: "a container step, during a pull", call: callContainer, block: blockPull, jobs: 1},
		{summary: "a container step, during a start", call: callContainer, block: blockStart, jobs: 1},
		{summary: "a container step", call: callContainer, block: blockExec, jobs: 1},
		{summary: "run", call: callRun, block: blockExec},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			test.block(l, sync.OnceFunc(hangUp))
			l.serve()

			if err := test.call(ctx, l); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
			l.eventually("the end of what the call started", func() bool {
				l.images.mu.Lock()
				defer l.images.mu.Unlock()
				return len(l.guests.running()) == test.jobs && len(l.networks.open()) == test.jobs && l.images.inUse == 0
			})
		})
	}
}
