package dockeropts

import (
	"strings"
	"testing"
)

func TestAlias(t *testing.T) {
	tests := []struct{ image, want string }{
		{image: "redis", want: "redis"},
		{image: "redis:7-alpine", want: "redis"},
		{image: "docker://redis:7", want: "redis"},
		{image: "public.ecr.aws/url/x/postgres:latest", want: "postgres"},
		{image: "localhost:5000/a/redis@sha256:0123abcd", want: "redis"},
		{image: "localhost:5000/redis:7@sha256:0123abcd", want: "redis"},
		{image: "ghcr.io/a/my-app", want: "my-app"},
		{image: "ghcr.io/a/my_app", want: "my_app"}, // V18
		{image: "ghcr.io/a/my.app:1", want: "my.app"},
		{image: "", want: ""},
		{image: ":latest", want: ""},
		{image: "a/:latest", want: ""},
		{image: "a/-b", want: ""},
		{image: "a\nb", want: ""},
		{image: strings.Repeat("a", 63), want: strings.Repeat("a", 63)},
		{image: strings.Repeat("a", 64), want: ""},
	}
	for _, tt := range tests {
		if got := Alias(tt.image); got != tt.want {
			t.Errorf("Alias(%q) is %q; want %q", tt.image, got, tt.want)
		}
	}
}
