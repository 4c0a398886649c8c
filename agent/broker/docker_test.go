package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/oci"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/layout"
)

const dockerNet = "github_network_0"

// docker is a client of a job's docker command.
type docker struct {
	*lab
	ctx    context.Context
	client *brokerapi.Client
}

// exec is what a process of a guest does.
type exec func(ctx context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error)

// dockering makes the worker of a job call docker, in a network that it has named.
// All other processes of guests do what do says.
func (l *lab) dockering(do exec, call func(d *docker)) {
	l.guests.onExec = func(ctx context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
		if !p.InputFD {
			return do(ctx, g, p, s)
		}
		d := &docker{l, ctx, l.hook()}
		d.must(brokerapi.Docker{Network: &brokerapi.DockerNetwork{Name: dockerNet}}, nil)
		call(d)
		return 100, nil
	}
	l.serve()
	l.mustWork(nil)
}

func (d *docker) ask(r brokerapi.Docker, reply any) error {
	return d.client.Docker(d.ctx, r, reply, io.Discard)
}

func (d *docker) must(r brokerapi.Docker, reply any) {
	d.Helper()
	if err := d.ask(r, reply); err != nil {
		d.Errorf("%+v: %v", r, err)
	}
}

// create makes a container from a line of docker create.
func (d *docker) create(line string) (id string, err error) {
	var created brokerapi.DockerCreated
	err = d.ask(brokerapi.Docker{Create: &brokerapi.DockerCreate{Args: strings.Fields(line)}}, &created)
	return created.ID, err
}

// start makes a container and starts it.
func (d *docker) start(line string) string {
	d.Helper()
	id, err := d.create(line)
	if err == nil {
		err = d.ask(brokerapi.Docker{Start: &brokerapi.DockerStart{Container: id}}, nil)
	}
	if err != nil {
		d.Errorf("%s: %v", line, err)
	}
	return id
}

func (d *docker) list() brokerapi.DockerContainers {
	d.Helper()
	var list brokerapi.DockerContainers
	d.must(brokerapi.Docker{List: &struct{}{}}, &list)
	return list
}

// inspect returns the container with an id.
func (d *docker) inspect(id string) brokerapi.ContainerInfo {
	d.Helper()
	for _, c := range d.list().Containers {
		if c.ID == id {
			return c
		}
	}
	d.Errorf("there is no container %s", id)
	return brokerapi.ContainerInfo{}
}

func (d *docker) exec(r brokerapi.DockerExec, stdin string) (status int, out string, err error) {
	var stdout strings.Builder
	s := wire.Streams{Stdout: &stdout}
	if stdin != "" {
		s.Stdin = strings.NewReader(stdin)
	}
	status, err = d.client.DockerProcess(d.ctx, brokerapi.Docker{Exec: &r}, s)
	return status, stdout.String(), err
}

// TestDockerJob has what the actions runner asks for in a job with a container and
// a service, in its order.
func TestDockerJob(t *testing.T) {
	l := newLab(t)
	l.images.config = oci.Config{Env: []string{"PATH=/opt/bin", "PGDATA=/data"}, User: "0"}
	var executed []guestapi.Process
	do := func(ctx context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
		if p.Argv[0] == "serve" {
			return g.sleep(ctx)
		}
		executed = append(executed, p)
		if s.Stdin != nil {
			_, _ = io.Copy(s.Stdout, s.Stdin)
		}
		return 7, nil
	}
	l.dockering(do, func(d *docker) { d.jobWithService() })

	if len(executed) != 2 {
		t.Fatalf("executed %v", executed)
	}
	first, second := executed[0], executed[1]
	env := strings.Join(first.Env, "\n") + "\n"
	if !first.Stdin || first.Dir != "/__w/_temp" || !strings.Contains(env, "A=c\n") ||
		!strings.Contains(env, "PATH=/own:/opt/bin\n") {
		t.Errorf("executed %+v", first)
	}
	if second.Stdin || second.UID != 7 || second.GID != 8 || second.Dir != "/" ||
		!strings.Contains(strings.Join(second.Env, "\n"), "PGDATA=/data") {
		t.Errorf("executed %+v", second)
	}
}

