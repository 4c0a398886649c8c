package dockeropts

import (
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	text := func(s string) *string { return &s }
	tests := []struct {
		line string
		want Options
	}{
		{"", Options{}},
		{" \t\n", Options{}},
		{"--init --rm --init=true --rm=false --no-healthcheck=false", Options{}},

		{"--cpus 1", Options{CPUs: 1}},
		{"--cpus=.5", Options{CPUs: 0.5}},
		{"--cpus 0", Options{}},
		{"--cpus 0.01", Options{CPUs: 0.01}},
		{"--cpus 1 --cpus 2", Options{CPUs: 2}},

		{"-m 6m", Options{Memory: 6 << 20}},
		{"-m2g", Options{Memory: 2 << 30}},
		{"-m=2G", Options{Memory: 2 << 30}},
		{"--memory=1.5gb", Options{Memory: 3 << 29}},
		{"--memory 4GiB", Options{Memory: 4 << 30}},
		{"--memory 1024t", Options{Memory: 1 << 50}},
		{"--memory 1125899906842623b", Options{Memory: 1<<50 - 1}},
		{"--memory 0", Options{}},
		{"--shm-size 1", Options{ShmSize: 1}},
		{"--shm-size 64k", Options{ShmSize: 64 << 10}},

		{"--pids-limit 512", Options{PidsLimit: 512}},
		{"--pids-limit -1", Options{}},
		{"--pids-limit=0", Options{}},

		{"-e A=1 -eB=2 --env C=x=y --env=D= -e A=3", Options{Env: map[string]string{"A": "3", "B": "2", "C": "x=y", "D": ""}}},
		{`-e 'A=it is "so"' -e "B=$HOME ` + "`x`" + ` \\ ü"`, Options{Env: map[string]string{"A": `it is "so"`, "B": "$HOME `x` \\ ü"}}},

		{"-h db", Options{Hostname: "db"}},
		{"--hostname DB-1.test.example", Options{Hostname: "DB-1.test.example"}},
		{"--hostname " + strings.Repeat("a", 63), Options{Hostname: strings.Repeat("a", 63)}},
		{"--name my_db --network-alias db --network-alias my_db --network-alias db.example", Options{Aliases: []string{"my_db", "db", "db.example"}}},
		{"--add-host a:192.0.2.1 --add-host b=192.0.2.2", Options{AddHosts: []HostEntry{{"a", "192.0.2.1"}, {"b", "192.0.2.2"}}}},
		{"--add-host a.example:2001:DB8::1 --add-host b:[::1] --add-host a.example=::2",
			Options{AddHosts: []HostEntry{{"a.example", "2001:db8::1"}, {"b", "::1"}, {"a.example", "::2"}}}},

		{"-u root", Options{User: "root"}},
		{"--user 1001:123", Options{User: "1001:123"}},
		{"--user postgres:65535", Options{User: "postgres:65535"}},
		{"-w /a/../b//c/", Options{Workdir: "/b/c"}},
		{"--entrypoint /bin/sh", Options{Entrypoint: text("/bin/sh")}},
		{"--entrypoint ''", Options{Entrypoint: text("")}},
		{"--entrypoint=", Options{Entrypoint: text("")}},

		{"--tmpfs /run", Options{Tmpfs: []Tmpfs{{Path: "/run", Mode: 0o1777}}}},
		{"--tmpfs /a/:size=64m,mode=755,ro,exec,nosuid,nodev --tmpfs=/b:ro,rw,exec,noexec,mode=0",
			Options{Tmpfs: []Tmpfs{{Path: "/a", Size: 64 << 20, Mode: 0o755, ReadOnly: true, Exec: true}, {Path: "/b"}}}},

		{"--cap-drop net_raw --cap-drop CAP_SYS_TIME --cap-drop cap_net_raw", Options{CapDrop: []string{"NET_RAW", "SYS_TIME"}}},
		{"--cap-drop all", Options{CapDrop: []string{"ALL"}}},
		{"--cap-add SYS_PTRACE --cap-add cap_net_admin --cap-add NET_ADMIN", Options{CapAdd: []string{"SYS_PTRACE", "NET_ADMIN"}}},
		{"--cap-add KILL --cap-drop KILL", Options{CapAdd: []string{"KILL"}}},
		{"--cap-drop KILL --cap-drop CHOWN --cap-add KILL", Options{CapAdd: []string{"KILL"}, CapDrop: []string{"CHOWN"}}},

		{"--device /dev/kvm", Options{Devices: []Device{{"/dev/kvm", "/dev/kvm"}}}},
		{"--device=/dev/kvm:rwm --device /dev/snd/seq:/dev/seq --device /dev/a:/dev/b:rw",
			Options{Devices: []Device{{"/dev/kvm", "/dev/kvm"}, {"/dev/snd/seq", "/dev/seq"}, {"/dev/a", "/dev/b"}}}},

		{`--health-cmd "pg_isready -U 'x'" --health-interval 10s --health-timeout=1m30s --health-retries 5 --health-start-period 0 --health-start-interval 1ms`,
			Options{Health: Health{Cmd: "pg_isready -U 'x'", Interval: 10 * time.Second, Timeout: 90 * time.Second, Retries: 5, StartInterval: time.Millisecond}}},
		{"--health-start-period 24h --health-cmd -test.v", Options{Health: Health{Cmd: "-test.v", StartPeriod: 24 * time.Hour}}},
		{"--no-healthcheck", Options{Health: Health{Disabled: true}}},
		{"--no-healthcheck=1", Options{Health: Health{Disabled: true}}},
	}
	for _, tt := range tests {
		got, err := Parse(tt.line)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("Parse(%q) is\n%+v, %v; want\n%+v", tt.line, got, err, tt.want)
			continue
		}
		checkOptions(t, got)
	}
}

