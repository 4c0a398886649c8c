package broker

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// TestBinds opens mounts of requests in a work root, DIR/work, beside
// directories that root shows to guests: DIR/rw and DIR/ro.
func TestBinds(t *testing.T) {
	for _, test := range []struct {
		summary string
		mount   brokerapi.Mount // DIR stands for the directory
		source  string          // beneath DIR, of what is opened
		fixed   bool            // shown read only and as it is on disk
		hide    int             // directories that are hidden
		err     string          // part of the error, in place of all this
	}{
		{summary: "the work root", mount: brokerapi.Mount{Source: "DIR/work"}, source: "work", hide: 3},
		{summary: "a workspace that is new", mount: brokerapi.Mount{Source: "DIR/work/repo/repo"}, source: "work/repo/repo"},
		{summary: "a hidden directory", mount: brokerapi.Mount{Source: "DIR/work/_update"}, err: "belongs to the runner"},
		{
			summary: "a link in the work root", mount: brokerapi.Mount{Source: "DIR/work/link"},
			err: "cannot open link beneath",
		},
		{summary: "the node.js builds", mount: brokerapi.Mount{Externals: true}, source: "externals", fixed: true},
		{summary: "a volume", mount: brokerapi.Mount{Volume: "data"}, source: "jobs/v-1/data"},
		{summary: "a volume that outlives jobs, V47", mount: brokerapi.Mount{Volume: "cache"}, source: "kept/cache"},
		{summary: "a volume elsewhere", mount: brokerapi.Mount{Volume: "../x"}, err: "is not a name of a volume"},
		{summary: "a volume without a name", mount: brokerapi.Mount{Volume: ".."}, err: "not beneath"},
		{summary: "a host directory", mount: brokerapi.Mount{Source: "DIR/rw/new"}, source: "rw/new"},
		{summary: "a file of a host directory", mount: brokerapi.Mount{Source: "DIR/rw/file"}, source: "rw/file"},
		{
			summary: "a file to be read only, V38",
			mount:   brokerapi.Mount{Source: "DIR/ro/file"}, source: "ro/file", fixed: true,
		},
		{summary: "a file of the workspace, V43 and " +
			"X1", mount: brokerapi.Mount{Source: "DIR/work/file"}, source: "work/file"},
		{summary: "beneath a file", mount: brokerapi.Mount{Source: "DIR/work/file/x"}, err: "not a directory"},
		{summary: "neither file nor directory", mount: brokerapi.Mount{Source: "DIR/work/fifo"}, err: "not a directory"},
		{summary: "one to be read only", mount: brokerapi.Mount{Source: "DIR/ro/npm"}, source: "ro/npm", fixed: true},
		{summary: "one that does not exist", mount: brokerapi.Mount{Source: "DIR/ro/new"}, err: "no such file"},
		{
			summary: "a link in a host directory", mount: brokerapi.Mount{Source: "DIR/ro/link"},
			err: "cannot open link beneath",
		},
		{
			summary: "beside a host directory", mount: brokerapi.Mount{Source: "DIR/rose"},
			err: "RUNNER_NSPAWN_BIND_RO in config.env",
		},
		{summary: "out of a host directory", mount: brokerapi.Mount{Source: "DIR/ro/../x"}, err: "is not allowed"},
		{summary: "elsewhere on the host", mount: brokerapi.Mount{Source: "/etc"}, err: "volume /etc is not allowed"},
		{summary: "no source", mount: brokerapi.Mount{}, err: "the request names no source"},
		{
			summary: "a target that is relative", mount: brokerapi.Mount{Target: "x", Externals: true},
			err: "clean absolute path",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir, b := newBinder(t)
			m := test.mount
			m.Source = strings.ReplaceAll(m.Source, "DIR", dir)
			if m.Target == "" {
				m.Target = "/x"
			}

			binds, err := b.open(nil, []brokerapi.Mount{{Target: "/scratch", Scratch: true}, m})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || binds != nil {
					t.Errorf("got %v, %v, want an error with %q", binds, err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer closeBinds(binds)
			if len(binds) != 3 {
				t.Fatalf("got %d binds, want the settings' two and one", len(binds))
			}
			rw := guest.Bind{Target: "/rw", Owner: b.settings.RunnerUID, User: b.user}
			checkBind(t, binds[0], rw, filepath.Join(dir, "rw"))
			checkBind(t, binds[1], guest.Bind{Target: "/ro", ReadOnly: true}, filepath.Join(dir, "ro"))

			want := guest.Bind{Target: "/x", Owner: b.settings.RunnerUID, User: b.user}
			if test.fixed {
				want = guest.Bind{Target: "/x", ReadOnly: true}
			}
			checkBind(t, binds[2], want, filepath.Join(dir, test.source))
			if want := test.mount.Volume != ""; binds[2].Fill != want {
				t.Errorf("is filled from the image: %v, want %v", binds[2].Fill, want)
			}
			if len(binds[2].Hide) != test.hide {
				t.Errorf("hides %q, want %d directories", binds[2].Hide, test.hide)
			}
		})
	}
}

func checkBind(t *testing.T, got, want guest.Bind, source string) {
	t.Helper()
	if got.Target != want.Target || got.ReadOnly != want.ReadOnly || got.Owner != want.Owner || got.User != want.User {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got.Source.Name() != source {
		t.Errorf("%s shows %s, want %s", got.Target, got.Source.Name(), source)
	}
	if info, err := os.Stat(source); err != nil || info.IsDir() == (filepath.Base(source) == "file") {
		t.Errorf("%s is %v, %v", source, info, err)
	}
}

func newBinder(t *testing.T) (dir string, b binder) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"work", "externals", "rw", "ro/npm", "rose", "jobs"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"work/link", "ro/link"} {
		if err := os.Symlink("/etc", filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"work/file", "rw/file", "ro/file"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "work/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	settings := Settings{
		WorkRoot: filepath.Join(dir, "work"), Externals: filepath.Join(dir, "externals"),
		RunnerUID: os.Getuid(), RunnerGID: os.Getgid(),
		Bind:   []HostBind{{Source: filepath.Join(dir, "rw"), Target: "/rw"}},
		BindRO: []HostBind{{Source: filepath.Join(dir, "ro"), Target: "/ro"}},
	}
	settings.Volumes = VolumeSettings{Kept: filepath.Join(dir, "kept"), Names: []string{"cache"}}
	volumes := settings.root(filepath.Join(dir, "jobs/v-1"))
	return dir, binder{settings: settings, work: settings.workDir(), volumes: volumes, user: 1000}
}

func TestBindsOfSettings(t *testing.T) {
	_, b := newBinder(t)
	b.settings.BindRO[0].Source += "/missing"
	want := "cannot show " + b.settings.BindRO[0].Source
	if binds, err := b.open(nil, nil); err == nil || !strings.HasPrefix(err.Error(), want) || binds != nil {
		t.Errorf("got %v, %v", binds, err)
	}
}

// TestWorkDirOfJob: a job whose work directory has another path in its requests
// names nothing by the paths of the host, nor anything beside it.
func TestWorkDirOfJob(t *testing.T) {
	dir, b := newBinder(t)
	b.work.shown = "/in/work"
	for _, test := range []struct{ summary, source, want string }{
		{summary: "the work directory", source: "/in/work", want: "work"},
		{summary: "beneath it", source: "/in/work/repo/repo", want: "work/repo/repo"},
		{summary: "the path of the host", source: filepath.Join(dir, "work/repo")},
		{summary: "beside it", source: "/in/work/../x"},
		{summary: "begins alike", source: "/in/workshop"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			bind, err := b.openMount(brokerapi.Mount{Target: "/x", Source: test.source})
			if test.want == "" {
				if wire.CodeOf(err) != wire.CodeUnsupported {
					t.Errorf("got %v, want an error with code %q", err, wire.CodeUnsupported)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer bind.Source.Close()
			if got := bind.Source.Name(); got != filepath.Join(dir, test.want) {
				t.Errorf("opened %s, want %s", got, test.want)
			}
			if got, want := b.work.onHost(test.source), filepath.Join(dir, test.want); got != want {
				t.Errorf("onHost returned %s, want %s", got, want)
			}
		})
	}
}

// TestActionsRunnerIsReplaced: each guest sees the copy of the actions runner that the
// link leads to when it starts, and goes on to see that one.
func TestActionsRunnerIsReplaced(t *testing.T) {
	dir, b := newBinder(t)
	active := filepath.Join(dir, "active")
	b.settings.Externals = filepath.Join(active, "externals")
	show := []hostDir{{HostBind: HostBind{Source: filepath.Join(active, "bin"), Target: "/bin"}, readOnly: true}}

	var open []guest.Bind
	for _, version := range []string{"1", "2"} {
		for _, name := range []string{"bin", "externals"} {
			path := filepath.Join(dir, version, name, version)
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		_ = os.Remove(active)
		if err := os.Symlink(version, active); err != nil {
			t.Fatal(err)
		}
		binds, err := b.open(show, []brokerapi.Mount{{Target: "/__e", Externals: true}})
		if err != nil {
			t.Fatal(err)
		}
		defer closeBinds(binds)
		open = append(open, binds[len(binds)-2:]...)
	}

	var seen []string
	for _, bind := range open {
		names, err := bind.Source.Readdirnames(-1)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, names...)
	}
	if want := []string{"1", "1", "2", "2"}; !slices.Equal(seen, want) {
		t.Errorf("guests see %q, want %q", seen, want)
	}
}
