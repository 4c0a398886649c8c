package register

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/golden"
)

// TestExplain compares the messages with testdata/messages.txt.
func TestExplain(t *testing.T) {
	cfg := &config.Config{GitHubURL: "https://github.com/acme", Name: "rack-4", Group: "Nights"}
	outputs := []string{ // of actions/runner and .NET
		"Http response code: NotFound from 'POST https://api.github.com/actions/runner-registration' (Request Id: 1)",
		"Response status code does not indicate success: 401 (Unauthorized).",
		"Response status code does not indicate success: 403 (rate limit exceeded).",
		"Response status code does not indicate success: 429 (Too Many Requests).",
		"Http response code: Forbidden from 'POST https://api.github.com/actions/runner-registration'",
		"A runner exists with the same name rack-4.",
		`Could not find any self-hosted runner group named "Nights".`,
		"Runner version v2.300.0 is deprecated and cannot receive messages.",
		"Response status code does not indicate success: 502 (Bad Gateway).",
		"Name or service not known (api.github.com:443)",
		"Connection refused (api.github.com:443)",
		"The HTTP request timed out after 00:01:40.",
		"The SSL connection could not be established, see inner exception.",
		"The local machine's clock may be out of sync with the server time by more than five minutes. " +
			"Please sync your clock with your domain or internet time and try again.",
		"Process terminated. Couldn't find a valid ICU package installed on the system.",
		"Cannot configure the runner because it is already configured. " +
			"To reconfigure the runner, run 'config.cmd remove' or './config.sh remove' first.",
		"Access to the path '/var/lib/runner/actions-runner/.credentials' is denied.",
		"No space left on device : '/var/lib/runner/actions-runner/.runner'",
		"Something new",
		"",
	}
	var messages strings.Builder
	for _, output := range outputs {
		lines := []string{"√ Connected to GitHub", output}
		if output == "" {
			lines = nil
		}
		err := explain(lines, 3, cfg)
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
		fmt.Fprintf(&messages, "%q\n  %v\n", output, err)
	}
	golden.Check(t, "messages.txt", messages.String())
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
	if fmt.Sprint(r.output) != "[using [redacted] now last [redacted]]" {
		t.Errorf("remembers %q", r.output)
	}
	out.Reset()
	for _, part := range []string{strings.Repeat("x", maxLine-3) + "SEC", "RETy"} {
		fmt.Fprint(r, part)
	}
	r.flush()
	got := strings.ReplaceAll(out.String(), "\nrunner: ", "")
	want := "runner: " + strings.Repeat("x", maxLine-3) + "[redacted]y\n"
	if got != want {
		t.Errorf("a very long line became %d bytes, ends in %q", len(got), got[len(got)-20:])
	}
}

func TestConfigureArgsAndEnv(t *testing.T) {
	c, _, err := config.Parse("f", []byte(`RUNNER_GITHUB_URL=https://github.com/acme
RUNNER_REGISTRATION_TOKEN=SECRET1
RUNNER_NAME=n
RUNNER_LABELS=a,b
RUNNER_GROUP=g h
no_proxy=x
`))
	if err != nil {
		t.Fatal(err)
	}
	want := "/var/lib/runner/actions-runner/bin/Runner.Listener|configure|--unattended|--url|https://github.com/acme|" +
		"--name|n|--work|/w|--replace|--disableupdate|--labels|a,b|--runnergroup|g h"
	if got := strings.Join(configureArgs(c, "/w"), "|"); got != want {
		t.Errorf("got %s", got)
	}
	wantEnv := "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin|" +
		"HOME=/h|LANG=C.UTF-8|ACTIONS_RUNNER_INPUT_TOKEN=SECRET1|no_proxy=x"
	if got := strings.Join(configureEnv(c, "/h"), "|"); got != wantEnv {
		t.Errorf("got %s", got)
	}
}
