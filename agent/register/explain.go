package register

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/mkappliance/mkappliance/agent/config"
)

// explanations are the outputs of an actions runner that failed to register,
// each with cause and fix. The first match wins. {url}, {host}, {name} and
// {group} stand for settings.
var explanations = []struct {
	pattern *regexp.Regexp
	message string
}{
	{regexp.MustCompile(`(?i)clock may be out of sync|Current server time is`),
		"the clock of this appliance is more than 5 minutes wrong; " +
			"let NTP reach a time server (timedatectl shows the state)"},
	{regexp.MustCompile(`Http response code: NotFound|404 \(Not Found\)`),
		"GitHub does not know {url} or does not accept the registration token for it; " +
			"check RUNNER_GITHUB_URL, and put a new token into RUNNER_REGISTRATION_TOKEN (one is valid for 1 hour)"},
	{regexp.MustCompile(`Http response code: Unauthorized|401 \(Unauthorized\)`),
		"GitHub refuses the registration token: it is wrong or older than 1 hour; " +
			"put a new one into RUNNER_REGISTRATION_TOKEN"},
	{regexp.MustCompile(`(?is)(Forbidden|403 \().*rate limit|Http response code: TooManyRequests|429 \(`),
		"GitHub limits how often it may be asked from here; wait, the unit tries again by itself"},
	{regexp.MustCompile(`Http response code: Forbidden|403 \(Forbidden\)`),
		"GitHub forbids self-hosted runners at {url}; allow them in its Settings, Actions, Runners"},
	{regexp.MustCompile(`A runner exists with the same name|409 \(Conflict\)|Already exists`),
		"GitHub has a runner named {name} that could not be replaced; " +
			"remove it in Settings, Actions, Runners, or choose another RUNNER_NAME"},
	{regexp.MustCompile(`Could not find any self-hosted runner group`),
		"there is no runner group {group} at {url}; correct RUNNER_GROUP, or create the group"},
	{regexp.MustCompile(`(?i)version .*deprecated|minimum.*version|RunnerVersionTooOld`),
		"GitHub does not accept this version of the actions runner any more; " +
			"runner-agent renew installs a newer one"},
	{regexp.MustCompile(`5\d\d \([A-Z][A-Za-z ]+\)|Http response code: (InternalServerError|BadGateway` +
		`|ServiceUnavailable|GatewayTimeout)`),
		"GitHub cannot serve at the moment ({host} answers with a server error); " +
			"wait, the unit tries again by itself"},
	{regexp.MustCompile(`Name or service not known|Temporary failure in name resolution` +
		`|Resource temporarily unavailable`),
		"the name {host} cannot be resolved; check the network and its DNS server (resolvectl status)"},
	{regexp.MustCompile(`Connection refused|No route to host|Network is unreachable|Connection timed out` +
		`|Connection reset|request timed out|HttpClient\.Timeout|A task was canceled`),
		"{host} cannot be reached; check the network, the firewall and https_proxy"},
	{regexp.MustCompile(`SSL connection could not be established|certificate`),
		"the certificate of {host} is not trusted; " +
			"check the clock; if GitHub or a proxy on the way has a certificate authority of its own, " +
			"name the file of its certificate in RUNNER_CA_CERTS"},
	{regexp.MustCompile(`Couldn't find a valid ICU|libicu|error while loading shared libraries`),
		"the actions runner misses a system library; " +
			"add it to packages in images.toml and bake the image again"},
	{regexp.MustCompile(`already configured`),
		"the actions runner has a registration that could not be removed; " +
			"run 'systemctl stop runner.service' and try again"},
	{regexp.MustCompile(`Access to the path .* is denied|Permission denied`),
		"the actions runner may not write its directory; it must belong to the user runner"},
	{regexp.MustCompile(`No space left on device`),
		"the disk is full; make room below /var"},
}

// explain returns the error of an actions runner that ended with a status other
// than 0, as one line.
func explain(output []string, status int, cfg *config.Config) error {
	text := strings.Join(output, "\n")
	for _, e := range explanations {
		if e.pattern.MatchString(text) {
			return fmt.Errorf("cannot register: %s", fill(e.message, cfg))
		}
	}

	if len(output) == 0 {
		return fmt.Errorf("cannot register: the actions runner ended with status %d, without output; "+
			"read the lines above this one", status)
	}
	return fmt.Errorf("cannot register: the actions runner ended with status %d, its last line was: %s; "+
		"read the lines above this one", status, output[len(output)-1])
}

// fill puts the settings of cfg into message.
func fill(message string, cfg *config.Config) string {
	host := strings.TrimPrefix(strings.TrimPrefix(cfg.GitHubURL, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	return strings.NewReplacer(
		"{url}", cfg.GitHubURL, "{host}", host, "{name}", cfg.Name, "{group}", cfg.Group,
	).Replace(message)
}