func TestParseDropsAllButTheAdded(t *testing.T) {
	o, err := Parse("--cap-add CHOWN --cap-drop ALL --cap-add KILL")
	if err != nil {
		t.Fatal(err)
	}
	if len(o.CapDrop) != 25 || slices.Contains(o.CapDrop, "CHOWN") || slices.Contains(o.CapDrop, "KILL") || slices.Contains(o.CapDrop, "ALL") {
		t.Errorf("dropped are %q", o.CapDrop)
	}
}

func TestParseErrors(t *testing.T) {
	long := strings.Repeat("x", 300)
	tests := []struct{ line, want string }{
		{"--cpus", "option --cpus has no value; write --cpus=VALUE"},
		{"-m", "option --memory has no value; write --memory=VALUE"},
		{"--foo", "option --foo is unknown; docs/containers.md lists what is supported"},
		{"--foo=bar", "option --foo is unknown; docs/containers.md lists what is supported"},
		{"--init --label x", "option --label is unknown; docs/containers.md lists what is supported"},
		{"--Memory 2g", "option --Memory is unknown; docs/containers.md lists what is supported"},
		{"---memory 2g", `option "---memory" is unknown; docs/containers.md lists what is supported`},
		{"--=x", `option "--" is unknown; docs/containers.md lists what is supported`},
		{"-x", "option -x is unknown; docs/containers.md lists what is supported"},
		{"-é=1", `option "-é" is unknown; docs/containers.md lists what is supported`},
		{"'--a\n::error::b'", `option "--a\n::error::b" is unknown; docs/containers.md lists what is supported`},
		{"--" + long, `option "--` + long[:78] + `" is unknown; docs/containers.md lists what is supported`},
		{"redis:7", `"redis:7" is no option; remove it, or quote the value it belongs to`},
		{"--cpus 1 --init false", `"false" is no option; remove it, or quote the value it belongs to`},
		{"''", `"" is no option; remove it, or quote the value it belongs to`},
		{"-", `"-" is no option; remove it, or quote the value it belongs to`},
		{"--", `"--" is no option; remove it, or quote the value it belongs to`},
		{long, `"` + long[:80] + `" is no option; remove it, or quote the value it belongs to`},
		{"--init=maybe", `option --init: "maybe" is neither true nor false; write --init`},
		{"--rm=", `option --rm: "" is neither true nor false; write --rm`},
		{"--env 'A=b", "the options have a quote without its end; add it, or put a backslash before the quote"},
		{`--env A=b\`, "the options end in a backslash; remove it"},
		{"--env A=\x00", "the options hold bytes that are NUL or no UTF-8; remove them"},
		{"--env A=\xff", "the options hold bytes that are NUL or no UTF-8; remove them"},

		{"--privileged", "option --privileged is not supported: a guest is root of its own user namespace already; remove it"},
		{"--privileged=false", "option --privileged is not supported: a guest is root of its own user namespace already; remove it"},
		{"--network host", "option --network is not supported: the containers of a job share a network of their own; remove it"},
		{"--net=host", "option --net is not supported: the containers of a job share a network of their own; remove it"},
		{"--pid host", "option --pid is not supported: a guest has namespaces of its own; remove it"},
		{"--ipc=host", "option --ipc is not supported: a guest has namespaces of its own; remove it"},
		{"--uts host", "option --uts is not supported: a guest has namespaces of its own; remove it"},
		{"--userns host", "option --userns is not supported: a guest has namespaces of its own; remove it"},
		{"--cgroupns host", "option --cgroupns is not supported: a guest has namespaces of its own; remove it"},
		{"--security-opt seccomp=unconfined", "option --security-opt is not supported: all guests are confined alike; remove it"},
		{"-v /a:/b", "option --volume is not supported: a guest sees what the workflow says elsewhere; use `volumes:`"},
		{"-v/a:/b", "option --volume is not supported: a guest sees what the workflow says elsewhere; use `volumes:`"},
		{"--volume /a:/b", "option --volume is not supported: a guest sees what the workflow says elsewhere; use `volumes:`"},
		{"--mount type=bind", "option --mount is not supported: a guest sees what the workflow says elsewhere; use `volumes:`"},
		{"--volumes-from x", "option --volumes-from is not supported: a guest sees what the workflow says elsewhere; use `volumes:`"},
		{"-p 80:80", "option --publish is not supported: ports are what the workflow says elsewhere; use `ports:`"},
		{"--publish 80", "option --publish is not supported: ports are what the workflow says elsewhere; use `ports:`"},
		{"-P", "option --publish-all is not supported: ports are what the workflow says elsewhere; use `ports:`"},
		{"--link db", "option --link is not supported: the containers of a job reach each other by name already; remove it, and use --network-alias for another name"},
		{"--restart always", "option --restart is not supported: a service that ends is not started again; remove it"},
		{"--gpus all", "option --gpus is not supported: a guest has no driver for it; remove it, or use --device for a device that config.env allows"},
		{"--runtime runsc", "option --runtime is not supported: guests are started by systemd-nspawn(1) alone; remove it"},
		{"--cgroup-parent /x", "option --cgroup-parent is not supported: a guest's cgroup is the machine's to choose; remove it, and use --cpus, --memory and --pids-limit for limits"},
		{"--sysctl a=b", "option --sysctl is not supported: the kernel's settings are the machine's; remove it"},
		{"--ulimit nofile=1", "option --ulimit is not supported: a process inherits the limits of its guest; remove it, or use ulimit in the step's shell"},
		{"--dns 192.0.2.1", "option --dns is not supported: a guest asks the machine's name servers; remove it, or name single hosts with --add-host"},
		{"--dns-search a", "option --dns-search is not supported: a guest asks the machine's name servers; remove it, or name single hosts with --add-host"},
		{"--env-file x", "option --env-file is not supported: no file of the machine is read; write `env:` or --env NAME=VALUE"},
		{"-it", "option --interactive is not supported: the runner reads and writes what a container does by itself; remove it"},
		{"--tty", "option --tty is not supported: the runner reads and writes what a container does by itself; remove it"},
		{"-d", "option --detach is not supported: the runner reads and writes what a container does by itself; remove it"},
		{"-test.v", "option --tty is not supported: the runner reads and writes what a container does by itself; remove it"},
		{"--help", "option --help is unknown; docs/containers.md lists what is supported"},

		{"--cpus x", `option --cpus: "x" is no number from 0.01 to 4096; write for example 1.5`},
		{"--cpus 0.009", `option --cpus: "0.009" is no number from 0.01 to 4096; write for example 1.5`},
		{"--cpus -1", `option --cpus: "-1" is no number from 0.01 to 4096; write for example 1.5`},
		{"--cpus 4096.1", `option --cpus: "4096.1" is no number from 0.01 to 4096; write for example 1.5`},
		{"--cpus NaN", `option --cpus: "NaN" is no number from 0.01 to 4096; write for example 1.5`},
		{"--cpus=", `option --cpus: "" is no number from 0.01 to 4096; write for example 1.5`},
		{"-m 5m", `option --memory: "5m" is no size from 6m to 1024t; write for example 2g`},
		{"-m -1", `option --memory: "-1" is no size from 6m to 1024t; write for example 2g`},
		{"-m 0.5", `option --memory: "0.5" is no size from 6m to 1024t; write for example 2g`},
		{"-m 1025t", `option --memory: "1025t" is no size from 6m to 1024t; write for example 2g`},
		{"-m '2 g'", `option --memory: "2 g" is no size from 6m to 1024t; write for example 2g`},
		{"-m 9999999999999999t", `option --memory: "9999999999999999t" is no size from 6m to 1024t; write for example 2g`},
		{"-m " + long, `option --memory: "` + long[:80] + `" is no size from 6m to 1024t; write for example 2g`},
		{"--memory --cpus 1", `option --memory: "--cpus" is no size from 6m to 1024t; write for example 2g`},
		{"--shm-size 0", `option --shm-size: "0" is no size from 1 to 1024t; write for example 1g`},
		{"--pids-limit many", `option --pids-limit: "many" is no number from 1 to 4194304, nor -1 for no limit; write for example 512`},
		{"--pids-limit -2", `option --pids-limit: "-2" is no number from 1 to 4194304, nor -1 for no limit; write for example 512`},
		{"--pids-limit 4194305", `option --pids-limit: "4194305" is no number from 1 to 4194304, nor -1 for no limit; write for example 512`},
		{"-e TOKEN", `option --env: "TOKEN" has no value, and the machine's own are not handed on; write "TOKEN=VALUE"`},
		{"-e =secret", "option --env: the name is empty; write NAME=VALUE"},
		{"-e ''", "option --env: the name is empty; write NAME=VALUE"},
		{"-h a_b", `option --hostname: "a_b" is no host name; write letters, digits and inner hyphens, 63 at most`},
		{"-h -a", `option --hostname: "-a" is no host name; write letters, digits and inner hyphens, 63 at most`},
		{"-h a..b", `option --hostname: "a..b" is no host name; write letters, digits and inner hyphens, 63 at most`},
		{"--hostname=", `option --hostname: "" is no host name; write letters, digits and inner hyphens, 63 at most`},
		{"-h " + long[:64], `option --hostname: "` + long[:64] + `" is no host name; write letters, digits and inner hyphens, 63 at most`},
		{"--name 'a b'", `option --name: "a b" is no name; write letters, digits, hyphens and underscores`},
		{"--network-alias 'a\nb'", `option --network-alias: "a\nb" is no name; write letters, digits, hyphens and underscores`},
		{"--network-alias " + long[:64], `option --network-alias: "` + long[:64] + `" is no name; write letters, digits, hyphens and underscores`},
		{"--name " + strings.Repeat("a.", 126) + "aa", `option --name: "` + strings.Repeat("a.", 40) + `" is no name; write letters, digits, hyphens and underscores`},
		{"--add-host a", `option --add-host: "a" is no NAME:ADDRESS; write for example db.example:192.0.2.1`},
		{"--add-host :192.0.2.1", `option --add-host: ":192.0.2.1" is no NAME:ADDRESS; write for example db.example:192.0.2.1`},
		{"--add-host a:b", `option --add-host: "b" is no IPv4 or IPv6 address; write for example a:192.0.2.1`},
		{"--add-host a:fe80::1%eth0", `option --add-host: "fe80::1%eth0" is no IPv4 or IPv6 address; write for example a:192.0.2.1`},
		{"--add-host a:host-gateway", "option --add-host: host-gateway is not supported: a guest does not reach the machine; write an address, or make it a service of the job"},
		{"--user 65536", `option --user: "65536" is no USER, UID, USER:GROUP or UID:GID with numbers to 65535; write for example 1000:1000`},
		{"--user :1", `option --user: ":1" is no USER, UID, USER:GROUP or UID:GID with numbers to 65535; write for example 1000:1000`},
		{"--user 1:", `option --user: "1:" is no USER, UID, USER:GROUP or UID:GID with numbers to 65535; write for example 1000:1000`},
		{"--user 1:2:3", `option --user: "1:2:3" is no USER, UID, USER:GROUP or UID:GID with numbers to 65535; write for example 1000:1000`},
		{"--user -1", `option --user: "-1" is no USER, UID, USER:GROUP or UID:GID with numbers to 65535; write for example 1000:1000`},
		{"-w work", `option --workdir: "work" is no absolute path; write for example /work`},
		{"--tmpfs run", `option --tmpfs: "run" is no absolute path beneath /; write for example /run:size=64m`},
		{"--tmpfs /a/..", `option --tmpfs: "/a/.." is no absolute path beneath /; write for example /run:size=64m`},
		{"--tmpfs /run:", `option --tmpfs: "" is unknown; write size=SIZE, mode=OCTAL, ro, rw, exec, noexec, nosuid or nodev`},
		{"--tmpfs /run:uid=1", `option --tmpfs: "uid=1" is unknown; write size=SIZE, mode=OCTAL, ro, rw, exec, noexec, nosuid or nodev`},
		{"--tmpfs /run:ro=1", `option --tmpfs: "ro=1" is unknown; write size=SIZE, mode=OCTAL, ro, rw, exec, noexec, nosuid or nodev`},
		{"--tmpfs /run:size=50%", `option --tmpfs: "50%" is no size from 1 to 1024t; write for example size=64m`},
		{"--tmpfs /run:mode=rwx", `option --tmpfs: "rwx" is no octal mode; write for example mode=1777`},
		{"--tmpfs /run:mode=10000", `option --tmpfs: "10000" is no octal mode; write for example mode=1777`},
		{"--cap-drop NET", `option --cap-drop: "NET" is no capability; write one of capabilities(7), for example NET_RAW`},
		{"--cap-drop KILL,CHOWN", `option --cap-drop: "KILL,CHOWN" is no capability; write one of capabilities(7), for example NET_RAW`},
		{"--cap-add SYS_TIME", "option --cap-add: SYS_TIME is more than a guest may have, see systemd-nspawn(1); remove it"},
		{"--cap-add all", "option --cap-add: ALL is more than a guest may have, see systemd-nspawn(1); remove it"},
		{"--cap-add ''", `option --cap-add: "" is no capability; write one of capabilities(7), for example NET_RAW`},
		{"--device kvm", `option --device: "kvm" is no /dev/HOST or /dev/HOST:/dev/GUEST; write for example /dev/kvm`},
		{"--device /dev", `option --device: "/dev" is no /dev/HOST or /dev/HOST:/dev/GUEST; write for example /dev/kvm`},
		{"--device /dev/../etc/shadow", `option --device: "/dev/../etc/shadow" is no /dev/HOST or /dev/HOST:/dev/GUEST; write for example /dev/kvm`},
		{"--device /dev/kvm:/etc/x", `option --device: "/dev/kvm:/etc/x" is no /dev/HOST or /dev/HOST:/dev/GUEST; write for example /dev/kvm`},
		{"--device /dev/a:/dev/b:rw:m", `option --device: "/dev/a:/dev/b:rw:m" is no /dev/HOST or /dev/HOST:/dev/GUEST; write for example /dev/kvm`},
		{"--device /dev/a:r", `option --device: "r" is no access that can be given: a guest reads and writes its devices; leave it out`},
		{"--health-cmd ''", "option --health-cmd: the command is empty; write one, or use --no-healthcheck"},
		{"--health-interval 10", `option --health-interval: "10" is no time from 1ms to 24h; write for example 10s or 1m30s`},
		{"--health-timeout -1s", `option --health-timeout: "-1s" is no time from 1ms to 24h; write for example 10s or 1m30s`},
		{"--health-start-period 25h", `option --health-start-period: "25h" is no time from 1ms to 24h; write for example 10s or 1m30s`},
		{"--health-start-interval 1us", `option --health-start-interval: "1us" is no time from 1ms to 24h; write for example 10s or 1m30s`},
		{"--health-retries -1", `option --health-retries: "-1" is no number from 0 to 1000; write for example 5`},
		{"--no-healthcheck --health-cmd true", "option --no-healthcheck contradicts the other options --health-...; remove it or them"},
		{"--health-retries 3 --no-healthcheck", "option --no-healthcheck contradicts the other options --health-...; remove it or them"},
	}
	for _, tt := range tests {
		got, err := Parse(tt.line)
		if err == nil || err.Error() != tt.want || !reflect.DeepEqual(got, Options{}) {
			t.Errorf("Parse(%.99q) is %+v,\n%v; want\n%s", tt.line, got, err, tt.want)
		}
	}
}

func TestTmpfs(t *testing.T) {
	tests := []struct{ value, flags, data string }{
		{"/run", "nosuid nodev noexec", "mode=1777"},
		{"/run:exec,size=1k", "nosuid nodev", "mode=1777,size=1024"},
		{"/run:ro,mode=0", "nosuid nodev noexec ro", "mode=0"},
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

func TestCapabilities(t *testing.T) {
	all := slices.Concat(guestCapabilities(), otherCapabilities())
	slices.Sort(all)
	if n := len(slices.Compact(all)); n != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d capabilities are known; want %d", n, unix.CAP_LAST_CAP+1)
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
	var o Options
	names := slices.AppendSeq(slices.Collect(maps.Keys(o.valued())), maps.Keys(o.switches()))
	slices.Sort(names)
	return names
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{
		"--cpus 1 -m2g --pids-limit=-1 -e 'A=b c' -h db --name x --network-alias y", "--add-host a:::1 -u 1:2 -w /x --entrypoint ''",
		"--tmpfs /run:size=64m,mode=1777,ro --shm-size 1.5g --cap-drop ALL --cap-add KILL --device /dev/kvm:/dev/x:rwm",
		"--health-cmd 'a b' --health-interval 10s --health-retries 3 --init --rm=true", "--no-healthcheck", "--privileged", "-test.x", "redis",
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
		check(err == nil && name(h.Name), "AddHosts")
	}
	check(o.User == "" || regexp.MustCompile(`^[\w.-]+(:[\w.-]+)?$`).MatchString(o.User), "User")
	check(o.Workdir == "" || path.IsAbs(o.Workdir) && path.Clean(o.Workdir) == o.Workdir, "Workdir")
	for _, m := range o.Tmpfs {
		check(path.IsAbs(m.Path) && path.Clean(m.Path) == m.Path && m.Path != "/" && size(m.Size) && m.Mode <= 0o7777, "Tmpfs")
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
	check(o.Health.Retries >= 0 && o.Health.Retries <= 1000 && (!o.Health.Disabled || o.Health == Health{Disabled: true}), "Health")
	checkTravels(t, o)
}

// checkTravels tells whether options are the same behind the broker's socket.
func checkTravels(t *testing.T, o Options) {
	t.Helper()
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var again Options
	if err := json.Unmarshal(data, &again); err != nil || !reflect.DeepEqual(o, again) {
		t.Errorf("%s becomes %+v, %v; want %+v", data, again, err, o)
	}
}
