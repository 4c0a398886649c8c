package broker

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/network"
)

func TestSettings(t *testing.T) {
	cfg := &config.Config{
		BaseRootfs: "/baked", ActionsRunnerDir: "/registration",
		Bind:   []config.Bind{{Source: "/rw", Target: "/in/rw"}},
		BindRO: []config.Bind{{Source: "/ro", Target: "/in/ro"}},
		Guests: config.Guests{
			Images: map[string]string{"debian:13": "/mine", "app": "/app"}, Insecure: []string{"registry.example"},
			Devices: []string{"/dev/kvm"}, Spare: true, KeepWork: true, KeepTools: true, Disk: 1 << 30, Timeout: time.Hour,
			Volumes: []string{"cache"},
		},
	}
	want := Settings{
		WorkRoot: "/work", JobsDir: "/jobs", Externals: "/externals", RunnerUID: 900, RunnerGID: 901, Base: "/baked",
		Images: map[string]string{
			"runner-base": "/baked", "debian:13": "/mine", "debian:13-slim": "/baked",
			"debian:trixie": "/baked", "debian:trixie-slim": "/baked", "app": "/app",
		},
		Bind: []HostBind{{Source: "/rw", Target: "/in/rw"}}, BindRO: []HostBind{{Source: "/ro", Target: "/in/ro"}},
		Devices: []string{"/dev/kvm"}, InsecureRegistries: []string{"registry.example"},
		Spare: true, KeepWork: true, Limits: JobLimits{Disk: 1 << 30, Time: time.Hour},
		Worker:  WorkerSettings{ActionsRunner: "/runner", Registration: "/registration", Logs: "/logs"},
		Tools:   ToolSettings{Baked: "/tools", Kept: "/kept"},
		Volumes: VolumeSettings{Kept: "/volumes", Names: []string{"cache"}},
	}
	h := Host{
		JobsDir: "/jobs", WorkRoot: "/work", Externals: "/externals", RunnerUID: 900, RunnerGID: 901,
		ActionsRunner: "/runner", WorkerLogs: "/logs", Tools: "/tools", KeptTools: "/kept", KeptVolumes: "/volumes",
	}
	if diff := cmp.Diff(want, h.settings(cfg)); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}

	cfg.Guests.KeepTools = false
	if got := h.settings(cfg).Tools; got != (ToolSettings{Baked: "/tools"}) {
		t.Errorf("got tools %+v, want none to be kept", got)
	}

	h.Base = "/flag"
	if got := h.settings(cfg); got.Base != "/flag" || got.Images["runner-base"] != "/flag" {
		t.Errorf("got base %s, image %s, want those of the command line", got.Base, got.Images["runner-base"])
	}
}

func TestUseSubnet(t *testing.T) {
	broken := errors.New("broken")
	overlap := fmt.Errorf("cannot use subnet: %w", network.ErrOverlap)
	defaults := []string{"172.29.0.0/16", "172.30.0.0/16", "172.28.0.0/16", "172.27.0.0/16", "10.213.0.0/16"}
	for _, test := range []struct {
		summary    string
		configured string
		results    map[string]error // of the tried subnets; nil for others
		tried      []string
		want       error
		fix        string // end of the message
	}{
		{summary: "the first is free", tried: defaults[:1]},
		{
			summary: "the third is free", tried: defaults[:3],
			results: map[string]error{defaults[0]: overlap, defaults[1]: overlap},
		},
		{
			summary: "none is free", tried: defaults, want: network.ErrOverlap, fix: "; set RUNNER_GUEST_SUBNET",
			results: map[string]error{
				defaults[0]: overlap, defaults[1]: overlap, defaults[2]: overlap, defaults[3]: overlap, defaults[4]: overlap,
			},
		},
		{
			summary: "another error", tried: defaults[:2], want: broken,
			results: map[string]error{defaults[0]: overlap, defaults[1]: broken},
		},
		{summary: "configured", configured: "10.1.0.0/16", tried: []string{"10.1.0.0/16"}},
		{
			summary: "configured and not free", configured: "10.1.0.0/16", tried: []string{"10.1.0.0/16"},
			results: map[string]error{"10.1.0.0/16": overlap},
			want:    network.ErrOverlap, fix: "; choose another in RUNNER_GUEST_SUBNET",
		},
		{
			summary: "configured, another error", configured: "10.1.0.0/16", tried: []string{"10.1.0.0/16"},
			results: map[string]error{"10.1.0.0/16": broken}, want: broken,
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var configured netip.Prefix
			if test.configured != "" {
				configured = netip.MustParsePrefix(test.configured)
			}

			var tried []string
			err := useSubnet(configured, func(subnet netip.Prefix) error {
				tried = append(tried, subnet.String())
				return test.results[subnet.String()]
			})
			if !errors.Is(err, test.want) || (err != nil && !strings.HasSuffix(err.Error(), test.fix)) {
				t.Errorf("got %v, want %v%s", err, test.want, test.fix)
			}
			if !slices.Equal(tried, test.tried) {
				t.Errorf("tried %q, want %q", tried, test.tried)
			}
		})
	}
}

func TestInstance(t *testing.T) {
	a, b := Host{JobsDir: "/a"}.instance(), Host{JobsDir: "/b"}.instance()
	if a == b || len(a) != 8 || a != (Host{JobsDir: "/a", Socket: "/s"}).instance() {
		t.Errorf("got %s and %s, want two names that depend on the directory alone", a, b)
	}
}

func TestDefaultMemory(t *testing.T) {
	if memory, err := defaultMemory(); err != nil || memory < 1<<20 {
		t.Errorf("got %d, %v", memory, err)
	}
}

func TestListen(t *testing.T) {
	h := Host{Socket: filepath.Join(t.TempDir(), "socket"), RunnerGID: os.Getgid()}
	if os.Getuid() != 0 {
		t.Skip("only root can make the socket root's")
	}
	for range 2 { // the second time there is a socket that nobody listens on
		l, err := h.listen()
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(h.Socket); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("got %v, %v, want a socket for root and the runner's group", info, err)
		}
		defer l.Close()
	}
	h.Socket = filepath.Join(h.Socket, "beneath")
	if _, err := h.listen(); err == nil || !strings.HasPrefix(err.Error(), "cannot listen: ") {
		t.Errorf("got %v", err)
	}
	h.Socket = ""
	if _, err := h.listen(); err == nil || !strings.HasSuffix(err.Error(), "give --socket") {
		t.Errorf("got %v", err)
	}
}

func TestEnterPrivateMountsOnce(t *testing.T) {
	t.Setenv(privateMark, "1")
	if err := EnterPrivateMounts(); err != nil {
		t.Error(err)
	}
	if _, ok := os.LookupEnv(privateMark); ok {
		t.Error("guests would inherit the mark")
	}
}
