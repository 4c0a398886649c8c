package guests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/registry"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// alpineOnInternet starts a registry on the internet, where builds reach it, and
// returns the name of an image of it that has a shell.
func (l *lab) alpineOnInternet() string {
	l.Helper()
	shelf := registry.Serve(l.listenIn(l.makeInternet(), internetAddr+":5000"), l.TempDir(), l.dial)
	l.Cleanup(func() { _ = shelf.Close() })
	alpine, err := registry.Alpine()
	if err != nil {
		l.Fatal(err)
	}
	alpine, err = registry.Derive(alpine, func(c *v1.Config) { c.Env = append(c.Env, "FROM_BASE=yes") })
	if err != nil {
		l.Fatal(err)
	}
	name, err := shelf.Push(l.Context(), "alpine:3.22", alpine)
	if err != nil {
		l.Fatal(err)
	}
	return name
}

// TestDockerfile are D13 and D16 of the reference hooks: an action that comes as
// a Dockerfile is built, from an image of a registry on the internet, and run.
// Built once, it is not built again.
func TestDockerfile(t *testing.T) {
	l := newLab(t, "RUNNER_INSECURE_REGISTRIES="+internetAddr+":5000")
	base := l.alpineOnInternet()
	l.serveGitHub()
	l.inBoth(func(l *lab) {
		l.dockerfileAction(base, &miniworker.Container{Image: "debian:13"})
		l.noResidue()
	})
	l.run("NoContainer", func(l *lab) {
		l.place = inGuest
		l.dockerfileAction(base, nil)
		l.noResidue()
	})
}

// dockerfileAction runs an action of a Dockerfile in jobs with a container, or
// without one, in which case its files are made beside the worker.
func (l *lab) dockerfileAction(base string, container *miniworker.Container) {
	built := "in " + l.Name() // not what another test has built
	dockerfile := l.workDir() + "/repo/repo/action/Dockerfile"
	files := fmt.Sprintf(`mkdir action && cd action
cat >Dockerfile <<'END'
FROM %s
ENV BUILT="%s"
COPY entrypoint.sh /entrypoint.sh
RUN echo at-build-time >/made && chmod 755 /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
END
cat >entrypoint.sh <<'END'
#!/bin/sh
echo "$BUILT $FROM_BASE $INPUT_WHO $*"; cat /made; pwd; echo answer=42 >>$GITHUB_OUTPUT
END`, base, built)

	run := func(name string, before ...string) miniworker.JobResult {
		return l.job(miniworker.Job{Name: name, Container: container,
			Steps: []miniworker.Step{
				{Name: "checkout", Run: strings.Join(append([]string{files}, before...), "\n")},
				{Name: "action", Uses: &miniworker.Container{Dockerfile: dockerfile, Command: "one 'two words'"},
					Env: map[string]string{"INPUT_WHO": "Mona"}},
			}})
	}

	want := []string{built + " yes Mona one two words", "at-build-time", "/github/workspace"}
	first := run("first").Step("action")
	if n := len(first.Output); first.Conclusion != miniworker.Success || n < 3 ||
		!slices.Equal(first.Output[n-3:], want) || first.Outputs["answer"] != "42" {
		l.Fatalf("step %v", first)
	}
	if !strings.Contains(strings.Join(first.Output, "\n"), "STEP 4/5: RUN echo at-build-time") {
		l.Errorf("the build showed nothing of itself: %v", first)
	}
	if again := run("again").Step("action"); !slices.Equal(again.Output, want) {
		l.Errorf("want it not to be built again: %v", again)
	}

	changed := run("changed", "echo 'RUN exit 7' >>Dockerfile").Step("action")
	if changed.Exit != 125 || !strings.Contains(strings.Join(changed.Output, "\n"),
		`::error::cannot run container "__run": cannot build Dockerfile: buildah ended with status 7`) {
		l.Errorf("step %v", changed)
	}
}

// swapContext exchanges a file of the directory that is its first argument as soon
// as somebody opens or closes it, by its second: inotify(7) sees the broker's reads
// too, so that the moment is exact.
const swapContext = `
import ctypes, os, struct, sys
action, when = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init1(0)
mask = {"open": 0x20, "close": 0x10}[when]  # IN_OPEN, IN_CLOSE_NOWRITE
if libc.inotify_add_watch(watch, action.encode(), mask) < 0:
    sys.exit("no watch")
print("watching", flush=True)
while True:
    events = os.read(watch, 4096)
    while events:
        _, _, _, size = struct.unpack("iIII", events[:16])
        name = events[16:16+size].rstrip(b"\0").decode()
        events = events[16+size:]
        if name == "entrypoint.sh":
            os.rename("/var/lib/runner/work/poisoned.sh", action + "/entrypoint.sh")
            print("swapped", flush=True)
            sys.exit()
`

// TestBuildContextSwapped: a job exchanges the context of a Dockerfile action while
// the broker reads it. The next job that has the clean context gets a clean image.
func TestBuildContextSwapped(t *testing.T) {
	l := newLab(t, "RUNNER_INSECURE_REGISTRIES="+internetAddr+":5000")
	shelf := registry.Serve(l.listenIn(l.makeInternet(), internetAddr+":5000"), t.TempDir(), l.dial)
	defer shelf.Close()
	alpine, err := registry.Alpine()
	if err != nil {
		t.Fatal(err)
	}
	base, err := shelf.Push(t.Context(), "alpine:3.22", alpine)
	if err != nil {
		t.Fatal(err)
	}

	build := "hook " + quote(payload("run_container_step", map[string]any{
		"dockerfile": layout.WorkerWork + "/repo/repo/action/Dockerfile",
	}, "")) + " 2>&1 | grep -e clean -e poisoned -e error"
	for _, when := range []string{"open", "close"} {
		t.Run(when, func(t *testing.T) {
			l := l.with(t)
			checkout := hookScript + `mkdir action; printf 'FROM ` + base + `\nCOPY entrypoint.sh /entrypoint.sh\n` +
				`ENTRYPOINT ["sh", "/entrypoint.sh"]\n' >action/Dockerfile
				echo 'echo ` + when + ` clean' >action/entrypoint.sh
				`
			_, out := l.work(checkout + `echo 'echo ` + when + ` poisoned' >/var/lib/runner/work/poisoned.sh
				python3 -c ` + quote(swapContext) + ` $PWD/action ` + when + ` >/tmp/swap & sleep 0.5
				` + build + `
				cat /tmp/swap action/entrypoint.sh`)
			t.Logf("the first job:\n%s", out)
			if !strings.HasSuffix(out, "watching\nswapped\necho "+when+" poisoned") {
				t.Error("the context was not exchanged while the broker read it")
			}

			_, out = l.work(checkout + build)
			if want := when + " clean"; out != want {
				t.Errorf("the next job got %q, want %q", out, want)
			}
		})
	}
}
