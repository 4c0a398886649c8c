package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/golden"
)

const token = "AABF3JGZDX3P5PMEXLND6TS6FCWO6"

func TestDefaults(t *testing.T) {
	const file = "RUNNER_GITHUB_URL=https://GitHub.com/acme/\nRUNNER_REGISTRATION_TOKEN=" + token + "\n"
	c, warnings, err := config.Parse("config.env", []byte(file))
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if err := c.CheckRegistration(); err != nil {
		t.Fatal(err)
	}

	want := config.Config{
		GitHubURL:        "https://github.com/acme",
		ActionsRunnerDir: "/var/lib/runner/actions-runner",
		HooksDir:         "/usr/local/lib/runner",
		Jobs:             config.JobsGuest,
		Containers:       config.ContainersHook,
		BaseRootfs:       "/usr/lib/runner/base",
		ReadyTimeout:     2 * time.Minute,
		Guests:           config.Guests{ImageCache: 20 << 30, Pids: 16384, Spare: true},
		Upgrade:          config.Upgrade{Channel: "stable", USB: true},
	}
	// The prefix of no subnet has no exported field to compare.
	others := cmpopts.IgnoreFields(config.Config{}, "Token", "Guests.Subnet")
	if diff := cmp.Diff(want, *c, others, cmpopts.IgnoreUnexported(config.Config{}, config.CACerts{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if c.Token.Reveal() != token || c.Guests.Subnet.IsValid() {
		t.Errorf("got another token, or the subnet %v", c.Guests.Subnet)
	}
}

func TestEverythingSet(t *testing.T) {
	const file = `# the appliance in rack 4
; both comment signs \
RUNNER_GITHUB_URL=http://ghes.example:8443/enterprises/big
RUNNER_REGISTRATION_TOKEN='` + token + `'
RUNNER_NAME="rack-4"
RUNNER_LABELS=gpu, \
  rack-4
RUNNER_GROUP=Night shift
RUNNER_ACTIONS_RUNNER_DIR=/srv/runner
RUNNER_HOOKS_DIR=/opt/hooks
RUNNER_JOBS=host
RUNNER_NSPAWN_BASE_ROOTFS=/srv/base
RUNNER_NSPAWN_READY_TIMEOUT_S=30
RUNNER_NSPAWN_BIND=/srv/cache:/cache /srv/ccache
RUNNER_NSPAWN_BIND_RO=
https_proxy=http://proxy.example:3128
RUNNER_UPGRADE_SOURCE=https://updates.example/runner
RUNNER_UPGRADE_CHANNEL=beta
RUNNER_UPGRADE_WINDOW=Sat 22:00-01:30
RUNNER_UPGRADE_USB=false
RUNNER_UPGRADE_ACTIONS_RUNNER=off
`

	c, warnings, err := config.Parse("config.env", []byte(file))
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	want := config.Config{
		GitHubURL:        "http://ghes.example:8443/enterprises/big",
		Name:             "rack-4",
		Labels:           []string{"gpu", "rack-4"},
		Group:            "Night shift",
		ActionsRunnerDir: "/srv/runner",
		HooksDir:         "/opt/hooks",
		Jobs:             config.JobsHost,
		Containers:       config.ContainersHook,
		BaseRootfs:       "/srv/base",
		ReadyTimeout:     30 * time.Second,
		Bind: []config.Bind{
			{Source: "/srv/cache", Target: "/cache"},
			{Source: "/srv/ccache", Target: "/srv/ccache"},
		},
		Upgrade: config.Upgrade{
			Source:  "https://updates.example/runner",
			Channel: "beta",
			Window:  config.Window{Days: []time.Weekday{time.Saturday}, From: 22 * time.Hour, Till: 90 * time.Minute},

			ActionsRunner: config.RenewOff,
		},
		Proxy: []string{"https_proxy=http://proxy.example:3128"},
	}
	guestsAndToken := cmpopts.IgnoreFields(config.Config{}, "Guests", "Token")
	unexported := cmpopts.IgnoreUnexported(config.Config{}, config.CACerts{})
	if diff := cmp.Diff(want, *c, guestsAndToken, unexported); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if c.Token.Reveal() != token {
		t.Error("the token is another one")
	}
}

// TestBadFiles compares what is wrong with a file with testdata/messages.txt.
func TestBadFiles(t *testing.T) {
	tests := []struct{ summary, file string }{
		{"no assignment", "# x\n\nRUNNER_GITHUB_URL https://github.com/acme\n"},
		{"token on a line of its own", token},
		{"no key", "=x"},
		{"export", "export RUNNER_NAME=a"},
		{"key with blank", "RUNNER_REGISTRATION_TOKEN " + token + "="},
		{"open quote", "RUNNER_NAME=a\nRUNNER_GROUP=\"night\nRUNNER_REGISTRATION_TOKEN=" + token + "\n"},
		{"lines joined by quote", "RUNNER_GROUP='night\nRUNNER_REGISTRATION_TOKEN=" + token + "'\n"},
		{"nul", "RUNNER_NAME=a\nRUNNER_\x00"},
		{"byte order mark", "\xef\xbb\xbfRUNNER_NAME=a"},
		{"not UTF-8", "RUNNER_GROUP=caf\xe9\n"},
		{"set twice", "RUNNER_NAME=a\nRUNNER_NAME=b\n"},
		{"typing error", "RUNNER_GITHUB_ULR=https://github.com/acme"},
		{"lower case", "runner_name=a"},
		{"unknown key", "RUNNER_FAVOURITE_COLOUR=a"},

		{"API host", "RUNNER_GITHUB_URL=https://api.github.com/repos/acme/x"},
		{"API of GHES", "RUNNER_GITHUB_URL=https://ghes.example/api/v3/"},
		{"no owner", "RUNNER_GITHUB_URL=https://github.com/"},
		{"too long", "RUNNER_GITHUB_URL=https://github.com/acme/x/settings/actions/runners/new"},
		{"no enterprise", "RUNNER_GITHUB_URL=https://github.com/enterprises"},
		{"clone address", "RUNNER_GITHUB_URL=https://github.com/acme/x.git"},
		{"ssh", "RUNNER_GITHUB_URL=ssh://git@github.com/acme"},
		{"no scheme", "RUNNER_GITHUB_URL=github.com/acme"},
		{"no host", "RUNNER_GITHUB_URL=https:///acme"},
		{"not a URL", "RUNNER_GITHUB_URL=https://github.com:port/acme"},
		{"credentials", "RUNNER_GITHUB_URL=https://me:" + token + "@github.com/acme"},
		{"query", "RUNNER_GITHUB_URL=https://github.com/acme?tab=runners"},
		{"odd owner", "RUNNER_GITHUB_URL=https://github.com/ac%20me"},

		{"personal access token", "\nRUNNER_REGISTRATION_TOKEN=ghp_" + token},
		{"fine-grained token", "RUNNER_REGISTRATION_TOKEN=github_pat_" + token},
		{"app token", "RUNNER_REGISTRATION_TOKEN=ghs_1_" + token},
		{"classic token", "RUNNER_REGISTRATION_TOKEN=" + strings.Repeat("0123456789abcdef", 3)[:40]},
		{"placeholder", "RUNNER_REGISTRATION_TOKEN=CHANGEME"},
		{"placeholder in brackets", "RUNNER_REGISTRATION_TOKEN='<token>'"},
		{"white space in token", "RUNNER_REGISTRATION_TOKEN=AABF3 JGZ"},
		{"letters no token has", "RUNNER_REGISTRATION_TOKEN=AABF3é"},

		{"name", "RUNNER_NAME=rack 4"},
		{"labels", "RUNNER_LABELS=a,,b"},
		{"time-out", "RUNNER_NSPAWN_READY_TIMEOUT_S=2m"},
		{"time-out zero", "RUNNER_NSPAWN_READY_TIMEOUT_S=0"},
		{"truth", "RUNNER_REQUIRE_JOB_CONTAINER=yes"},
		{"jobs", "RUNNER_JOBS=guests"},
		{"containers", "RUNNER_CONTAINERS=podman"},
		{"containers, contradicting", "RUNNER_JOBS=host\nRUNNER_CONTAINERS=docker"},
		{"jobs, contradicting", "RUNNER_JOBS=guest\nRUNNER_REQUIRE_JOB_CONTAINER=true\n"},
		{"jobs, contradicting in the other order", "RUNNER_REQUIRE_JOB_CONTAINER=false\nRUNNER_JOBS=container\n"},
		{"certificates, relative", "RUNNER_CA_CERTS=ca.pem"},
		{"certificates where a reboot removes them", "RUNNER_CA_CERTS=/etc/ssl/ca.pem"},
		{"relative directory", "RUNNER_HOOKS_DIR=hooks"},

		{"bind the root", "RUNNER_NSPAWN_BIND=/:/host"},
		{"bind beneath etc", "RUNNER_NSPAWN_BIND_RO=/etc/runner"},
		{"bind above a secret", "RUNNER_NSPAWN_BIND_RO=/var/lib"},
		{"bind the docker socket", "RUNNER_NSPAWN_BIND=/run/docker.sock"},
		{"bind up the tree", "RUNNER_NSPAWN_BIND=/srv/../etc:/x"},
		{"bind relative", "RUNNER_NSPAWN_BIND=cache"},
		{"bind with option", "RUNNER_NSPAWN_BIND=/srv/a:/a:ro"},
		{"bind over the guest", "RUNNER_NSPAWN_BIND=/srv/a:/"},
		{"bind over proc", "RUNNER_NSPAWN_BIND=/srv/a:/proc/1"},
		{"bind twice", "RUNNER_NSPAWN_BIND=/srv/a:/c /srv/b:/c"},

		{"RUNNER_GUEST_SUBNET=10.0.0.0/8", "RUNNER_GUEST_SUBNET=10.0.0.0/8"},
		{"RUNNER_GUEST_SUBNET=10.1.2.0/16", "RUNNER_GUEST_SUBNET=10.1.2.0/16"},
		{"RUNNER_GUEST_SUBNET=fd00::/16", "RUNNER_GUEST_SUBNET=fd00::/16"},
		{"RUNNER_GUEST_ALLOW=10.1.2.3/16", "RUNNER_GUEST_ALLOW=10.1.2.3/16"},
		{"RUNNER_GUEST_ALLOW=mirror.lan", "RUNNER_GUEST_ALLOW=mirror.lan"},
		{"RUNNER_IMAGES=builder", "RUNNER_IMAGES=builder"},
		{"RUNNER_IMAGES=builder=/", "RUNNER_IMAGES=builder=/"},
		{"RUNNER_IMAGES='a=/a a=/b", `RUNNER_IMAGES="a=/a a=/b"`},
		{"RUNNER_INSECURE_REGISTRIES=http://x", "RUNNER_INSECURE_REGISTRIES=http://x"},
		{"RUNNER_IMAGE_CACHE=20", "RUNNER_IMAGE_CACHE=20"},
		{"RUNNER_JOB_MEMORY=80%", "RUNNER_JOB_MEMORY=80%"},
		{"RUNNER_JOB_DISK=0G", "RUNNER_JOB_DISK=0G"},
		{"RUNNER_JOB_DISK=999999999T", "RUNNER_JOB_DISK=999999999T"},
		{"RUNNER_VOLUMES=a/b", "RUNNER_VOLUMES=a/b"},
		{"RUNNER_VOLUMES=..", "RUNNER_VOLUMES=.."},
		{"RUNNER_NSPAWN_DEVICES=kvm", "RUNNER_NSPAWN_DEVICES=kvm"},
		{"RUNNER_NSPAWN_DEVICES=/dev/../etc", "RUNNER_NSPAWN_DEVICES=/dev/../etc"},
		{"RUNNER_SPARE_GUEST=yes", "RUNNER_SPARE_GUEST=yes"},
		{"RUNNER_JOB_PIDS=10", "RUNNER_JOB_PIDS=10"},
		{"RUNNER_JOB_CPUS=NaN", "RUNNER_JOB_CPUS=NaN"},
		{"RUNNER_JOB_CPUS=0", "RUNNER_JOB_CPUS=0"},
		{"RUNNER_JOB_TIMEOUT_S=1h", "RUNNER_JOB_TIMEOUT_S=1h"},
		{"wraps around", "RUNNER_JOB_DISK=16777217T"},
	}
	var messages strings.Builder
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			c, _, err := config.Parse("config.env", []byte(tt.file))
			if err == nil || c != nil {
				t.Fatalf("accepted: %v", c)
			}
			if strings.Contains(err.Error(), token) {
				t.Error("the message holds the token")
			}
			fmt.Fprintf(&messages, "%s\n  %v\n", tt.summary, err)
		})
	}
	golden.Check(t, "messages.txt", messages.String())
}

