package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/config"
)

const token = "AABF3JGZDX3P5PMEXLND6TS6FCWO6"

func TestDefaults(t *testing.T) {
	c, warnings, err := config.Parse("config.env", []byte("RUNNER_GITHUB_URL=https://GitHub.com/acme/\nRUNNER_REGISTRATION_TOKEN="+token+"\n"))
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if err := c.CheckRegistration(); err != nil {
		t.Fatal(err)
	}
	got := []any{c.GitHubURL, c.Token.Reveal(), c.Name, c.ActionsRunnerDir, c.HooksDir, c.BaseRootfs, c.ReadyTimeout, c.RequireJobContainer}
	want := []any{"https://github.com/acme", token, "", "/var/lib/runner/actions-runner", "/usr/local/lib/runner", "/usr/lib/runner/base", 2 * time.Minute, true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
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
RUNNER_REQUIRE_JOB_CONTAINER=true
RUNNER_NSPAWN_BASE_ROOTFS=/srv/base
RUNNER_NSPAWN_READY_TIMEOUT_S=30
RUNNER_NSPAWN_BIND=/srv/cache:/cache /srv/ccache
RUNNER_NSPAWN_BIND_RO=
https_proxy=http://proxy.example:3128
`
	c, warnings, err := config.Parse("config.env", []byte(file))
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	got := []any{c.GitHubURL, c.Name, c.Labels, c.Group, c.ActionsRunnerDir, c.HooksDir, c.RequireJobContainer, c.BaseRootfs, c.ReadyTimeout, c.Bind, c.BindRO, c.Proxy}
	want := []any{"http://ghes.example:8443/enterprises/big", "rack-4", []string{"gpu", "rack-4"}, "Night shift", "/srv/runner", "/opt/hooks", true, "/srv/base", 30 * time.Second,
		[]config.Bind{{"/srv/cache", "/cache"}, {"/srv/ccache", "/srv/ccache"}}, []config.Bind(nil), []string{"https_proxy=http://proxy.example:3128"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestBadFiles(t *testing.T) {
	const (
		source = "put the registration token there, from the repository's or organization's Settings, Actions, Runners, New self-hosted runner (valid for 1 hour)"
		asURL  = "write https://github.com/OWNER or https://github.com/OWNER/REPOSITORY"
	)
	tests := []struct{ name, file, want string }{
		{"no assignment", "# x\n\nRUNNER_GITHUB_URL https://github.com/acme\n", "config.env:3: this line has no '='; write KEY=value, or begin the line with '#' to make it a comment"},
		{"token on a line of its own", token, "config.env:1: this line has no '='; write KEY=value, or begin the line with '#' to make it a comment"},
		{"no key", "=x", "config.env:1: there is no key before '='; write KEY=value"},
		{"export", "export RUNNER_NAME=a", "config.env:1: 'export' is shell, this is a systemd environment file; write KEY=value only"},
		{"key with blank", "RUNNER_REGISTRATION_TOKEN " + token + "=", "config.env:1: the text before '=' is not a name of letters, digits and underscores; write KEY=value"},
		{"open quote", "RUNNER_NAME=a\nRUNNER_GROUP=\"night\nRUNNER_REGISTRATION_TOKEN=" + token + "\n", "config.env:2: the quote opened here is never closed; add the closing quote"},
		{"lines joined by quote", "RUNNER_GROUP='night\nRUNNER_REGISTRATION_TOKEN=" + token + "'\n", "config.env:1: the value of RUNNER_GROUP has a line break or another control character in it; look for a quote or a backslash that joins lines"},
		{"nul", "RUNNER_NAME=a\nRUNNER_\x00", "config.env:2: there is a NUL byte; write plain text"},
		{"byte order mark", "\xef\xbb\xbfRUNNER_NAME=a", "config.env:1: the file begins with a byte order mark; save it as UTF-8 without one"},
		{"not UTF-8", "RUNNER_GROUP=caf\xe9\n", "config.env:1: the value of RUNNER_GROUP is not UTF-8; save the file as UTF-8"},
		{"set twice", "RUNNER_NAME=a\nRUNNER_NAME=b\n", "config.env:2: RUNNER_NAME is set again, first in line 1; keep one of the two lines"},
		{"typing error", "RUNNER_GITHUB_ULR=https://github.com/acme", "config.env:1: unknown key RUNNER_GITHUB_ULR; did you mean RUNNER_GITHUB_URL?"},
		{"lower case", "runner_name=a", "config.env:1: unknown key runner_name; did you mean RUNNER_NAME?"},
		{"unknown key", "RUNNER_FAVOURITE_COLOUR=a", "config.env:1: unknown key RUNNER_FAVOURITE_COLOUR; the keys are RUNNER_ACTIONS_RUNNER_DIR, RUNNER_GITHUB_URL, RUNNER_GROUP, RUNNER_GUEST_ALLOW, RUNNER_GUEST_SUBNET, RUNNER_HOOKS_DIR, RUNNER_IMAGES, RUNNER_IMAGE_CACHE, RUNNER_INSECURE_REGISTRIES, RUNNER_JOB_CPUS, RUNNER_JOB_DISK, RUNNER_JOB_MEMORY, RUNNER_JOB_PIDS, RUNNER_JOB_TIMEOUT_S, RUNNER_KEEP_WORK, RUNNER_LABELS, RUNNER_NAME, RUNNER_NSPAWN_BASE_ROOTFS, RUNNER_NSPAWN_BIND, RUNNER_NSPAWN_BIND_RO, RUNNER_NSPAWN_DEVICES, RUNNER_NSPAWN_READY_TIMEOUT_S, RUNNER_REGISTRATION_TOKEN, RUNNER_REQUIRE_JOB_CONTAINER, RUNNER_SPARE_GUEST"},

		{"API host", "RUNNER_GITHUB_URL=https://api.github.com/repos/acme/x", "config.env:1: RUNNER_GITHUB_URL is an address of GitHub's API, but the runner wants the page it will serve; " + asURL},
		{"API of GHES", "RUNNER_GITHUB_URL=https://ghes.example/api/v3/", "config.env:1: RUNNER_GITHUB_URL is an address of GitHub's API, but the runner wants the page it will serve; " + asURL},
		{"no owner", "RUNNER_GITHUB_URL=https://github.com/", "config.env:1: RUNNER_GITHUB_URL names no owner; " + asURL},
		{"too long", "RUNNER_GITHUB_URL=https://github.com/acme/x/settings/actions/runners/new", "config.env:1: RUNNER_GITHUB_URL goes on after the repository; " + asURL},
		{"no enterprise", "RUNNER_GITHUB_URL=https://github.com/enterprises", "config.env:1: RUNNER_GITHUB_URL names no enterprise; write https://github.com/enterprises/NAME"},
		{"clone address", "RUNNER_GITHUB_URL=https://github.com/acme/x.git", "config.env:1: RUNNER_GITHUB_URL is a clone address; leave out the .git at its end"},
		{"ssh", "RUNNER_GITHUB_URL=ssh://git@github.com/acme", "config.env:1: RUNNER_GITHUB_URL does not begin with https://; " + asURL},
		{"no scheme", "RUNNER_GITHUB_URL=github.com/acme", "config.env:1: RUNNER_GITHUB_URL does not begin with https://; " + asURL},
		{"no host", "RUNNER_GITHUB_URL=https:///acme", "config.env:1: RUNNER_GITHUB_URL names no host; " + asURL},
		{"not a URL", "RUNNER_GITHUB_URL=https://github.com:port/acme", "config.env:1: RUNNER_GITHUB_URL is not a URL; " + asURL},
		{"credentials", "RUNNER_GITHUB_URL=https://me:" + token + "@github.com/acme", "config.env:1: RUNNER_GITHUB_URL holds a user name or password; " + asURL + ", and the token in RUNNER_REGISTRATION_TOKEN"},
		{"query", "RUNNER_GITHUB_URL=https://github.com/acme?tab=runners", "config.env:1: RUNNER_GITHUB_URL has a '?' or '#' part; " + asURL},
		{"odd owner", "RUNNER_GITHUB_URL=https://github.com/ac%20me", "config.env:1: RUNNER_GITHUB_URL names no valid owner or repository; " + asURL},

		{"personal access token", "\nRUNNER_REGISTRATION_TOKEN=ghp_" + token, "config.env:2: RUNNER_REGISTRATION_TOKEN holds a personal access token, which is far too powerful to keep on a runner and is not accepted here; revoke it and " + source},
		{"fine-grained token", "RUNNER_REGISTRATION_TOKEN=github_pat_" + token, "config.env:1: RUNNER_REGISTRATION_TOKEN holds a fine-grained personal access token, which is far too powerful to keep on a runner and is not accepted here; revoke it and " + source},
		{"app token", "RUNNER_REGISTRATION_TOKEN=ghs_1_" + token, "config.env:1: RUNNER_REGISTRATION_TOKEN holds a GitHub App installation token, which is far too powerful to keep on a runner and is not accepted here; revoke it and " + source},
		{"classic token", "RUNNER_REGISTRATION_TOKEN=" + strings.Repeat("0123456789abcdef", 3)[:40], "config.env:1: RUNNER_REGISTRATION_TOKEN holds a classic personal access token (40 hexadecimal digits), which is far too powerful to keep on a runner and is not accepted here; revoke it and " + source},
		{"placeholder", "RUNNER_REGISTRATION_TOKEN=CHANGEME", "config.env:1: RUNNER_REGISTRATION_TOKEN still holds a placeholder; " + source},
		{"placeholder in brackets", "RUNNER_REGISTRATION_TOKEN='<token>'", "config.env:1: RUNNER_REGISTRATION_TOKEN still holds a placeholder; " + source},
		{"white space in token", "RUNNER_REGISTRATION_TOKEN=AABF3 JGZ", "config.env:1: RUNNER_REGISTRATION_TOKEN has white space in it; " + source + ", in one piece"},
		{"letters no token has", "RUNNER_REGISTRATION_TOKEN=AABF3é", "config.env:1: RUNNER_REGISTRATION_TOKEN has characters no token has; " + source},

		{"name", "RUNNER_NAME=rack 4", "config.env:1: RUNNER_NAME is not 1 to 64 letters, digits, dots, dashes or underscores; choose such a name"},
		{"labels", "RUNNER_LABELS=a,,b", "config.env:1: RUNNER_LABELS is not a list of labels; write for example RUNNER_LABELS=gpu,rack-4, without blanks inside a label"},
		{"time-out", "RUNNER_NSPAWN_READY_TIMEOUT_S=2m", "config.env:1: RUNNER_NSPAWN_READY_TIMEOUT_S is not a number of seconds from 1 to 3600; write for example 120"},
		{"time-out zero", "RUNNER_NSPAWN_READY_TIMEOUT_S=0", "config.env:1: RUNNER_NSPAWN_READY_TIMEOUT_S is not a number of seconds from 1 to 3600; write for example 120"},
		{"truth", "RUNNER_REQUIRE_JOB_CONTAINER=yes", "config.env:1: RUNNER_REQUIRE_JOB_CONTAINER is neither true nor false; write one of them"},
		{"relative directory", "RUNNER_HOOKS_DIR=hooks", "config.env:1: RUNNER_HOOKS_DIR is not an absolute path in its shortest form; write for example /usr/local/lib/runner"},

		{"bind the root", "RUNNER_NSPAWN_BIND=/:/host", "config.env:1: RUNNER_NSPAWN_BIND would show / of the host to jobs, which holds or contains /etc; bind a directory of its own, such as /srv/NAME"},
		{"bind beneath etc", "RUNNER_NSPAWN_BIND_RO=/etc/runner", "config.env:1: RUNNER_NSPAWN_BIND_RO would show /etc/runner of the host to jobs, which holds or contains /etc; bind a directory of its own, such as /srv/NAME"},
		{"bind above a secret", "RUNNER_NSPAWN_BIND_RO=/var/lib", "config.env:1: RUNNER_NSPAWN_BIND_RO would show /var/lib of the host to jobs, which holds or contains /var/lib/runner; bind a directory of its own, such as /srv/NAME"},
		{"bind the docker socket", "RUNNER_NSPAWN_BIND=/run/docker.sock", "config.env:1: RUNNER_NSPAWN_BIND would show /run/docker.sock of the host to jobs, which holds or contains /run; bind a directory of its own, such as /srv/NAME"},
		{"bind up the tree", "RUNNER_NSPAWN_BIND=/srv/../etc:/x", "config.env:1: RUNNER_NSPAWN_BIND has a path that is not absolute and in its shortest form; write for example /srv/cache:/cache"},
		{"bind relative", "RUNNER_NSPAWN_BIND=cache", "config.env:1: RUNNER_NSPAWN_BIND has a path that is not absolute and in its shortest form; write for example /srv/cache:/cache"},
		{"bind with option", "RUNNER_NSPAWN_BIND=/srv/a:/a:ro", "config.env:1: RUNNER_NSPAWN_BIND has more than one ':' in an entry; write SRC or SRC:DST, and use RUNNER_NSPAWN_BIND_RO for read-only"},
		{"bind over the guest", "RUNNER_NSPAWN_BIND=/srv/a:/", "config.env:1: RUNNER_NSPAWN_BIND would cover the whole guest; choose a directory, as SRC:DST"},
		{"bind over proc", "RUNNER_NSPAWN_BIND=/srv/a:/proc/1", "config.env:1: RUNNER_NSPAWN_BIND would cover /proc/1 in the guest, which the guest fills itself; choose another place, as SRC:DST"},
		{"bind twice", "RUNNER_NSPAWN_BIND=/srv/a:/c /srv/b:/c", "config.env:1: RUNNER_NSPAWN_BIND shows two directories as /c in the guest; give each its own, as SRC:DST"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := config.Parse("config.env", []byte(tt.file))
			if err == nil || c != nil {
				t.Fatalf("accepted: %v", c)
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
			if strings.Contains(err.Error(), token) {
				t.Error("the message holds the token")
			}
		})
	}
}

func TestCheckRegistration(t *testing.T) {
	tests := []struct{ file, want string }{
		{"", "config.env: RUNNER_GITHUB_URL is missing; write RUNNER_GITHUB_URL=https://github.com/OWNER or https://github.com/OWNER/REPOSITORY"},
		{"RUNNER_GITHUB_URL=https://github.com/acme", "config.env: RUNNER_REGISTRATION_TOKEN is missing; put the registration token there, from the repository's or organization's Settings, Actions, Runners, New self-hosted runner (valid for 1 hour)"},
		{"RUNNER_GITHUB_URL=https://github.com/acme\nRUNNER_REGISTRATION_TOKEN=''", "config.env:2: RUNNER_REGISTRATION_TOKEN is empty; put the registration token there, from the repository's or organization's Settings, Actions, Runners, New self-hosted runner (valid for 1 hour)"},
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
	_, warnings, err := config.Parse("config.env", []byte("RUNNER_BOOTSTRAP_REPO_URL=https://example.com/x\nAPPLIANCE_APT_PACKAGES=jq\nEDITOR=vi\n"))
	want := []string{
		"config.env:1: RUNNER_BOOTSTRAP_REPO_URL is not used by this appliance: nothing is fetched at boot; put the files into an overlay named by images.toml and bake the image again",
		"config.env:2: APPLIANCE_APT_PACKAGES is not used by this appliance: no package is installed at boot; add the names to packages in images.toml and bake the image again",
		"config.env:3: EDITOR is not used by this appliance; remove the line",
	}
	if err != nil || !reflect.DeepEqual(warnings, want) {
		t.Errorf("got %q, %v", warnings, err)
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
	if err != nil || c.HooksDir != "/opt/h" || !reflect.DeepEqual(c.Proxy, []string{"no_proxy=a"}) {
		t.Errorf("got %+v, %v", c, err)
	}
	_, err = config.FromEnviron([]string{"RUNNER_HOOKS_DIR=h"})
	if want := "environment: RUNNER_HOOKS_DIR is not an absolute path in its shortest form; write for example /usr/local/lib/runner"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestTokenIsNeverPrinted(t *testing.T) {
	c := struct{ Token config.Token }{config.NewToken(token)}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s %q %x %d %t", c, c, c, c, c, c, c, c), string(asJSON), fmt.Sprintf("%v", &c), c.Token.Redact("say " + token)} {
		if strings.Contains(s, token) || strings.Contains(s, fmt.Sprintf("%x", token)) || !strings.Contains(s, "[redacted]") {
			t.Errorf("printed as %s", s)
		}
	}
}

// oracleValues are right-hand sides whose meaning real systemd is asked for.
var oracleValues = []string{
	`plain`, `  lead and trail  `, `"a b"`, `'a b'`, `a"b"c`, `"a"'b'`, `"a"b`, `"a" b  "c"`, `a\ b\ `, `a\\b`, `"a\"b\$c\d"`, `'a\b'`, `$HOME`,
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
		for name, content := range map[string]string{"etc/os-release": "ID=x\nBUILD_ID=" + v, "t.conf": "f+ /out - - - - [%B]\n"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := exec.Command(tmpfiles, "--root="+root, "--create", filepath.Join(root, "t.conf")).CombinedOutput(); err != nil {
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