// jobWithService starts and removes the containers of TestDockerJob.
func (d *docker) jobWithService() {
	job := d.start("--name job_1 --label a1b2c3 --workdir /__w/r/r --network " + dockerNet + " -e A=b -v " +
		"/var/run/docker.sock:/var/run/docker.sock -v " + layout.WorkerWork + ":/__w --entrypoint serve " + base)
	db := d.start("--name db_1 --label a1b2c3 --network " + dockerNet + " --network-alias db -p 5432 -p 8080:80 " +
		"oci/db serve")
	guests := d.guests.running()
	if len(guests) != 3 || len(job) != 64 {
		d.Fatalf("%d guests run, the id is %s", len(guests), job)
	}

	// All know each other by now, the first by what it was told later.
	worker, jobGuest, dbGuest := guests[0], guests[1], guests[2]
	for _, g := range []*fakeGuest{worker, jobGuest} {
		if config, _ := g.configured(); !strings.Contains(config.Files["/etc/hosts"], "\tdb_1 db\n") {
			d.Errorf("a guest knows %q", config.Files["/etc/hosts"])
		}
	}
	if config, _ := dbGuest.configured(); !strings.Contains(config.Files["/etc/hosts"], "\tjob_1\n") ||
		!strings.Contains(config.Files["/etc/hosts"], "\trunner\n") {
		d.Errorf("the service knows %q", config.Files["/etc/hosts"])
	}
	if _, binds := jobGuest.configured(); len(binds) != 1 || binds[0] != "/__w" {
		d.Errorf("the job's container sees %q", binds)
	}

	info := d.inspect(db)
	if got := info.NetworkSettings.Ports; len(got["5432/tcp"]) != 2 || len(got["80/tcp"]) != 2 {
		d.Errorf("ports are %v", got)
	}
	if info.Name != "/db_1" || info.State.Status != "running" || info.Config.Healthcheck != nil ||
		cmp.Diff(info.NetworkSettings.Networks[dockerNet].Aliases, []string{"db_1", "db"}) != "" {
		d.Errorf("the service is %+v", info)
	}
	if got := d.inspect(job); got.Config.Labels["a1b2c3"] != "" ||
		!strings.Contains(strings.Join(got.Config.Env, " "), "A=b") {
		d.Errorf("the job's container is %+v", got.Config)
	}

	status, out, err := d.exec(brokerapi.DockerExec{Container: job, Argv: []string{"sh", "x.sh"}, Dir: "/__w/_temp",
		Env: map[string]string{"A": "c", "PATH": "/own:/opt/bin"}, Input: true}, "input")
	if status != 7 || out != "input" || err != nil {
		d.Errorf("exec: %d, %q, %v", status, out, err)
	}
	status, out, err = d.exec(brokerapi.DockerExec{Container: "db_1", Argv: []string{"psql"}, User: "7:8"}, "")
	if status != 7 || out != "" || err != nil {
		d.Errorf("exec: %d, %q, %v", status, out, err)
	}

	d.must(brokerapi.Docker{Remove: &brokerapi.DockerRemove{Container: job, Force: true}}, nil)
	d.must(brokerapi.Docker{Remove: &brokerapi.DockerRemove{Container: db, Force: true}}, nil)
	d.must(brokerapi.Docker{Network: &brokerapi.DockerNetwork{Name: dockerNet, Remove: true}}, nil)
	if left := d.list(); len(left.Containers) != 0 || left.Network != "" || len(d.guests.running()) != 1 {
		d.Errorf("left are %+v, and %d guests", left, len(d.guests.running()))
	}
	if config, _ := worker.configured(); strings.Contains(config.Files["/etc/hosts"], "db") {
		d.Errorf("the worker still knows %q", config.Files["/etc/hosts"])
	}
}