func TestCheckRegistration(t *testing.T) {
	const source = "put the registration token there, from the repository's or organization's " +
		"Settings, Actions, Runners, New self-hosted runner (valid for 1 hour)"
	tests := []struct{ summary, file, want string }{
		{
			summary: "nothing",
			file:    "",
			want: "config.env: RUNNER_GITHUB_URL is missing; " +
				"write RUNNER_GITHUB_URL=https://github.com/OWNER or https://github.com/OWNER/REPOSITORY",
		},
		{
			summary: "no token",
			file:    "RUNNER_GITHUB_URL=https://github.com/acme",
			want:    "config.env: RUNNER_REGISTRATION_TOKEN is missing; " + source,
		},
		{
			summary: "emptied token",
			file:    "RUNNER_GITHUB_URL=https://github.com/acme\nRUNNER_REGISTRATION_TOKEN=''",
			want:    "config.env:2: RUNNER_REGISTRATION_TOKEN is empty; " + source,
		},
	}
	for _, tt := range tests {
		c, _, err := config.Parse("config.env", []byte(tt.file))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CheckRegistration(); err == nil || err.Error() != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	const file = "RUNNER_BOOTSTRAP_REPO_URL=https://example.com/x\nAPPLIANCE_APT_PACKAGES=jq\nEDITOR=vi\n"
	_, warnings, err := config.Parse("config.env", []byte(file))
	want := []string{
		"config.env:1: RUNNER_BOOTSTRAP_REPO_URL is not used by this appliance: nothing is fetched at boot; " +
			"put the files into an overlay named by images.toml and bake the image again",
		"config.env:2: APPLIANCE_APT_PACKAGES is not used by this appliance: no package is installed at boot; " +
			"add the names to packages in images.toml and bake the image again",
		"config.env:3: EDITOR is not used by this appliance; remove the line",
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, warnings); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestLoadFillsName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.env")
	if _, _, err := config.Load(path); err == nil || !strings.HasPrefix(err.Error(), path+": there is no such file; ") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, []byte("RUNNER_NAME=rack-4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, _, err := config.Load(path); err != nil || c.Name != "rack-4" {
		t.Errorf("got %v, %v", c, err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, _, err := config.Load(path); err != nil || c.Name == "" {
		t.Errorf("got %v, %v", c, err)
	}
}

func TestFromEnviron(t *testing.T) {
	c, err := config.FromEnviron([]string{"PATH=/bin", "RUNNER_HOOKS_DIR=/opt/h", "RUNNER_TEMP=/x", "no_proxy=a"})
	if err != nil || c.HooksDir != "/opt/h" || !slices.Equal(c.Proxy, []string{"no_proxy=a"}) {
		t.Errorf("got %+v, %v", c, err)
	}
	_, err = config.FromEnviron([]string{"RUNNER_HOOKS_DIR=h"})
	want := "environment: RUNNER_HOOKS_DIR is not an absolute path in its shortest form; " +
		"write for example /usr/local/lib/runner"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestTokenIsNeverPrinted(t *testing.T) {
	c := struct{ Token config.Token }{config.NewToken(token)}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		fmt.Sprint(c),
		fmt.Sprintf("%v %+v %#v %s %q %x %d %t", c, c, c, c, c, c, c, c),
		string(asJSON),
		fmt.Sprintf("%v", &c),
		c.Token.Redact("say " + token),
	} {
		if strings.Contains(s, token) || strings.Contains(s, fmt.Sprintf("%x", token)) || !strings.Contains(s, "[redacted]") {
			t.Errorf("printed as %s", s)
		}
	}
}

// oracleValues are right-hand sides whose meaning real systemd is asked for.
var oracleValues = []string{
	`plain`, `  lead and trail  `, `"a b"`, `'a b'`, `a"b"c`, `"a"'b'`, `"a"b`, `"a" b  "c"`, `a\ b\ `,
	`a\\b`, `"a\"b\$c\d"`, `'a\b'`, `$HOME`,
	"a\\\n  b", "\"a\\\nb\"", "a #b", "a;b", `"#a"`, `\"a`, "a\\", "a\r", `"x"   `, `'it''s'`, `a\nb`, `ü`, `=`, `a=b`,
}

// TestSystemdAgrees compares with systemd's own parser, through the one tool
// that prints a value it parsed from a file of ours: systemd-tmpfiles with %B,
// the BUILD_ID of the os-release below --root, tmpfiles.d(5).
func TestSystemdAgrees(t *testing.T) {
	tmpfiles, err := exec.LookPath("systemd-tmpfiles")
	if err != nil {
		t.Skip("systemd-tmpfiles is not installed")
	}
	for _, v := range oracleValues {
		root := t.TempDir()
		files := map[string]string{"etc/os-release": "ID=x\nBUILD_ID=" + v, "t.conf": "f+ /out - - - - [%B]\n"}
		for name, content := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		create := exec.Command(tmpfiles, "--root="+root, "--create", filepath.Join(root, "t.conf"))
		if out, err := create.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", v, err, out)
		}
		want, err := os.ReadFile(filepath.Join(root, "out"))
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := config.Parse("f", []byte("RUNNER_GROUP="+v))
		if err != nil {
			t.Errorf("%q: %v", v, err)
		} else if got := "[" + c.Group + "]"; got != string(want) {
			t.Errorf("%q: got %q, systemd has %q", v, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("# x\n", "")
	f.Add("RUNNER_GROUP='a\n", "'")
	f.Add("RUNNER_NSPAWN_BIND=/srv/\\\n", "")
	f.Add("RUNNER_GITHUB_URL=https://api.github.com\n", "RUNNER_NAME=\"\\")
	for _, v := range oracleValues {
		f.Add("RUNNER_GROUP="+v, "\n")
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.Contains(before+after, token) || strings.HasSuffix(before, "RUNNER_") {
			return
		}
		c, warnings, err := config.Parse("f", []byte(before+"\nRUNNER_REGISTRATION_TOKEN="+token+"\n"+after))
		said := fmt.Sprint(warnings, err)
		if strings.Contains(said, token) {
			t.Errorf("the token is in %s", said)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "f:")) {
			t.Errorf("not one line with a place: %q", err)
		}
		if (err == nil) == (c == nil) {
			t.Errorf("got %v and %v", c, err)
		}
	})
}
