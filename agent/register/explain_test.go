package register

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/agent/config"
)

func TestExplain(t *testing.T) {
	cfg := &config.Config{GitHubURL: "https://github.com/acme", Name: "rack-4", Group: "Nights"}
	const reach = "github.com cannot be reached; check the network, the firewall and https_proxy"
	// The left side is what actions/runner and .NET print.
	tests := []struct{ said, want string }{
		{"Http response code: NotFound from 'POST https://api.github.com/actions/runner-registration' (Request Id: 1)", "GitHub does not know https://github.com/acme or does not accept the registration token for it; check RUNNER_GITHUB_URL, and put a new token into RUNNER_REGISTRATION_TOKEN (one is valid for 1 hour)"},
		{"Response status code does not indicate success: 401 (Unauthorized).", "GitHub refuses the registration token: it is wrong or older than 1 hour; put a new one into RUNNER_REGISTRATION_TOKEN"},
		{"Response status code does not indicate success: 403 (rate limit exceeded).", "GitHub limits how often it may be asked from here; wait, the unit tries again by itself"},
		{"Response status code does not indicate success: 429 (Too Many Requests).", "GitHub limits how often it may be asked from here; wait, the unit tries again by itself"},
		{"Http response code: Forbidden from 'POST https://api.github.com/actions/runner-registration'", "GitHub forbids self-hosted runners at https://github.com/acme; allow them in its Settings, Actions, Runners"},
		{"A runner exists with the same name rack-4.", "GitHub has a runner named rack-4 that could not be replaced; remove it in Settings, Actions, Runners, or choose another RUNNER_NAME"},
		{`Could not find any self-hosted runner group named "Nights".`, "there is no runner group Nights at https://github.com/acme; correct RUNNER_GROUP, or create the group"},
		{"Runner version v2.300.0 is deprecated and cannot receive messages.", "GitHub does not accept this version of the actions runner any more; bake the image again with a current runner"},
		{"Response status code does not indicate success: 502 (Bad Gateway).", "GitHub cannot serve at the moment (github.com answers with a server error); wait, the unit tries again by itself"},
		{"Name or service not known (api.github.com:443)", "the name github.com cannot be resolved; check the network and its DNS server (resolvectl status)"},
		{"Connection refused (api.github.com:443)", reach},
		{"The HTTP request timed out after 00:01:40.", reach},
		{"The SSL connection could not be established, see inner exception.", "the certificate of github.com is not trusted; check the clock, a TLS-inspecting proxy, or the installed CA certificates"},
		{"The local machine's clock may be out of sync with the server time by more than five minutes. Please sync your clock with your domain or internet time and try again.", "the clock of this machine is more than 5 minutes wrong; let NTP reach a time server (timedatectl shows the state)"},
		{"Process terminated. Couldn't find a valid ICU package installed on the system.", "the actions runner misses a system library; add it to packages in images.toml and bake the image again"},
		{"Cannot configure the runner because it is already configured. To reconfigure the runner, run 'config.cmd remove' or './config.sh remove' first.", "the actions runner has an identity that could not be set aside; run 'systemctl stop runner.service' and try again"},
		{"Access to the path '/var/lib/runner/actions-runner/.credentials' is denied.", "the actions runner may not write its directory; it must belong to the user runner"},
		{"No space left on device : '/var/lib/runner/actions-runner/.runner'", "the disk is full; make room below /var"},
		{"Something new", "the actions runner ended with status 1, it said: Something new; read the lines above this one"},
	}
	for _, tt := range tests {
		got := explain([]string{"√ Connected to GitHub", tt.said}, 1, cfg).Error()
		if got != "cannot register: "+tt.want {
			t.Errorf("%s\ngot  %s\nwant cannot register: %s", tt.said, got, tt.want)
		}
		if strings.Contains(got, "\n") {
			t.Errorf("more than one line: %q", got)
		}
	}
	if got := explain(nil, 3, cfg).Error(); got != "cannot register: the actions runner ended with status 3, it said nothing; read the lines above this one" {
		t.Error(got)
	}
}

func TestRelayHidesToken(t *testing.T) {
	var out bytes.Buffer
	r := &relay{to: &out, token: config.NewToken("SECRET")}
	for _, part := range []string{"\n\nusing SEC", "RET now\r\n  ", "\nlast SECR", "ET"} {
		fmt.Fprint(r, part)
	}
	r.flush()
	if got := out.String(); got != "runner: using [redacted] now\nrunner: last [redacted]\n" {
		t.Errorf("got %q", got)
	}
	if fmt.Sprint(r.said) != "[using [redacted] now last [redacted]]" {
		t.Errorf("remembers %q", r.said)
	}
	out.Reset()
	for _, part := range []string{strings.Repeat("x", maxLine-3) + "SEC", "RETy"} {
		fmt.Fprint(r, part)
	}
	r.flush()
	if got, want := strings.ReplaceAll(out.String(), "\nrunner: ", ""), "runner: "+strings.Repeat("x", maxLine-3)+"[redacted]y\n"; got != want {
		t.Errorf("a very long line became %d bytes, ends in %q", len(got), got[len(got)-20:])
	}
}

func TestConfigureArgsAndEnv(t *testing.T) {
	c, _, err := config.Parse("f", []byte("RUNNER_GITHUB_URL=https://github.com/acme\nRUNNER_REGISTRATION_TOKEN=SECRET1\nRUNNER_NAME=n\nRUNNER_LABELS=a,b\nRUNNER_GROUP=g h\nno_proxy=x\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := "/var/lib/runner/actions-runner/bin/Runner.Listener|configure|--unattended|--url|https://github.com/acme|--name|n|--work|/w|--replace|--disableupdate|--labels|a,b|--runnergroup|g h"
	if got := strings.Join(configureArgs(c, "/w"), "|"); got != want {
		t.Errorf("got %s", got)
	}
	wantEnv := "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin|HOME=/h|LANG=C.UTF-8|ACTIONS_RUNNER_INPUT_TOKEN=SECRET1|no_proxy=x"
	if got := strings.Join(configureEnv(c, "/h"), "|"); got != wantEnv {
		t.Errorf("got %s", got)
	}
}
