package config

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestGuests(t *testing.T) {
	c, _, err := Parse("config.env", []byte(`RUNNER_GUEST_SUBNET=10.200.0.0/16
RUNNER_GUEST_ALLOW="10.1.2.3 10.4.0.0/16"
RUNNER_IMAGES="builder:1=/srv/builder x=/srv/x"
RUNNER_INSECURE_REGISTRIES=registry.lan:5000
RUNNER_IMAGE_CACHE=5G
RUNNER_NSPAWN_DEVICES="/dev/kvm /dev/dri/card0"
RUNNER_SPARE_GUEST=false
RUNNER_KEEP_WORK=true
RUNNER_TOOL_CACHE_WRITABLE=true
RUNNER_VOLUMES="npm-cache go.mod_1"
RUNNER_JOB_MEMORY=512M
RUNNER_JOB_DISK=1T
RUNNER_JOB_PIDS=1000
RUNNER_JOB_CPUS=1.5
RUNNER_JOB_TIMEOUT_S=3600
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Guests{
		Subnet:     netip.MustParsePrefix("10.200.0.0/16"),
		Allow:      []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("10.4.0.0/16")},
		Images:     map[string]string{"builder:1": "/srv/builder", "x": "/srv/x"},
		Insecure:   []string{"registry.lan:5000"},
		ImageCache: 5 << 30,
		Devices:    []string{"/dev/kvm", "/dev/dri/card0"},
		KeepWork:   true,
		KeepTools:  true,
		Volumes:    []string{"npm-cache", "go.mod_1"},
		Memory:     512 << 20,
		Pids:       1000,
		CPUs:       1.5,
		Disk:       1 << 40,
		Timeout:    time.Hour,
	}
	if diff := cmp.Diff(want, c.Guests, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
