package broker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// newBuild writes a Dockerfile and returns the request that runs its image.
func newBuild(l *lab) brokerapi.ContainerRequest {
	l.Helper()
	dir := filepath.Join(l.settings.WorkRoot, "_actions/o/a/v1")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		l.Fatal(err)
	}
	dockerfile := filepath.Join(dir, "Dockerfile")
	if err := os.WriteFile(dockerfile, []byte("FROM scratch\n"), 0o644); err != nil {
		l.Fatal(err)
	}
	return brokerapi.ContainerRequest{
		Container: brokerapi.Container{Args: []string{"true"}},
		Build:     &brokerapi.Build{Dockerfile: dockerfile},
	}
}

// isBuild reports whether a process builds an image.
func isBuild(p guestapi.Process) bool {
	return len(p.Argv) > 2 && strings.Contains(p.Argv[2], "buildah")
}

// leaveArchive does what buildah does in a guest: it leaves an archive in the
// volume of the build's job.
func leaveArchive(l *lab) error {
	outputs, err := filepath.Glob(filepath.Join(l.settings.JobsDir, "v-*/output"))
	if err != nil || len(outputs) != 1 {
		return &wire.Error{Message: "there is no volume"}
	}
	return os.WriteFile(filepath.Join(outputs[0], "image.tar"), []byte("archive"), 0o644)
}

// TestBuild builds an image, and finds it when it is asked for again.
func TestBuild(t *testing.T) {
	l := newLab(t)
	l.settings.InsecureRegistries = []string{"registry.example"}
	builds := 0
	var env []string
	l.guests.onExec = func(_ context.Context, g *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
		if !isBuild(p) {
			return 0, nil
		}
		builds++
		env = p.Env
		config, _ := g.configured()
		_, _ = io.WriteString(s.Stdout, config.Files["/etc/containers/registries.conf"])
		return 0, leaveArchive(l)
	}
	l.serve()

	r := newBuild(l)
	for i := range 2 {
		var stdout bytes.Buffer
		status, err := l.client.Container(t.Context(), r, wire.Streams{Stdout: &stdout})
		if status != 0 || err != nil {
			t.Fatalf("got %d, %v", status, err)
		}
		if first := strings.Contains(stdout.String(), `"registry.example"`); first != (i == 0) {
			t.Errorf("call %d printed\n%s", i, &stdout)
		}
		l.checkNothingLeft()
	}

	if builds != 1 || len(l.images.built) != 1 || l.images.released != 2 {
		t.Errorf("%d builds, %d images, %d releases, want 1, 1, 2", builds, len(l.images.built), l.images.released)
	}
	for key, content := range l.images.built {
		if !strings.HasPrefix(key, "dockerfile ") || content != "archive" {
			t.Errorf("kept %q as %q", content, key)
		}
	}
	if want := "HOME=/root PATH=" + layout.Path; strings.Join(env, " ") != want {
		t.Errorf("built with %q, want %s", env, want)
	}
	build, step := l.guests.all()[0].spec, l.guests.all()[1].spec
	if build.Tree != l.settings.Base || step.Tree != l.images.tree {
		t.Errorf("built in %s, ran in %s", build.Tree, step.Tree)
	}
}

// TestBuildInJob builds for a job whose worker runs in a guest: from the job's own
// work directory, by the guest's path of it.
func TestBuildInJob(t *testing.T) {
	l := newLab(t)
	outside := newBuild(l).Build.Dockerfile
	l.guests.onExec = func(ctx context.Context, _ *fakeGuest, p guestapi.Process, _ wire.Streams) (int, error) {
		switch {
		case isBuild(p):
			return 0, leaveArchive(l)
		case !p.InputFD:
			return 9, nil // the built image
		}

		work, err := filepath.Glob(filepath.Join(l.settings.JobsDir, "w-*/work"))
		if err != nil || len(work) != 1 {
			return 0, fmt.Errorf("found %q, %w", work, err)
		}
		if err := os.WriteFile(filepath.Join(work[0], "Dockerfile"), []byte("FROM scratch\n"), 0o644); err != nil {
			return 0, err
		}
		r := brokerapi.ContainerRequest{Container: brokerapi.Container{Args: []string{"true"}}}
		r.Build = &brokerapi.Build{Dockerfile: layout.WorkerWork + "/Dockerfile"}
		if status, err := l.hook().Container(ctx, r, wire.Streams{}); status != 9 || err != nil {
			t.Errorf("got status %d, %v", status, err)
		}

		for _, path := range []string{outside, filepath.Join(work[0], "Dockerfile"), "/etc/passwd"} {
			r.Build.Dockerfile = path
			if _, err := l.hook().Container(ctx, r, wire.Streams{}); err == nil {
				t.Errorf("%s of the host was built", path)
			}
		}
		return 100, nil
	}
	l.serve()
	l.mustWork(nil)
}

