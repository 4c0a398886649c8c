package dockeropts

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/golden"
)

func TestParse(t *testing.T) {
	text := func(s string) *string { return &s }
	tests := []struct {
		line string
		want Options
	}{
		{line: "", want: Options{}},
		{line: " \t\n", want: Options{}},
		{line: "--init --rm --init=true --rm=false --no-healthcheck=false", want: Options{}},

		{line: "--cpus 1", want: Options{CPUs: 1}},
		{line: "--cpus=.5", want: Options{CPUs: 0.5}},
		{line: "--cpus 0", want: Options{}},
		{line: "--cpus 0.01", want: Options{CPUs: 0.01}},
		{line: "--cpus 1 --cpus 2", want: Options{CPUs: 2}},

		{line: "-m 6m", want: Options{Memory: 6 << 20}},
		{line: "-m2g", want: Options{Memory: 2 << 30}},
		{line: "-m=2G", want: Options{Memory: 2 << 30}},
		{line: "--memory=1.5gb", want: Options{Memory: 3 << 29}},
		{line: "--memory 4GiB", want: Options{Memory: 4 << 30}},
		{line: "--memory '4 g'", want: Options{Memory: 4 << 30}},
		{line: "--memory 1024t", want: Options{Memory: 1 << 50}},
		{line: "--memory 1125899906842623b", want: Options{Memory: 1<<50 - 1}},
		{line: "--memory 0", want: Options{}},
		{line: "--shm-size 1", want: Options{ShmSize: 1}},
		{line: "--shm-size 64k", want: Options{ShmSize: 64 << 10}},

		{line: "--pids-limit 512", want: Options{PidsLimit: 512}},
		{line: "--pids-limit -1", want: Options{}},
		{line: "--pids-limit=0", want: Options{}},

		{
			line: "-e A=1 -eB=2 --env C=x=y --env=D= -e A=3",
			want: Options{Env: map[string]string{"A": "3", "B": "2", "C": "x=y", "D": ""}},
		},
		{
			line: `-e 'A=it is "so"' -e "B=$HOME ` + "`x`" + ` \\ ü"`,
			want: Options{Env: map[string]string{"A": `it is "so"`, "B": "$HOME `x` \\ ü"}},
		},

		{line: "-h db", want: Options{Hostname: "db"}},
		{line: "--hostname DB-1.test.example", want: Options{Hostname: "DB-1.test.example"}},
		{line: "--hostname " + strings.Repeat("a", 63), want: Options{Hostname: strings.Repeat("a", 63)}},
		{
			line: "--name my_db --network-alias db --network-alias my_db --network-alias db.example",
			want: Options{Aliases: []string{"my_db", "db", "db.example"}},
		},
		{
			line: "--add-host a:192.0.2.1 --add-host b=192.0.2.2",
			want: Options{AddHosts: []HostEntry{{Name: "a", Address: "192.0.2.1"}, {Name: "b", Address: "192.0.2.2"}}},
		},
		{
			line: "--add-host a.example:2001:DB8::1 --add-host b:[::1] --add-host a.example=::2",
			want: Options{AddHosts: []HostEntry{
				{Name: "a.example", Address: "2001:db8::1"},
				{Name: "b", Address: "::1"},
				{Name: "a.example", Address: "::2"},
			}},
		},

		{line: "-u root", want: Options{User: "root"}},
		{line: "--user 1001:123", want: Options{User: "1001:123"}},
		{line: "--user postgres:65535", want: Options{User: "postgres:65535"}},
		{line: "-w /a/../b//c/", want: Options{Workdir: "/b/c"}},
		{line: "--entrypoint /bin/sh", want: Options{Entrypoint: text("/bin/sh")}},
		{line: "--entrypoint ''", want: Options{Entrypoint: text("")}},
		{line: "--entrypoint=", want: Options{Entrypoint: text("")}},

		{line: "--tmpfs /run", want: Options{Tmpfs: []Tmpfs{{Path: "/run", Mode: 0o1777}}}},
		{
			line: "--tmpfs /a/:size=64m,mode=755,ro,exec,nosuid,nodev --tmpfs=/b:ro,rw,exec,noexec,mode=0",
			want: Options{Tmpfs: []Tmpfs{{Path: "/a", Size: 64 << 20, Mode: 0o755, ReadOnly: true, Exec: true}, {Path: "/b"}}},
		},

		{
			line: "--cap-drop net_raw --cap-drop CAP_SYS_TIME --cap-drop cap_net_raw",
			want: Options{CapDrop: []string{"NET_RAW", "SYS_TIME"}},
		},
		{line: "--cap-drop all", want: Options{CapDrop: []string{"ALL"}}},
		{
			line: "--cap-add SYS_PTRACE --cap-add cap_net_admin --cap-add NET_ADMIN",
			want: Options{CapAdd: []string{"SYS_PTRACE", "NET_ADMIN"}},
		},
		{line: "--cap-add KILL --cap-drop KILL", want: Options{CapAdd: []string{"KILL"}}},
		{
			line: "--cap-drop KILL --cap-drop CHOWN --cap-add KILL",
			want: Options{CapAdd: []string{"KILL"}, CapDrop: []string{"CHOWN"}},
		},

		{line: "--device /dev/kvm", want: Options{Devices: []Device{{Host: "/dev/kvm", Guest: "/dev/kvm"}}}},
		{
			line: "--device=/dev/kvm:rwm --device /dev/snd/seq:/dev/seq --device /dev/a:/dev/b:rw",
			want: Options{Devices: []Device{
				{Host: "/dev/kvm", Guest: "/dev/kvm"},
				{Host: "/dev/snd/seq", Guest: "/dev/seq"},
				{Host: "/dev/a", Guest: "/dev/b"},
			}},
		},

		{
			line: `--health-cmd "pg_isready -U 'x'" --health-interval 10s --health-timeout=1m30s --health-retries 5 ` +
				"--health-start-period 0 --health-start-interval 1ms",
			want: Options{Health: Health{Cmd: "pg_isready -U 'x'", Interval: 10 * time.Second, Timeout: 90 * time.Second,
				Retries: 5, StartInterval: time.Millisecond}},
		},
		{
			line: "--health-start-period 24h --health-cmd -test.v",
			want: Options{Health: Health{Cmd: "-test.v", StartPeriod: 24 * time.Hour}},
		},
		{line: "--no-healthcheck", want: Options{Health: Health{Disabled: true}}},
		{line: "--no-healthcheck=1", want: Options{Health: Health{Disabled: true}}},
	}
	for _, tt := range tests {
		got, err := Parse(tt.line)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.line, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("Parse(%q), -want +got:\n%s", tt.line, diff)
		}
		checkOptions(t, got)
	}
}

