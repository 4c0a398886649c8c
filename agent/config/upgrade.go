package config

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// Upgrade is how the appliance upgrades itself.
type Upgrade struct {
	Source  string // URL or absolute path of the channel's directory; "" for none
	Channel string // for whom the versions are that it takes
	Window  Window // when upgrades may begin that nobody asked for
	USB     bool   // whether a stick with a channel is one, with Source or without
	// ActionsRunner is where newer versions of the actions runner are from; "" if
	// config.env leaves it open, see Config.Renewal.
	ActionsRunner Renewal
}

// Renewal is where newer versions of the actions runner are from that are installed
// without being asked for.
type Renewal string

// The values of RUNNER_UPGRADE_ACTIONS_RUNNER.
const (
	RenewGitHub Renewal = "github" // its releases
	RenewSource Renewal = "source" // RUNNER_UPGRADE_SOURCE
	RenewOff    Renewal = "off"    // none are installed
)

func parseRenewal(v string) (Renewal, error) {
	switch r := Renewal(v); r {
	case RenewGitHub, RenewSource, RenewOff:
		return r, nil
	}
	return "", errors.New("is not github, source or off; write one of them")
}

// Renewal returns where newer versions of the actions runner are from. If config.env
// leaves it open, that is GitHub for a runner of GitHub, which stops to serve a version
// 30 days after the next one. A GitHub Enterprise Server has its own rule for the
// versions that it serves: there the image decides.
func (c *Config) Renewal() Renewal {
	switch {
	case c.Upgrade.ActionsRunner != "":
		return c.Upgrade.ActionsRunner
	case c.ActionsRunnerDir != layout.ActionsRunner || !c.onGitHub():
		return RenewOff
	}
	return RenewGitHub
}

// onGitHub reports whether the runner is one of github.com or of GitHub Enterprise
// Cloud with data residency, as the actions runner itself distinguishes them from a
// GitHub Enterprise Server.
func (c *Config) onGitHub() bool {
	u, err := url.Parse(c.GitHubURL)
	if err != nil {
		return false
	}
	host := strings.ToLower(u.Hostname())
	return host == "github.com" || host == "www.github.com" || strings.HasSuffix(host, ".ghe.com")
}

// Window is a time of the day, on some days of the week, in the appliance's time
// zone. The zero value is all of the time.
type Window struct {
	Days       []time.Weekday // on which it begins; none for all
	From, Till time.Duration  // since midnight; it passes midnight if Till is not after From
}

// Contains reports whether t lies in the window.
func (w Window) Contains(t time.Time) bool {
	if w.From == w.Till {
		return w.onDay(t.Weekday()) // all of the day
	}
	now := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
	yesterday := (t.Weekday() + 6) % 7
	switch {
	case w.From < w.Till:
		return w.onDay(t.Weekday()) && now >= w.From && now < w.Till
	case now >= w.From:
		return w.onDay(t.Weekday())
	}
	return w.onDay(yesterday) && now < w.Till
}

func (w Window) onDay(d time.Weekday) bool { return len(w.Days) == 0 || slices.Contains(w.Days, d) }

// parseWindow reads "HH:MM-HH:MM", with days as "Sat,Sun" before it or without.
func parseWindow(v string) (Window, error) {
	var w Window
	words := strings.Fields(v)
	if len(words) == 2 {
		for name := range strings.SplitSeq(words[0], ",") {
			day := slices.Index([]string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}, name)
			if day < 0 {
				return w, fmt.Errorf("has %.20q where a day should be; write for example Sat,Sun 02:00-05:00", name)
			}
			w.Days = append(w.Days, time.Weekday(day))
		}
		words = words[1:]
	}
	from, till, ok := strings.Cut(strings.Join(words, " "), "-")
	first, err1 := time.Parse("15:04", from)
	last, err2 := time.Parse("15:04", till)
	if !ok || err1 != nil || err2 != nil || first.Equal(last) {
		return w, errors.New("is not a time of the day such as 02:00-05:00, with days before it or without; " +
			"write for example Sat,Sun 02:00-05:00")
	}

	midnight := first.Truncate(24 * time.Hour)
	w.From, w.Till = first.Sub(midnight), last.Sub(midnight)
	return w, nil
}

var channelName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

func parseChannel(v string) (string, error) {
	if !channelName.MatchString(v) {
		return "", errors.New("is not a name of lower-case letters, digits and '-'; write for example stable")
	}
	return v, nil
}

// parseSource reads the place of a channel.
func parseSource(v string) (string, error) {
	if filepath.IsAbs(v) && filepath.Clean(v) == v {
		return v, nil
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil ||
		u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("is neither an http or https URL of a directory nor an absolute path; " +
			"write for example https://updates.example.com/runner")
	}
	return v, nil
}
