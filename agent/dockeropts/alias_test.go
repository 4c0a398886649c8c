package dockeropts

import (
	"strings"
	"testing"
)

func TestAlias(t *testing.T) {
	tests := []struct{ image, want string }{
		{"redis", "redis"},
		{"redis:7-alpine", "redis"},
		{"docker://redis:7", "redis"},
		{"public.ecr.aws/url/x/postgres:latest", "postgres"},
		{"localhost:5000/a/redis@sha256:0123abcd", "redis"},
		{"localhost:5000/redis:7@sha256:0123abcd", "redis"},
		{"ghcr.io/a/my-app", "my-app"},
		{"ghcr.io/a/my_app", ""},
		{"ghcr.io/a/my.app", ""},
		{"", ""},
		{":latest", ""},
		{"a/:latest", ""},
		{"a/-b", ""},
		{"a\nb", ""},
		{strings.Repeat("a", 63), strings.Repeat("a", 63)},
		{strings.Repeat("a", 64), ""},
	}
	for _, tt := range tests {
		if got := Alias(tt.image); got != tt.want {
			t.Errorf("Alias(%q) is %q; want %q", tt.image, got, tt.want)
		}
	}
}