// TestParseFurther parses what is of little use to a job, but usual on the command
// lines that workflows copy.
func TestParseFurther(t *testing.T) {
	tests := []struct {
		line string
		want Options
	}{
		{line: "-it -ti --tty=false -i=true -qi", want: Options{}},
		{
			line: "-a stdout --attach stderr -l a=b --label c --annotation d --log-driver none --log-opt max-size=1",
			want: Options{},
		},
		{line: "--expose 80 --stop-signal SIGINT --stop-timeout 1 --disable-content-trust", want: Options{}},
		{line: "--platform linux --pull always --pull missing --restart no --isolation default", want: Options{}},
		{line: "--ipc private --ipc shareable --cgroupns private --uts '' --userns '' --runtime runc", want: Options{}},
		{line: "--security-opt apparmor=x --security-opt label=disable --security-opt seccomp=builtin", want: Options{}},
		{line: "--oom-score-adj 500", want: Options{}},

		{line: "--read-only", want: Options{ReadOnly: true}},
		{line: "--domainname example.test", want: Options{Domainname: "example.test"}},
		{line: "--group-add 1234 --group-add adm --group-add 1234", want: Options{Groups: []string{"1234", "adm"}}},
		{line: "--security-opt no-new-privileges", want: Options{NoNewPrivileges: true}},
		{line: "--security-opt no-new-privileges:true", want: Options{NoNewPrivileges: true}},
		{line: "--security-opt no-new-privileges --security-opt no-new-privileges=false", want: Options{}},

		{line: "-c 1024", want: Options{CPUWeight: 39}},
		{line: "--cpu-shares 2", want: Options{CPUWeight: 1}},
		{line: "--cpu-shares 262144", want: Options{CPUWeight: 10000}},
		{line: "--cpu-shares 512 --cpu-shares 0", want: Options{}},
		{line: "--cpuset-cpus 0-2,4", want: Options{CPUSet: "0-2,4"}},
		{line: "--cpu-quota 50000", want: Options{CPUs: 0.5}},
		{line: "--cpu-period 50000 --cpu-quota 100000", want: Options{CPUs: 2}},
		{line: "--cpu-period 50000 --cpu-quota -1 --cpus 1", want: Options{CPUs: 1}},

		{line: "--ulimit nofile=65536", want: Options{Ulimits: []Ulimit{{unix.RLIMIT_NOFILE, 65536, 65536}}}},
		{
			line: "--ulimit core=0 --ulimit memlock=-1:-1 --ulimit core=1:2",
			want: Options{Ulimits: []Ulimit{
				{unix.RLIMIT_CORE, 1, 2}, {unix.RLIMIT_MEMLOCK, math.MaxUint64, math.MaxUint64},
			}},
		},

		{
			line: "--dns 192.0.2.53 --dns 192.0.2.53 --dns-search a.test --dns-search . --dns-opt ndots:2 --dns-option rotate",
			want: Options{
				DNS: []string{"192.0.2.53"}, DNSSearch: []string{"a.test", "."}, DNSOptions: []string{"ndots:2", "rotate"},
			},
		},
		{
			line: "--sysctl net.core.somaxconn=1 --sysctl 'net.ipv4.ping_group_range=0 1' --sysctl net.core.somaxconn=2",
			want: Options{Sysctls: map[string]string{"net.core.somaxconn": "2", "net.ipv4.ping_group_range": "0 1"}},
		},
		{line: "--add-host a:host-gateway", want: Options{AddHosts: []HostEntry{{Name: "a", Gateway: true}}}},
		{
			line: "-p 8080:80 --publish 53/udp",
			want: Options{Ports: []Port{{8080, 80, "tcp"}, {0, 53, "udp"}}},
		},

		{
			line: "-v /a/../b/:/c/ -v cache_1.x:/d:ro --volume /e -v /f:/g:z,ro",
			want: Options{Volumes: []Volume{
				{Source: "/b", Target: "/c"}, {Name: "cache_1.x", Target: "/d", ReadOnly: true},
				{Target: "/e"}, {Source: "/f", Target: "/g", ReadOnly: true},
			}},
		},
		{
			line: "--mount type=bind,src=/a,dst=/b,readonly --mount source=c,target=/d,ro=false " +
				`--mount '"type=volume",destination=/e,volume-nocopy,consistency=cached'`,
			want: Options{Volumes: []Volume{
				{Source: "/a", Target: "/b", ReadOnly: true}, {Name: "c", Target: "/d"}, {Target: "/e"},
			}},
		},
		{
			line: "--mount type=tmpfs,target=/fast,tmpfs-size=1m,tmpfs-mode=700 --tmpfs /x:uid=1000,gid=5",
			want: Options{Tmpfs: []Tmpfs{
				{Path: "/fast", Size: 1 << 20, Mode: 0o700}, {Path: "/x", Mode: 0o1777, UID: 1000, GID: 5},
			}},
		},

		{line: "--cap-add ALL", want: Options{CapAdd: guestCapabilities()}},
		{line: "--cap-drop ALL --cap-add ALL", want: Options{CapAdd: guestCapabilities()}},
		{line: "--cap-drop ALL --cap-add SYS_TIME", want: Options{CapDrop: []string{"ALL"}}},
	}
	for _, tt := range tests {
		got, err := Parse(tt.line)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.line, err)
			continue
		}
		got.Notices = nil // see TestReviewed
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("Parse(%q), -want +got:\n%s", tt.line, diff)
		}
		checkOptions(t, got)
	}

	o, err := Parse("--cap-add ALL --cap-drop KILL")
	if err != nil || !slices.Equal(o.CapDrop, []string{"KILL"}) || len(o.CapAdd) != 26 {
		t.Errorf("all but KILL are %+v, %v", o, err)
	}
}

