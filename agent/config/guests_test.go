package config

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
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
		Subnet: netip.MustParsePrefix("10.200.0.0/16"), Allow: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("10.4.0.0/16")},
		Images: map[string]string{"builder:1": "/srv/builder", "x": "/srv/x"}, Insecure: []string{"registry.lan:5000"}, ImageCache: 5 << 30,
		KeepWork: true,
		Devices:  []string{"/dev/kvm", "/dev/dri/card0"},
		Memory:   512 << 20, Disk: 1 << 40, Pids: 1000, CPUs: 1.5, Timeout: time.Hour,
	}
	if !reflect.DeepEqual(c.Guests, want) {
		t.Errorf("got  %+v\nwant %+v", c.Guests, want)
	}
}

func TestBadGuests(t *testing.T) {
	for line, want := range map[string]string{
		"RUNNER_GUEST_SUBNET=10.0.0.0/8":      "RUNNER_GUEST_SUBNET is not an IPv4 network of 16 bits; write for example 172.29.0.0/16",
		"RUNNER_GUEST_SUBNET=10.1.2.0/16":     "RUNNER_GUEST_SUBNET is not an IPv4 network of 16 bits; write for example 172.29.0.0/16",
		"RUNNER_GUEST_SUBNET=fd00::/16":       "RUNNER_GUEST_SUBNET is not an IPv4 network of 16 bits; write for example 172.29.0.0/16",
		"RUNNER_GUEST_ALLOW=10.1.2.3/16":      "RUNNER_GUEST_ALLOW has an entry that is no IPv4 address or network; write for example 10.1.2.3 or 10.1.0.0/16",
		"RUNNER_GUEST_ALLOW=mirror.lan":       "RUNNER_GUEST_ALLOW has an entry that is no IPv4 address or network; write for example 10.1.2.3 or 10.1.0.0/16",
		"RUNNER_IMAGES=builder":               "RUNNER_IMAGES has an entry that is not NAME=TREE; write for example builder:1=/usr/lib/runner/builder",
		"RUNNER_IMAGES=builder=/":             "RUNNER_IMAGES has an entry that is not NAME=TREE; write for example builder:1=/usr/lib/runner/builder",
		`RUNNER_IMAGES="a=/a a=/b"`:           "RUNNER_IMAGES names a twice; keep one",
		"RUNNER_INSECURE_REGISTRIES=http://x": "RUNNER_INSECURE_REGISTRIES has an entry that is no HOST or HOST:PORT; write for example registry.example:5000",
		"RUNNER_IMAGE_CACHE=20":               "RUNNER_IMAGE_CACHE is not a size; write a whole number with K, M, G or T, such as 8G",
		"RUNNER_JOB_MEMORY=80%":               "RUNNER_JOB_MEMORY is not a size; write a whole number with K, M, G or T, such as 8G",
		"RUNNER_JOB_DISK=0G":                  "RUNNER_JOB_DISK is not a size of this world; write for example 8G",
		"RUNNER_JOB_DISK=999999999T":          "RUNNER_JOB_DISK is not a size of this world; write for example 8G",
		"RUNNER_NSPAWN_DEVICES=kvm":           "RUNNER_NSPAWN_DEVICES has an entry that is no path beneath /dev; write for example /dev/kvm",
		"RUNNER_NSPAWN_DEVICES=/dev/../etc":   "RUNNER_NSPAWN_DEVICES has an entry that is no path beneath /dev; write for example /dev/kvm",
		"RUNNER_SPARE_GUEST=yes":              "RUNNER_SPARE_GUEST is neither true nor false; write one of them",
		"RUNNER_JOB_PIDS=10":                  "RUNNER_JOB_PIDS is not a number from 64 to 4194304; write for example 16384",
		"RUNNER_JOB_CPUS=NaN":                 "RUNNER_JOB_CPUS is not a number from 0.1 to 4096; write for example 2 or 1.5",
		"RUNNER_JOB_CPUS=0":                   "RUNNER_JOB_CPUS is not a number from 0.1 to 4096; write for example 2 or 1.5",
		"RUNNER_JOB_TIMEOUT_S=1h":             "RUNNER_JOB_TIMEOUT_S is not a number of seconds from 1 to 2592000; write for example 21600",
	} {
		_, _, err := Parse("config.env", []byte(line+"\n"))
		if err == nil || err.Error() != "config.env:1: "+want {
			t.Errorf("%s\ngot  %v\nwant config.env:1: %s", line, err, want)
		}
	}
}
