package broker

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guest"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// TestOptions: what options ask for reaches the guest and its processes.
func TestOptions(t *testing.T) {
	l := newLab(t)
	if err := os.MkdirAll(filepath.Join(l.dir, "image/etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "image/etc/group"), []byte("adm:x:4:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var process guestapi.Process
	l.guests.onExec = func(_ context.Context, _ *fakeGuest, p guestapi.Process, _ wire.Streams) (int, error) {
		process = p
		return 0, nil
	}
	l.serve()

	var progress bytes.Buffer
	reply, err := l.client.Prepare(t.Context(), brokerapi.PrepareRequest{Container: &brokerapi.Container{
		Image: "oci/app", Ports: []string{"80"},
		Options: "--cpu-shares 2 --cpuset-cpus 0 --ulimit memlock=-1 --ulimit nofile=1:2 --read-only --restart always " +
			"--hostname a --domainname b.test --dns 192.0.2.1 --dns-search c.test --dns-opt rotate --sysctl net.x.y=1 " +
			"--group-add adm --group-add 7 --security-opt no-new-privileges -v named:/v --mount type=volume,target=/own -p 81",
	}}, &progress)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.exec(reply.Job, "true"); err != nil {
		t.Fatal(err)
	}

	const notice = "container: options: option --restart always has no effect"
	if !strings.Contains(progress.String(), notice) {
		t.Errorf("the client was told %q, want %q", &progress, notice)
	}
	if len(reply.Container.Ports) != 2 {
		t.Errorf("published are %v", reply.Container.Ports)
	}
	g := l.guests.all()[0]
	if want := (guest.Limits{CPUWeight: 1, CPUSet: "0"}); g.spec.Limits != want || g.spec.Memlock != math.MaxUint64 {
		t.Errorf("the guest has %+v, want %+v and no limit of locked memory", g.spec, want)
	}

	config, binds := g.configured()
	for name, want := range map[string]string{
		"/etc/resolv.conf": "nameserver 192.0.2.1\nsearch c.test\noptions rotate\n", "/etc/hosts": "\ta.b.test a\n",
	} {
		if !strings.HasSuffix(config.Files[name], want) {
			t.Errorf("%s is %q, want %q", name, config.Files[name], want)
		}
	}
	if config.Domainname != "b.test" || !config.ReadOnlyRoot || config.Sysctls["net.x.y"] != "1" {
		t.Errorf("the guest is configured with %+v", config)
	}
	if !slices.Equal(binds, []string{"/v"}) || !slices.Contains(config.Dirs, "/own") {
		t.Errorf("the guest shows %q and has %q", binds, config.Dirs)
	}

	limits := []guestapi.Rlimit{
		{Resource: unix.RLIMIT_MEMLOCK, Soft: math.MaxUint64, Hard: math.MaxUint64},
		{Resource: unix.RLIMIT_NOFILE, Soft: 1, Hard: 2},
	}
	if diff := cmp.Diff(limits, process.Rlimits); diff != "" || !process.NoNewPrivileges {
		t.Errorf("a process is %+v", process)
	}
	if !slices.Equal(process.Groups, []uint32{4, 7}) {
		t.Errorf("a process has the groups %d", process.Groups)
	}
}

// TestOptionsOfThisJob: some options are refused only here.
func TestOptionsOfThisJob(t *testing.T) {
	l := newLab(t)
	l.serve()
	for _, test := range []struct{ image, options, want string }{
		{image: base, options: "--read-only", want: "container: options: option --read-only is not supported " +
			"for a guest that boots systemd; remove it"},
		{image: "oci/app", options: "--add-host a:host-gateway", want: "container: options: option --add-host: " +
			"host-gateway is not supported where steps run on the host, which guests cannot reach; " +
			"write an address, or make it a service of the job"},
		{image: "oci/app", options: "--group-add nobody", want: `cannot find group "nobody": the image has no such group`},
	} {
		c := &brokerapi.Container{Image: test.image, Options: test.options}
		_, err := l.client.Prepare(t.Context(), brokerapi.PrepareRequest{Container: c}, &bytes.Buffer{})
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.options, err, test.want)
		}
	}
}
