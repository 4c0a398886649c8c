package guests

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/appliance"
	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/qemu"
)

// imageAll has TestHooksInImage run the whole suite, as ci/test-slow does.
var imageAll = flag.Bool("image.all", false, "run the whole hook suite in the booted image, not its brief part")

// How long the machine of TestHooksInImage may take under software emulation, on a
// host that may have other things to do.
const (
	imagePatience    = 15 * time.Minute
	imageJobPatience = 2 * time.Minute
)

// imageRegistryAddr is where the machine reaches the registry of this process.
const imageRegistryAddr = "10.0.2.101:5000"

// imageShare is the directory of the appliance that jobs see as /share.
const imageShare = "/var/lib/share"

// TestHooksInImage runs the hook suite on an appliance that booted the baked image:
// the jobs go the whole way from GitHub's queue to the listener and on.
func TestHooksInImage(t *testing.T) {
	l, s := bootImage(t)
	for _, test := range hookTests {
		if !test.brief && !*imageAll {
			continue
		}
		start := time.Now()
		l.run(test.summary, func(l *lab) {
			test.test(l, s)
			l.noResidue()
		})
		t.Logf("%s took %v", test.summary, time.Since(start).Round(time.Second/10))
	}
}

// bootImage boots the baked image until its runner is online, or skips the test
// where there is none, and fills a registry that the appliance reaches.
func bootImage(t *testing.T) (*lab, *shelf) {
	t.Helper()
	image := os.Getenv("MKAPPLIANCE_TEST_IMAGE")
	if image == "" || os.Getenv("MKAPPLIANCE_TEST_BASE") == "" {
		t.Skip("MKAPPLIANCE_TEST_IMAGE names no baked image, or MKAPPLIANCE_TEST_BASE no guest base tree: " +
			"run it through 'make test'")
	}
	program, err := filepath.Abs("../../bin/mkappliance")
	if err != nil {
		t.Fatal(err)
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	registryOnHost := listener.Addr().String()
	l := &lab{T: t, place: inImage}
	s := l.fillShelf(renamedListener{listener}, func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, registryOnHost)
	})

	// The suite asks for more than jobs of the other tests of an appliance may have.
	ctx, cancel := context.WithTimeout(t.Context(), imagePatience)
	t.Cleanup(cancel)
	l.machine, err = appliance.New(ctx, t.TempDir(), image, program, appliance.Options{
		Config: []string{
			"RUNNER_INSECURE_REGISTRIES=" + imageRegistryAddr, "RUNNER_NSPAWN_BIND=" + imageShare + ":/share",
			"RUNNER_JOB_MEMORY=4G", "RUNNER_JOB_PIDS=1000",
		},
		Forwards: []qemu.GuestForward{appliance.Forward(imageRegistryAddr, registryOnHost)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.closeImage)
	if err := errors.Join(l.machine.Boot(ctx), l.machine.WaitSSH(ctx)); err != nil {
		t.Fatal(err)
	}

	// The runner starts once it is registered, after this directory.
	l.inMachine("install -d -o runner -g runner " + imageShare)
	if err := errors.Join(l.machine.GitHubUp(), l.machine.GitHub.WaitOnline(ctx, 1)); err != nil {
		t.Fatal(err)
	}
	return l, s
}

// closeImage switches the machine off, after a look at why a test failed.
func (l *lab) closeImage() {
	if l.Failed() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.Context()), time.Minute)
		defer cancel()
		l.Log(l.machine.Evidence(ctx))
	}
	if err := l.machine.Close(); err != nil {
		l.Error(err)
	}
}

// renamedListener goes by the address at which the machine reaches it.
type renamedListener struct{ net.Listener }

func (renamedListener) Addr() net.Addr { return renamedAddr{} }

type renamedAddr struct{}

func (renamedAddr) Network() string { return "tcp" }
func (renamedAddr) String() string  { return imageRegistryAddr }

// inMachine runs a script as root on the appliance and returns its output.
func (l *lab) inMachine(script string) string {
	l.Helper()
	out, err := l.machine.SSH(l.Context(), script)
	if err != nil {
		l.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// jobInImage queues a job at GitHub and waits for its end.
func (l *lab) jobInImage(job miniworker.Job) miniworker.JobResult {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), imageJobPatience)
	defer cancel()
	start := time.Now()
	result, err := l.machine.GitHub.Wait(ctx, l.machine.GitHub.Enqueue(job))
	if err != nil {
		l.Fatalf("job %q: %v", job.Name, err)
	}
	l.Logf("job %q took %v", job.Name, time.Since(start).Round(time.Second/10))
	return result
}

// noResidueInImage is noResidue for the appliance.
func (l *lab) noResidueInImage() {
	l.Helper()
	left, err := l.machine.Leftovers(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	if left != "" {
		l.Errorf("the job left behind:\n%s", left)
	}
}

// secretNotInImage: a secret is neither in the files of jobs nor in the journal.
func (l *lab) secretNotInImage(secret string) {
	l.Helper()
	found := l.inMachine(fmt.Sprintf("grep -rl %s %s %s; journalctl -b --no-pager -u 'runner*' | grep %[1]s; true",
		secret, layout.OCIImages, layout.Jobs))
	if found != "" {
		l.Errorf("the secret is in\n%s", found)
	}
}

// share returns the directory that guests have at /share.
func (l *lab) share() string {
	if l.place == inImage {
		return imageShare
	}
	return l.path("share")
}

// writeShared writes a file for guests to see.
func (l *lab) writeShared(name, content string) {
	l.Helper()
	if l.place == inImage {
		l.inMachine("printf %s " + quote(content) + " >" + filepath.Join(l.share(), name))
		return
	}
	if err := os.WriteFile(filepath.Join(l.share(), name), []byte(content), 0o644); err != nil {
		l.Fatal(err)
	}
}

// sharedWithRunner: a file that a guest wrote belongs to the runner.
func (l *lab) sharedWithRunner(name string) {
	l.Helper()
	file := filepath.Join(l.share(), name)
	if l.place == inImage {
		if owner := l.inMachine("stat -c %U " + file); owner != "runner" {
			l.Errorf("%s belongs to %s, want the runner", file, owner)
		}
		return
	}
	info, err := os.Stat(file)
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != runnerID {
		l.Errorf("%s: %v, %v; want it the runner's", file, info, err)
	}
}
