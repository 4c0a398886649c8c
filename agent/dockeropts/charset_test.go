package dockeropts

import (
	"regexp"
	"testing"
)

// FuzzNames holds each check of a name against the regular expression that
// says the same.
func FuzzNames(f *testing.F) {
	label := `[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?`
	part := `[A-Za-z0-9_][A-Za-z0-9_-]{0,62}`
	file := `[A-Za-z0-9_][A-Za-z0-9_.,+@-]*`
	names := []struct {
		summary string
		is      func(string) bool
		pattern *regexp.Regexp
		most    int // characters
	}{
		{summary: "label", is: isLabel, pattern: regexp.MustCompile(`^` + label + `$`), most: 63},
		{summary: "host name", is: isHostname, pattern: regexp.MustCompile(`^` + label + `(\.` + label + `)*$`), most: 63},
		{summary: "name", is: isName, pattern: regexp.MustCompile(`^` + part + `(\.` + part + `)*$`), most: 253},
		{summary: "account", is: isAccountName, pattern: regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`), most: 32},
		{summary: "device", is: isDevice, pattern: regexp.MustCompile(`^/dev(/` + file + `)+$`), most: 1 << 30},
	}
	for _, s := range []string{
		"", "a", "-", "a-", "a-b", "_a", "a.b", "a..b", ".", "a\n", "é", "\xff", "0a9Z", "root", "user.name",
		"/dev", "/dev/", "/dev/a/b", "/dev/a//b", "/dev/.", "/dev/..",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, n := range names {
			if got, want := n.is(s), len(s) <= n.most && n.pattern.MatchString(s); got != want {
				t.Errorf("%q as a %s: got %v, want %v", s, n.summary, got, want)
			}
		}
	})
}
