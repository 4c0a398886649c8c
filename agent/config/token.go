package config

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Token is a secret that no print verb and no encoder shows. Only Reveal
// returns it.
type Token struct{ value string }

const redacted = "[redacted]"

// NewToken wraps a secret.
func NewToken(s string) Token { return Token{s} }

// Reveal returns the secret itself.
func (t Token) Reveal() string { return t.value }

// IsSet reports whether there is a token.
func (t Token) IsSet() bool { return t.value != "" }

// Redact returns s with "[redacted]" wherever it holds the secret.
func (t Token) Redact(s string) string {
	if t.value == "" {
		return s
	}
	return strings.ReplaceAll(s, t.value, redacted)
}

// String implements fmt.Stringer.
func (t Token) String() string {
	if t.value == "" {
		return ""
	}
	return redacted
}

// GoString implements fmt.GoStringer.
func (t Token) GoString() string { return fmt.Sprintf("config.Token(%q)", t.String()) }

// Format implements fmt.Formatter, so that no verb reaches the field.
func (t Token) Format(f fmt.State, verb rune) {
	if verb == 'v' && f.Flag('#') {
		_, _ = io.WriteString(f, t.GoString())
		return
	}
	_, _ = io.WriteString(f, t.String())
}

// MarshalText implements encoding.TextMarshaler.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

var (
	placeholderPattern = regexp.MustCompile(`(?i)^(<.*>|\[.*\]|\{.*\}|\$.*|x+|\*+|\.+|todo|token|secret|placeholder` +
		`|(change|replace|fill)[-_]?(me|this|in).*|(your|my|insert|paste)[-_].*|(runner_)?registration[-_]token)$`)
	classicPATPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// patPrefixes are GitHub's token prefixes: https://docs.github.com/authentication,
// "About authentication to GitHub", "GitHub's token formats".
var patPrefixes = []struct{ prefix, kind string }{
	{"ghp_", "a personal access token"},
	{"github_pat_", "a fine-grained personal access token"},
	{"gho_", "an OAuth access token"},
	{"ghu_", "a GitHub App user token"},
	{"ghs_", "a GitHub App installation token"},
	{"ghr_", "a refresh token"},
	{"v1.", "a GitHub App installation token"},
}

// tokenSource ends every message about a registration token.
const tokenSource = "put the registration token there, from the repository's or organization's " +
	"Settings, Actions, Runners, New self-hosted runner (valid for 1 hour)"

func parseToken(v string) (Token, error) {
	for _, p := range patPrefixes {
		if strings.HasPrefix(v, p.prefix) {
			return Token{}, tooPowerful(p.kind)
		}
	}
	if classicPATPattern.MatchString(v) {
		return Token{}, tooPowerful("a classic personal access token (40 hexadecimal digits)")
	}

	switch {
	case placeholderPattern.MatchString(v):
		return Token{}, fmt.Errorf("still holds a placeholder; %s", tokenSource)
	case strings.ContainsAny(v, whitespace):
		return Token{}, fmt.Errorf("has white space in it; %s, in one piece", tokenSource)
	case strings.IndexFunc(v, func(r rune) bool { return r < '!' || r > '~' }) >= 0:
		return Token{}, fmt.Errorf("has characters no token has; %s", tokenSource)
	}
	return Token{v}, nil
}

func tooPowerful(kind string) error {
	return fmt.Errorf("holds %s, which is far too powerful to keep on a runner and is not accepted here; "+
		"revoke it and %s", kind, tokenSource)
}