// TestDockerLife: a container can be looked at, stopped and started again.
func TestDockerLife(t *testing.T) {
	l := newLab(t)
	// Its process prints, and ends at a signal with the signal's number.
	do := func(_ context.Context, g *fakeGuest, _ guestapi.Process, s wire.Streams) (int, error) {
		fmt.Fprintln(s.Stdout, "out")
		fmt.Fprintln(s.Stderr, "err")
		select {
		case signal := <-s.Signals:
			return int(signal.(syscall.Signal)), nil
		case <-g.exited:
			return 0, errors.New("its guest ended")
		}
	}
	l.dockering(do, func(d *docker) {
		id, err := d.create("--name x oci/x serve")
		if got := d.inspect(id).State; err != nil || got.Status != "created" {
			d.Errorf("created: %+v, %v", got, err)
		}
		if _, _, err := d.exec(brokerapi.DockerExec{Container: "x", Argv: []string{"true"}}, ""); err == nil {
			d.Error("a process started in a container that does not run")
		}

		for range 2 {
			d.must(brokerapi.Docker{Start: &brokerapi.DockerStart{Container: "x"}}, nil)
			d.must(brokerapi.Docker{Start: &brokerapi.DockerStart{Container: "x"}}, nil) // it runs already
			waited := make(chan int)
			go func() {
				var exited brokerapi.DockerExited
				d.must(brokerapi.Docker{Wait: &brokerapi.DockerWait{Container: "x"}}, &exited)
				waited <- exited.Status
			}()
			d.must(brokerapi.Docker{Stop: &brokerapi.DockerStop{Container: "x", Signal: 2, Grace: time.Minute}}, nil)
			if status := <-waited; status != 2 {
				d.Errorf("waited for %d", status)
			}
			if got := d.inspect(id).State; got.Status != "exited" || got.ExitCode != 2 || got.FinishedAt.IsZero() {
				d.Errorf("exited: %+v", got)
			}
		}

		var out, errs strings.Builder
		_, err = d.client.DockerProcess(d.ctx, brokerapi.Docker{Logs: &brokerapi.DockerLogs{Container: "x", Follow: true}},
			wire.Streams{Stdout: &out, Stderr: &errs})
		if err != nil || out.String() != "out\nout\n" || errs.String() != "err\nerr\n" {
			d.Errorf("logs: %q, %q, %v", out.String(), errs.String(), err)
		}

		d.must(brokerapi.Docker{Start: &brokerapi.DockerStart{Container: "x"}}, nil)
		err = d.ask(brokerapi.Docker{Remove: &brokerapi.DockerRemove{Container: "x"}}, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "container x is running") {
			d.Errorf("removed one that runs: %v", err)
		}
		d.must(brokerapi.Docker{Stop: &brokerapi.DockerStop{Container: "x", Signal: 9}}, nil)
		d.eventually("it has ended", func() bool { return d.inspect(id).State.ExitCode == 9 })
		d.must(brokerapi.Docker{Remove: &brokerapi.DockerRemove{Container: "x"}}, nil)
	})
}

// TestDockerRun: a container action has the client's streams, and nothing is left.
func TestDockerRun(t *testing.T) {
	l := newLab(t)
	do := func(ctx context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
		if p.Argv[0] == "serve" {
			return g.sleep(ctx)
		}
		fmt.Fprintln(s.Stdout, strings.Join(p.Argv, " "), strings.Contains(strings.Join(p.Env, " "), "TOKEN=hunter2"))
		return 9, nil
	}
	l.dockering(do, func(d *docker) {
		var out strings.Builder
		status, err := d.client.DockerProcess(d.ctx, brokerapi.Docker{Run: &brokerapi.DockerCreate{
			Args: strings.Fields("--name n --rm -e TOKEN --network " + dockerNet + " --workdir /github/workspace oci/x echo a"),
			Env:  map[string]string{"TOKEN": "hunter2"},
		}}, wire.Streams{Stdout: &out})
		if status != 9 || err != nil || out.String() != "echo a true\n" {
			d.Errorf("got %d, %v, %q", status, err, out.String())
		}
		if n := len(d.guests.running()); n != 1 || len(d.list().Containers) != 0 {
			d.Errorf("%d guests are left", n)
		}

		// A client that hangs up ends it.
		ctx, cancel := context.WithCancel(d.ctx)
		go func() {
			defer cancel()
			for deadline := time.Now().Add(10 * time.Second); len(d.guests.running()) < 2 && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
		}()
		_, err = d.client.DockerProcess(ctx, brokerapi.Docker{Run: &brokerapi.DockerCreate{
			Args: strings.Fields("--rm oci/x serve")}}, wire.Streams{})
		if !errors.Is(err, context.Canceled) {
			d.Errorf("got %v", err)
		}
		d.eventually("it is gone", func() bool { return len(d.guests.running()) == 1 && len(d.list().Containers) == 0 })
	})
}

