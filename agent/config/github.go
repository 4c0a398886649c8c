package config

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

var (
	namePattern  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	labelPattern = regexp.MustCompile(`^[^\s,]{1,256}$`)
	ownerPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

// parseGitHubURL reads the address of the owner, repository or enterprise that
// the runner serves, as a browser shows it: https://HOST/OWNER,
// https://HOST/OWNER/REPOSITORY or https://HOST/enterprises/NAME.
func parseGitHubURL(v string) (string, error) {
	const fix = "write https://github.com/OWNER or https://github.com/OWNER/REPOSITORY"
	u, err := url.Parse(v)
	switch {
	case err != nil: // the cause would quote the value, which may hold a password
		return "", fmt.Errorf("is not a URL; %s", fix)
	case u.Scheme != "https" && u.Scheme != "http":
		return "", fmt.Errorf("does not begin with https://; %s", fix)
	case u.Hostname() == "":
		return "", fmt.Errorf("names no host; %s", fix)
	case u.User != nil:
		return "", fmt.Errorf("holds a user name or password; %s, and the token in RUNNER_REGISTRATION_TOKEN", fix)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", fmt.Errorf("has a '?' or '#' part; %s", fix)
	}

	path := strings.Trim(u.Path, "/")
	if isAPI(u.Hostname(), path) {
		return "", fmt.Errorf("is an address of GitHub's API, but the runner wants the page it will serve; %s", fix)
	}
	if err := checkOwnerPath(path, fix); err != nil {
		return "", err
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + "/" + path, nil
}

func isAPI(host, path string) bool {
	return strings.HasPrefix(strings.ToLower(host), "api.") || path == "api/v3" || strings.HasPrefix(path, "api/v3/")
}

func checkOwnerPath(path, fix string) error {
	if path == "" {
		return fmt.Errorf("names no owner; %s", fix)
	}

	parts := strings.Split(path, "/")
	for _, p := range parts {
		if !ownerPattern.MatchString(p) || p == "." || p == ".." {
			return fmt.Errorf("names no valid owner or repository; %s", fix)
		}
	}

	switch {
	case parts[0] == "enterprises" && len(parts) == 1:
		return errors.New("names no enterprise; write https://github.com/enterprises/NAME")
	case len(parts) > 2:
		return fmt.Errorf("goes on after the repository; %s", fix)
	case strings.HasSuffix(path, ".git"):
		return errors.New("is a clone address; leave out the .git at its end")
	}
	return nil
}

func parseName(v string) (string, error) {
	if !namePattern.MatchString(v) {
		return "", errors.New("is not 1 to 64 letters, digits, dots, dashes or underscores; choose such a name")
	}
	return v, nil
}

// parseLabels reads "a,b".
func parseLabels(v string) ([]string, error) {
	labels := strings.Split(v, ",")
	for i := range labels {
		labels[i] = strings.TrimSpace(labels[i])
		if !labelPattern.MatchString(labels[i]) {
			return nil, errors.New("is not a list of labels; write for example RUNNER_LABELS=gpu,rack-4, " +
				"without blanks inside a label")
		}
	}
	return labels, nil
}