func TestBuildFails(t *testing.T) {
	for _, test := range []struct {
		summary string
		build   func(l *lab) (int, error)
		change  func(l *lab, r *brokerapi.ContainerRequest)
		want    string
	}{{
		summary: "buildah",
		build:   func(*lab) (int, error) { return 125, nil },
		want:    "cannot build Dockerfile: buildah ended with status 125",
	}, {
		summary: "no buildah",
		build:   func(*lab) (int, error) { return 0, &wire.Error{Message: "cannot start process"} },
		want:    "cannot build Dockerfile: cannot start process",
	}, {
		summary: "no archive",
		build:   func(*lab) (int, error) { return 0, nil },
		want:    "cannot build Dockerfile: cannot read the built image: ",
	}, {
		summary: "Dockerfile elsewhere",
		change:  func(_ *lab, r *brokerapi.ContainerRequest) { r.Build.Dockerfile = "/etc/passwd" },
		want:    "cannot build passwd: it does not lie beneath the work root",
	}, {
		summary: "a guest that cannot be stopped",
		build:   func(l *lab) (int, error) { return 0, leaveArchive(l) },
		change: func(l *lab, _ *brokerapi.ContainerRequest) {
			l.leaves = true
			failed := false
			l.guests.onStop = func(*fakeGuest) error {
				if failed {
					return nil
				}
				failed = true
				return &wire.Error{Message: "cannot end the processes of a guest"}
			}
		},
		want: "cannot build Dockerfile: cannot end the processes of a guest",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			l.guests.onExec = func(_ context.Context, _ *fakeGuest, p guestapi.Process, _ wire.Streams) (int, error) {
				if isBuild(p) {
					return test.build(l)
				}
				return 0, nil
			}
			r := newBuild(l)
			if test.change != nil {
				test.change(l, &r)
			}
			l.serve()
			_, err := l.client.Container(t.Context(), r, wire.Streams{})
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if l.images.inUse != 0 {
				t.Errorf("%d images are in use", l.images.inUse)
			}
		})
	}
}

// TestHostileGuest has a guest that answers with frames that no agent sends. A
// build once indexed an exit frame without looking at its length, which ended the
// root broker.
func TestHostileGuest(t *testing.T) {
	for _, test := range []struct {
		summary string
		answer  func(c *wire.Conn)
		want    string
	}{
		{
			summary: "an empty exit frame", answer: func(c *wire.Conn) { _ = c.Send(wire.Exit, nil) },
			want: "unexpected frame 'x'",
		},
		{
			summary: "an exit frame of two bytes", answer: func(c *wire.Conn) { _ = c.Send(wire.Exit, []byte{0, 0}) },
			want: "unexpected frame 'x'",
		},
		{
			summary: "another conversation", answer: func(c *wire.Conn) { _ = c.SendJSON(wire.Reply, 1) },
			want: "unexpected frame 'r'",
		},
		{summary: "its end", answer: func(*wire.Conn) {}, want: "the guest ended or was ended: EOF"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			l.guests.onExec = func(ctx context.Context, _ *fakeGuest, p guestapi.Process, s wire.Streams) (int, error) {
				near, far := net.Pipe()
				go func() {
					defer far.Close()
					c := wire.NewConn(far, wire.MaxRequest)
					if kind, _, err := c.Receive(); err == nil && kind == wire.Request {
						test.answer(c)
					}
				}()
				agent := wire.Peer{Name: "the guest", MaxFrame: wire.MaxData}
				return agent.Exec(ctx, near, guestapi.Request{Exec: &p}, s)
			}
			l.serve()
			job := l.prepare(ownContainer()).Job

			_, execErr := l.exec(job, "true")
			_, buildErr := l.client.Container(t.Context(), newBuild(l), wire.Streams{})
			for _, err := range []error{execErr, buildErr} {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want an error with %q", err, test.want)
				}
			}
			if err := l.client.Cleanup(t.Context(), job); err != nil {
				t.Errorf("the broker is not well: %v", err)
			}
		})
	}
}