func TestParseDropsAllButTheAdded(t *testing.T) {
	o, err := Parse("--cap-add CHOWN --cap-drop ALL --cap-add KILL")
	if err != nil {
		t.Fatal(err)
	}
	kept := []string{"CHOWN", "KILL"}
	want := slices.DeleteFunc(guestCapabilities(), func(name string) bool { return slices.Contains(kept, name) })
	if len(want) != 25 || !slices.Equal(o.CapDrop, want) {
		t.Errorf("dropped are %q, want %q", o.CapDrop, want)
	}
}

// TestParseErrors holds the messages against testdata/errors.golden, which has
// each refused line and its message.
func TestParseErrors(t *testing.T) {
	long := strings.Repeat("x", 300)
	var got strings.Builder
	for _, line := range []string{
		"--cpus",
		"-m",
		"--foo",
		"--foo=bar",
		"--init --labels x",
		"--Memory 2g",
		"---memory 2g",
		"--=x",
		"-x",
		"-é=1",
		"'--a\n::error::b'",
		"--" + long,
		"redis:7",
		"--cpus 1 --init false",
		"''",
		"-",
		"--",
		long,
		"--init=maybe",
		"--rm=",
		"--env 'A=b",
		`--env A=b\`,
		"--env A=\x00",
		`--env A=$'\0'`,
		"--env A=\xff",

		"--privileged",
		"--privileged=false",
		"--network host",
		"--net=host",
		"--pid host",
		"--volumes-from x",
		"-P",
		"--link db",
		"--gpus all",
		"--runtime runsc",
		"--cgroup-parent /x",
		"--env-file x",
		"-d",
		"-test.v",
		"--help",

		"-itx",
		"-it=maybe",
		"--ipc container:x",
		"--ipc none",
		"--uts container:x",
		"--userns keep-id",
		"--cgroupns x",
		"--isolation hyperv",
		"--platform linux/s390x",
		"--platform windows/amd64",
		"--pull never",
		"--restart sometimes",
		"--restart on-failure:x",
		"--restart always:3",
		"--memory-swap many",
		"--memory-reservation -1",
		"--oom-score-adj 1001",
		"--security-opt seccomp=profile.json",
		"--security-opt no-new-privileges=maybe",
		"--security-opt credentialspec=x",
		"--ip 192.0.2.1",
		"--mac-address 02:42:ac:11:00:02",
		"--storage-opt size=10G",
		"--oom-kill-disable",
		"--cpuset-mems 0",

		"--ulimit nofile",
		"--ulimit nofile=2:1",
		"--ulimit files=1",
		"--ulimit nofile=-2",
		"--cpu-shares 1",
		"--cpuset-cpus ''",
		"--cpuset-cpus 1-0",
		"--cpuset-cpus 0,x",
		"--cpu-quota 999",
		"--cpu-period 999",
		"--cpus 1 --cpu-quota 50000",
		"--dns ::1",
		"--dns 192.0.2.1:53",
		"--dns-search 'a b'",
		"--dns-opt 'a\nb'",
		"--domainname a_b",
		"--sysctl net.core.somaxconn",
		"--sysctl net.core.somaxconn=",
		"--sysctl net/core/somaxconn=1",
		"--sysctl net..x=1",
		"--sysctl kernel.shmmax=1",
		"--publish 80:80:80",
		"--group-add 65536",
		"--group-add ''",

		"-v ''",
		"-v work",
		"-v :/data",
		"-v a:b",
		"-v ./a:/b",
		"-v a:/",
		"-v a:/b:c:d",
		"-v a:/b:rshared",
		"-v /var/run/docker.sock:/var/run/docker.sock",
		"-v /var/run/docker.sock:/docker.sock",
		"--mount ''",
		"--mount type=bind,source=a,target=/b",
		"--mount type=volume,source=/a,target=/b",
		"--mount type=image,target=/b",
		"--mount source=a",
		"--mount target=/b,readonly=maybe",
		"--mount target=/b,type=tmpfs,tmpfs-size=much",
		"--mount target=/b,bind-propagation=rshared",
		"--mount target=/b,volume-driver=nfs",
		`--mount 'target="/b'`,

		"--cpus x",
		"--cpus 0.009",
		"--cpus -1",
		"--cpus 4096.1",
		"--cpus NaN",
		"--cpus=",
		"-m 5m",
		"-m -1",
		"-m 0.5",
		"-m 1025t",
		"-m '2  g'", "-m 2gig", "-m 1e3x", "-m 1e30t", "-m inf", "-m 0x10",
		"-m 9999999999999999t",
		"-m " + long,
		"--memory --cpus 1",
		"--shm-size 0",
		"--pids-limit many",
		"--pids-limit -2",
		"--pids-limit 4194305",
		"-e TOKEN",
		"-e =secret",
		"-e ''",
		"-h a_b",
		"-h -a",
		"-h a..b",
		"--hostname=",
		"-h " + long[:64],
		"--name 'a b'",
		"--network-alias 'a\nb'",
		"--network-alias " + long[:64],
		"--name " + strings.Repeat("a.", 126) + "aa",
		"--add-host a",
		"--add-host :192.0.2.1",
		"--add-host a:b",
		"--add-host a:fe80::1%eth0",
		"--user 65536",
		"--user :1",
		"--user 1:",
		"--user 1:2:3",
		"--user -1",
		"-w work",
		"--tmpfs run",
		"--tmpfs /a/..",
		"--tmpfs /run:",
		"--tmpfs /run:ro=1",
		"--tmpfs /run:size=50%",
		"--tmpfs /run:mode=rwx",
		"--tmpfs /run:mode=10000",
		"--cap-drop NET",
		"--cap-drop KILL,CHOWN",
		"--cap-add ''",
		"--device kvm",
		"--device /dev",
		"--device /dev/../etc/shadow",
		"--device /dev/kvm:/etc/x",
		"--device /dev/a:/dev/b:rw:m",
		"--device /dev/a:r",
		"--health-cmd ''",
		"--health-interval 10",
		"--health-timeout -1s",
		"--health-start-period 25h",
		"--health-start-interval 1us",
		"--health-retries -1",
		"--no-healthcheck --health-cmd true",
		"--health-retries 3 --no-healthcheck",
	} {
		o, err := Parse(line)
		if err == nil || cmp.Diff(Options{}, o) != "" {
			t.Errorf("Parse(%.99q) returns %+v, %v; want an error alone", line, o, err)
		}
		fmt.Fprintf(&got, "%q\n\t%v\n", line, err)
	}
	golden.Check(t, "errors.golden", got.String())
}

func TestTmpfs(t *testing.T) {
	tests := []struct{ value, flags, data string }{
		{value: "/run", flags: "nosuid nodev noexec", data: "mode=1777"},
		{value: "/run:exec,size=1k", flags: "nosuid nodev", data: "mode=1777,size=1024"},
		{value: "/run:ro,mode=0", flags: "nosuid nodev noexec ro", data: "mode=0"},
	}
	for _, tt := range tests {
		o, err := Parse("--tmpfs " + tt.value)
		if err != nil {
			t.Fatal(err)
		}
		if flags := strings.Join(o.Tmpfs[0].Flags(), " "); flags != tt.flags || o.Tmpfs[0].Data() != tt.data {
			t.Errorf("%s is mounted with %q and %q; want %q and %q", tt.value, flags, o.Tmpfs[0].Data(), tt.flags, tt.data)
		}
	}
}

// TestCapabilities parses each name of capabilities(7).
func TestCapabilities(t *testing.T) {
	for c := capability.Cap(0); c <= unix.CAP_LAST_CAP; c++ {
		if name, err := parseCapability("cap_" + c.String()); err != nil || name != capabilityName(c) {
			t.Errorf("capability %d is parsed as %q, %v", c, name, err)
		}
	}
}

func TestNoOptionIsBothSupportedAndRefused(t *testing.T) {
	for _, name := range supported() {
		if reason := refusal(name); reason != "" {
			t.Errorf("%s is refused: %s", name, reason)
		}
	}
	for short, long := range longNames() {
		if !slices.Contains(supported(), long) && refusal(long) == "" {
			t.Errorf("%s is %s, which is unknown", short, long)
		}
	}
}

// TestDocumented holds the rows of the table of options against what is
// supported: each line that begins with "| `--".
func TestDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/containers.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `--.*? \\|").FindAllString(string(doc), -1) {
		documented = append(documented, regexp.MustCompile("--[a-z-]+").FindAllString(row, -1)...)
	}
	slices.Sort(documented)
	if want := supported(); !slices.Equal(documented, want) {
		t.Errorf("docs/containers.md lists\n%q; want\n%q", documented, want)
	}
}

// supported are the long names of the options that are not refused, in order.
func supported() []string {
	var p parser
	names := slices.AppendSeq(slices.Collect(maps.Keys(p.valued())), maps.Keys(p.switches()))
	slices.Sort(names)
	return names
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{
		"--cpus 1 -m2g --pids-limit=-1 -e 'A=b c' -h db --name x --network-alias y",
		"--add-host a:::1 -u 1:2 -w /x --entrypoint ''",
		"--tmpfs /run:size=64m,mode=1777,ro --shm-size 1.5g --cap-drop ALL --cap-add KILL --device /dev/kvm:/dev/x:rwm",
		"--health-cmd 'a b' --health-interval 10s --health-retries 3 --init --rm=true",
		"--no-healthcheck", "--privileged", "-test.x", "redis", "-itv a:/b --mount type=tmpfs,dst=/a",
		"--ulimit memlock=-1 --dns 192.0.2.1 --sysctl net.a=1 --security-opt no-new-privileges -p 1-2:3-4/udp",
		"--cpuset-cpus 0-1,3 --cpu-quota 5000 --cap-add ALL --restart always --group-add 5 --dns-opt a:1 --platform linux",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		o, err := Parse(line)
		if err != nil {
			if s := err.Error(); len(s) > 1200 || strings.ContainsAny(s, "\n\r\x00") {
				t.Errorf("Parse(%q) fails with %q", line, s)
			}
			return
		}
		checkOptions(t, o)
	})
}

// checkOptions holds options against what their documentation says.
func checkOptions(t *testing.T, o Options) {
	t.Helper()
	check := func(ok bool, what string) {
		t.Helper()
		if !ok {
			t.Errorf("%s is out of its bounds in %+v", what, o)
		}
	}
	size := func(n int64) bool { return n >= 0 && n <= 1<<50 }
	name := func(s string) bool { return s != "" && len(s) <= 253 && !strings.ContainsAny(s, " \t\n\r\v\f#:/\x00") }

	check(o.CPUs == 0 || o.CPUs >= 0.01 && o.CPUs <= 4096, "CPUs")
	check(o.Memory == 0 || o.Memory >= 6<<20 && size(o.Memory), "Memory")
	check(size(o.ShmSize), "ShmSize")
	check(o.PidsLimit >= 0 && o.PidsLimit <= 4194304, "PidsLimit")

	for k, v := range o.Env {
		check(k != "" && !strings.ContainsAny(k, "=\x00") && !strings.Contains(v, "\x00"), "Env")
	}
	check(o.Hostname == "" || name(o.Hostname) && len(o.Hostname) <= 63, "Hostname")
	for i, a := range o.Aliases {
		check(name(a) && !slices.Contains(o.Aliases[:i], a), "Aliases")
	}
	for _, h := range o.AddHosts {
		_, err := netip.ParseAddr(h.Address)
		check((err == nil) != h.Gateway && name(h.Name), "AddHosts")
	}

	check(o.User == "" || regexp.MustCompile(`^[\w.-]+(:[\w.-]+)?$`).MatchString(o.User), "User")
	check(o.Workdir == "" || path.IsAbs(o.Workdir) && path.Clean(o.Workdir) == o.Workdir, "Workdir")
	for _, m := range o.Tmpfs {
		check(path.IsAbs(m.Path) && path.Clean(m.Path) == m.Path && m.Path != "/", "Tmpfs")
		check(size(m.Size) && m.Mode <= 0o7777, "Tmpfs")
	}

	for _, c := range o.CapAdd {
		check(slices.Contains(guestCapabilities(), c) && !slices.Contains(o.CapDrop, c), "CapAdd")
	}
	for _, d := range o.Devices {
		for _, p := range []string{d.Host, d.Guest} {
			check(strings.HasPrefix(p, "/dev/") && path.Clean(p) == p && !strings.ContainsAny(p, ": \\\n"), "Devices")
		}
	}

	for _, d := range []time.Duration{o.Health.Interval, o.Health.Timeout, o.Health.StartPeriod, o.Health.StartInterval} {
		check(d == 0 || d >= time.Millisecond && d <= 24*time.Hour, "Health")
	}
	checkFurther(t, o)
	check(o.Health.Retries >= 0 && o.Health.Retries <= 1000, "Health")
	check(!o.Health.Disabled || o.Health == Health{Disabled: true}, "Health")
}

// checkFurther is checkOptions for what TestParseFurther parses.
func checkFurther(t *testing.T, o Options) {
	t.Helper()
	check := func(ok bool, what string) {
		t.Helper()
		if !ok {
			t.Errorf("%s is out of its bounds in %+v", what, o)
		}
	}
	check(o.CPUWeight <= 10000, "CPUWeight")
	check(o.CPUSet == "" || regexp.MustCompile(`^[0-9,-]+$`).MatchString(o.CPUSet), "CPUSet")
	for _, g := range o.Groups {
		check(regexp.MustCompile(`^[\w.-]+$`).MatchString(g), "Groups")
	}
	for _, line := range slices.Concat(o.DNS, o.DNSSearch, o.DNSOptions) {
		check(regexp.MustCompile(`^[\w.:-]+$`).MatchString(line), "DNS")
	}
	for k, v := range o.Sysctls {
		check(regexp.MustCompile(`^net(\.[\w-]+)+$`).MatchString(k) && v != "", "Sysctls")
	}

	for i, u := range o.Ulimits {
		check(u.Soft <= u.Hard && !slices.ContainsFunc(o.Ulimits[:i], func(before Ulimit) bool {
			return before.Resource == u.Resource
		}), "Ulimits")
	}
	for _, v := range o.Volumes {
		check(path.IsAbs(v.Target) && path.Clean(v.Target) == v.Target && v.Target != "/", "Volumes")
		check(v.Name == "" || v.Source == "" && v.Name == path.Base(v.Name), "Volumes")
		check(v.Source == "" || path.IsAbs(v.Source) && path.Clean(v.Source) == v.Source, "Volumes")
	}
	for _, p := range o.Ports {
		check(p.Container != 0 && (p.Protocol == "tcp" || p.Protocol == "udp"), "Ports")
	}
	for _, n := range o.Notices {
		check(len(n) < 400 && !strings.ContainsAny(n, "\n\r\x00"), "Notices")
	}
}