// TestDockerHealth: the health of a container is what its command finds.
func TestDockerHealth(t *testing.T) {
	l := newLab(t)
	checks := make(chan int) // their statuses
	do := func(ctx context.Context, g *fakeGuest, p guestapi.Process, _ wire.Streams) (int, error) {
		if strings.Contains(strings.Join(p.Argv, " "), "check") {
			select {
			case status := <-checks:
				return status, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		return g.sleep(ctx)
	}
	l.dockering(do, func(d *docker) {
		id := d.start("--health-cmd check --health-interval 1ms --health-retries 2 oci/x serve")
		health := func() string { return d.inspect(id).State.Health.Status }
		if got := health(); got != "starting" {
			d.Errorf("before a check: %s", got)
		}

		checks <- 0
		d.eventually("it is healthy", func() bool { return health() == "healthy" })
		checks <- 1
		checks <- 1
		d.eventually("it is not healthy", func() bool { return health() == "unhealthy" })
		checks <- 0
		d.eventually("it is healthy again", func() bool { return health() == "healthy" })
		d.must(brokerapi.Docker{Remove: &brokerapi.DockerRemove{Container: id, Force: true}}, nil)
	})
}

// TestDockerBuild: an image that a job builds has the names it was built for.
func TestDockerBuild(t *testing.T) {
	l := newLab(t)
	built := false
	do := func(ctx context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
		if isBuild(p) {
			built = true
			return 0, leaveArchive(l)
		}
		return serving(ctx, g, p, s)
	}
	l.dockering(do, func(d *docker) {
		work, err := filepath.Glob(filepath.Join(l.settings.JobsDir, "w-*/work"))
		if err == nil {
			err = os.WriteFile(filepath.Join(work[0], "Dockerfile"), []byte("FROM scratch\n"), 0o644)
		}
		if err != nil {
			d.Error(err)
		}
		const dockerfile = layout.WorkerWork + "/Dockerfile"
		_, err = d.client.DockerProcess(d.ctx, brokerapi.Docker{Build: &brokerapi.DockerBuild{
			Dockerfile: dockerfile, Context: filepath.Dir(dockerfile), Tags: []string{"a1b2c3:0f"}}}, wire.Streams{})
		if err != nil || !built {
			d.Errorf("built: %v, %v", built, err)
		}
		d.start("a1b2c3:0f serve")
	})
}

func TestDockerRefusals(t *testing.T) {
	l := newLab(t)
	l.dockering(serving, func(d *docker) {
		d.start("--name taken oci/x serve")
		for _, test := range []struct{ line, want string }{
			{line: "--name taken oci/x serve", want: `the container name "taken" is in use; remove that container first`},
			{line: "--network other oci/x serve", want: "network other not found"},
			{line: "--network host oci/x serve", want: "network host not found"},
			{line: "--privileged oci/x serve", want: "option --privileged is not supported"},
			{line: "-v /etc:/x oci/x serve", want: ""}, // refused when it starts
			{line: "", want: "there is no image"},
			{line: "oci/x", want: "no command specified: image oci/x names none"},
		} {
			_, err := d.create(test.line)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				d.Errorf("%q: got %v, want %s", test.line, err, test.want)
			}
		}
		list := d.list()
		err := d.ask(brokerapi.Docker{Start: &brokerapi.DockerStart{Container: list.Containers[0].ID}}, nil)
		if err == nil || !strings.Contains(err.Error(), "volume /etc is not allowed") {
			d.Errorf("got %v", err)
		}

		for _, r := range []brokerapi.Docker{
			{Start: &brokerapi.DockerStart{Container: "other"}}, {Remove: &brokerapi.DockerRemove{Container: ""}},
			{Stop: &brokerapi.DockerStop{Container: "other"}}, {Wait: &brokerapi.DockerWait{Container: "other"}},
			{Network: &brokerapi.DockerNetwork{Name: "other", Remove: true}},
		} {
			if err := d.ask(r, nil); wire.CodeOf(err) != wire.CodeNotFound {
				d.Errorf("%+v: got %v", r, err)
			}
		}
		for _, name := range []string{"other", "a b", ""} {
			if err := d.ask(brokerapi.Docker{Network: &brokerapi.DockerNetwork{Name: name}}, nil); err == nil {
				d.Errorf("the network is named %q", name)
			}
		}
		if err := d.ask(brokerapi.Docker{}, nil); err == nil {
			d.Error("a request for nothing was carried out")
		}

		for i := len(list.Containers); i < maxDockerContainers; i++ {
			if _, err := d.create("oci/x serve"); err != nil {
				d.Error(err)
			}
		}
		if _, err := d.create("oci/x serve"); err == nil || !strings.HasPrefix(err.Error(), "the job has 64 containers") {
			d.Errorf("one too many: %v", err)
		}
	})
}

// TestDockerOnHost: where no worker runs in a guest, there is no docker.
func TestDockerOnHost(t *testing.T) {
	l := newLab(t)
	l.serve()
	if err := l.client.Docker(t.Context(), brokerapi.Docker{List: &struct{}{}}, nil, nil); err == nil {
		t.Error("the broker's own socket answers docker")
	}
}
